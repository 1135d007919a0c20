//! Named emits on a pool, for names that an open transaction of another process or task holds.
//!
//! The first attempt waits for a short time. An emit without its name then joins the line of its pool. Only a few emits
//! of the line hold a connection at once, so that other work finds connections. A statement that does not get its names
//! in time is rolled back, and the next attempt sends the same ids.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Pool, Postgres};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use crate::store::fault::{Class, Fault};
use crate::store::inbox::event::{EventRow, NAME_WAIT};

/// Time that the first and the last attempt wait for their names.
const FIRST_WAIT: Duration = Duration::from_millis(20);

/// Time that an attempt of the line waits for its names with a connection.
const LINE_WAIT: Duration = Duration::from_millis(200);

/// Time for which an emit of the line leaves its connection to other work between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// One connection in this many of a pool may wait for names, and at least one.
const SHARE: u32 = 4;

/// The lines, by the address of their pools' options. Clones of a pool share a line.
static LINES: Mutex<Option<HashMap<usize, Weak<Line>>>> = Mutex::new(None);

/// The waiting named emits of a pool.
struct Line {
    /// Permits to wait with a connection.
    places: Semaphore,
    /// The hashes of the names that emits wait for, and the number of those emits. Two names with the same hash only
    /// send an emit to the line.
    names: Mutex<HashMap<u64, usize>>,
    /// Keeps the options, so that no other pool's options have their address.
    _options: Arc<PgConnectOptions>,
}

/// Inserts events with and without names. Waits for names for at most [`NAME_WAIT`]. `attempt` inserts the rows, and
/// waits for their names no longer than the time that it is given.
pub(in crate::store::postgres) async fn insert<T, F>(
    pool: &Pool<Postgres>,
    rows: &[EventRow<'_>],
    attempt: impl Fn(Duration) -> F,
) -> Result<T, Fault>
where
    F: Future<Output = Result<T, Fault>>,
{
    let until = Instant::now() + NAME_WAIT;
    let line = line_of(pool);
    // Another transaction holds the names of a line: an attempt at once would take a connection for nothing.
    if !line.waits_for(rows) {
        match attempt(FIRST_WAIT).await {
            Err(fault) if fault.class() == Class::Contention => {}
            done => return done,
        }
    }
    let _waiting = Waiting::of(&line, rows);
    while let Ok(place) = timeout_at(until, line.places.acquire()).await {
        let inserted = attempt(LINE_WAIT.min(until.duration_since(Instant::now()))).await;
        match inserted {
            Err(fault) if fault.class() == Class::Contention && Instant::now() + PAUSE < until => {}
            done => return done,
        }
        // With the permit, so that the others of the line leave the connection to other work.
        sleep(PAUSE).await;
        drop(place);
    }
    attempt(FIRST_WAIT).await
}

impl Line {
    fn names(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits_for(&self, rows: &[EventRow<'_>]) -> bool {
        let names = self.names();
        !names.is_empty() && hashes(rows).any(|hash| names.contains_key(&hash))
    }
}

/// An emit in the line.
struct Waiting<'a> {
    line: &'a Line,
    hashes: Vec<u64>,
}

impl<'a> Waiting<'a> {
    fn of(line: &'a Line, rows: &[EventRow<'_>]) -> Self {
        let hashes: Vec<u64> = hashes(rows).collect();
        let mut names = line.names();
        for hash in &hashes {
            *names.entry(*hash).or_default() += 1;
        }
        drop(names);
        Waiting { line, hashes }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut names = self.line.names();
        for hash in &self.hashes {
            if let Some(count) = names.get_mut(hash) {
                *count -= 1;
                if *count == 0 {
                    names.remove(hash);
                }
            }
        }
    }
}

fn hashes(rows: &[EventRow<'_>]) -> impl Iterator<Item = u64> {
    rows.iter().filter_map(|row| {
        let name = row.name?;
        let mut hasher = DefaultHasher::new();
        (row.recipient, name).hash(&mut hasher);
        Some(hasher.finish())
    })
}

/// Returns the line of a pool, which lives as long as an emit uses it.
fn line_of(pool: &Pool<Postgres>) -> Arc<Line> {
    let options = pool.connect_options();
    let key = Arc::as_ptr(&options).addr();
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = lines.get_or_insert_default();
    if let Some(line) = lines.get(&key).and_then(Weak::upgrade) {
        return line;
    }
    lines.retain(|_, line| line.strong_count() > 0);
    let places = usize::try_from(pool.options().get_max_connections() / SHARE).unwrap_or(1).max(1);
    let line = Arc::new(Line { places: Semaphore::new(places), names: Mutex::default(), _options: options });
    lines.insert(key, Arc::downgrade(&line));
    line
}
