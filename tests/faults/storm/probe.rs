//! New events that measure how long the service needs after a fault.

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use eventbox::{pool_options, postgres_options};
use sqlx::{PgPool, Postgres};
use tokio::time::{sleep, timeout};

use super::super::report::Result;
use super::numbers::{ALL_BOXES, box_of, is_named, number};
use super::oracle::Notes;
use super::sender::put;
use super::worker::seen;

/// Connections of the probe.
const CONNECTIONS: u32 = 4;

/// Longest wait for the service to work again.
const GIVE_UP: Duration = Duration::from_secs(120);

/// Longest time of a question for a state.
const QUESTION: Duration = Duration::from_secs(3);

/// Pause between two attempts, and between two questions.
const PAUSE: Duration = Duration::from_millis(50);

/// Times from a fault on, seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Back {
    /// Until the first new event was acknowledged.
    pub(crate) emit_s: f64,
    /// Until every box had applied a new event.
    pub(crate) applied_s: f64,
}

pub(crate) struct Probe {
    pub(crate) pool: PgPool,
    lane: u64,
    place: u64,
    notes: Mutex<Notes>,
}

impl Probe {
    pub(crate) fn new(url: &str, lane: u64, folder: &Path) -> Result<Self> {
        let pool = pool_options::<Postgres>().max_connections(CONNECTIONS).connect_lazy_with(postgres_options(url)?);
        Ok(Probe { pool, lane, place: 0, notes: Mutex::new(Notes::of_sender(folder, lane)?) })
    }

    /// Emits a new event to every box, and waits until all of them are applied. The times count from `fault` on.
    pub(crate) async fn back_at_work(&mut self, fault: Instant) -> Result<Back> {
        let fresh: Vec<u64> = (self.place..self.place + ALL_BOXES).map(|place| number(self.lane, place)).collect();
        self.place += ALL_BOXES;
        let all = fresh.iter().map(|number| self.once(*number, fault));
        let times = futures_util::future::try_join_all(all).await?;
        let emit_s = times.iter().map(|back| back.emit_s).fold(f64::INFINITY, f64::min);
        let applied_s = times.iter().map(|back| back.applied_s).fold(0.0, f64::max);
        Ok(Back { emit_s, applied_s })
    }

    /// Emits an event until it is acknowledged, and waits until it is applied. An event without a name is emitted once.
    async fn once(&self, number: u64, fault: Instant) -> Result<Back> {
        self.note(|notes| notes.attempt(number))?;
        let mut emit_s = f64::INFINITY;
        while fault.elapsed() < GIVE_UP {
            if put(&self.pool, number).await.is_ok() {
                emit_s = fault.elapsed().as_secs_f64();
                self.note(|notes| notes.acknowledge(number))?;
                break;
            }
            if !is_named(number) {
                // It may exist or not, so nothing waits for it.
                return Ok(Back { emit_s, applied_s: 0.0 });
            }
            sleep(PAUSE).await;
        }
        let (kind, key) = box_of(number);
        while fault.elapsed() < GIVE_UP {
            let read = timeout(QUESTION, seen(&self.pool, kind, &key)).await;
            if read.is_ok_and(|read| read.is_ok_and(|seen| seen.contains(&number))) {
                return Ok(Back { emit_s, applied_s: fault.elapsed().as_secs_f64() });
            }
            sleep(PAUSE).await;
        }
        Ok(Back { emit_s, applied_s: GIVE_UP.as_secs_f64() })
    }

    fn note(&self, note: impl FnOnce(&mut Notes) -> std::io::Result<()>) -> Result<()> {
        Ok(note(&mut *self.notes.lock().map_err(|_| "another task has panicked")?)?)
    }
}
