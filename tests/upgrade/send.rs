//! A sender: it emits the numbers of its lane, and notes each attempt and each acknowledgement outside the database.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventbox::{BoxError, Emitted, Event, Recipient};
use sqlx::Pool;
use tokio::time::sleep;

use crate::engine::Engine;
use crate::numbers::{box_of, due_in_ms, is_named, number};
use crate::told_to_stop;

/// Pause between two emits.
const PAUSE: Duration = Duration::from_millis(4);

/// Pause before a failed emit is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// One in so many places begins a group, which is emitted at once.
const GROUP_EVERY: u64 = 64;

/// Places of a group.
const GROUP: u64 = 8;

/// Where a sender begins.
pub(crate) struct Lane {
    pub(crate) lane: u64,
    /// First place. Events between it and `fresh` may exist already, and those with a name are sent again.
    pub(crate) from: u64,
    /// First place that no sender has tried.
    pub(crate) fresh: u64,
}

/// The notes of a lane: `a` an attempt, `k` added, `d` refused because the event was there already. A dot ends each
/// note, so that one that a kill cut off is known.
struct Notes(File);

impl Notes {
    fn open(path: &Path) -> Result<Self, BoxError> {
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        // An earlier sender may have been killed within a line.
        file.write_all(b"\n")?;
        Ok(Notes(file))
    }

    fn add(&mut self, sort: char, numbers: &[u64]) -> Result<(), BoxError> {
        let lines: String = numbers.iter().map(|number| format!("{sort} {number}.\n")).collect();
        Ok(self.0.write_all(lines.as_bytes())?)
    }
}

fn sort_of(emitted: Emitted) -> char {
    if emitted == Emitted::Added { 'k' } else { 'd' }
}

/// Emits until it is told to stop.
pub(crate) async fn send<E: Engine>(pool: &Pool<E>, from: &Lane, oracle: &Path) -> Result<(), BoxError> {
    let mut notes = Notes::open(&oracle.join(format!("sent-{}.txt", from.lane)))?;
    let over = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let over = Arc::clone(&over);
        async move {
            told_to_stop().await;
            over.store(true, Ordering::Relaxed);
        }
    });
    let mut place = from.from;
    while !over.load(Ordering::Relaxed) {
        let places = if place.is_multiple_of(GROUP_EVERY) { GROUP } else { 1 };
        let numbers = (place..place + places).filter(|place| is_to_be_sent(from, *place));
        let numbers: Vec<u64> = numbers.map(|place| number(from.lane, place)).collect();
        let (named, plain): (Vec<u64>, Vec<u64>) = numbers.into_iter().partition(|number| is_named(*number));
        put_named(pool, &mut notes, &named, &over).await?;
        for number in plain {
            put_plain(pool, &mut notes, number).await?;
        }
        place += places;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// An event without a name is sent once, because a repeat would be another event.
fn is_to_be_sent(from: &Lane, place: u64) -> bool {
    place >= from.fresh || is_named(number(from.lane, place))
}

/// Emits events with names, until they are acknowledged.
async fn put_named<E: Engine>(
    pool: &Pool<E>,
    notes: &mut Notes,
    numbers: &[u64],
    over: &AtomicBool,
) -> Result<(), BoxError> {
    if numbers.is_empty() {
        return Ok(());
    }
    notes.add('a', numbers)?;
    loop {
        let emitted = match numbers {
            [one] => {
                let (to, event) = event_of(*one)?;
                E::put(pool, &to, event).await.map(|receipt| vec![receipt.emitted()])
            }
            many => {
                let events = many.iter().map(|number| event_of(*number)).collect::<Result<Vec<_>, _>>()?;
                E::put_all(pool, &events).await
            }
        };
        match emitted {
            Ok(emitted) => {
                for (emitted, number) in emitted.into_iter().zip(numbers) {
                    notes.add(sort_of(emitted), &[*number])?;
                }
                return Ok(());
            }
            Err(error) => eprintln!("{error}"),
        }
        if over.load(Ordering::Relaxed) {
            return Ok(());
        }
        sleep(RETRY).await;
    }
}

/// Emits an event without a name. After an error it may exist or not.
async fn put_plain<E: Engine>(pool: &Pool<E>, notes: &mut Notes, number: u64) -> Result<(), BoxError> {
    notes.add('a', &[number])?;
    let (to, event) = event_of(number)?;
    match E::put(pool, &to, event).await {
        Ok(receipt) => notes.add(sort_of(receipt.emitted()), &[number]),
        Err(error) => {
            eprintln!("{error}");
            Ok(())
        }
    }
}

fn event_of(number: u64) -> Result<(Recipient, Event), BoxError> {
    let (kind, key) = box_of(number);
    let mut event = Event::new(number.to_string());
    if is_named(number) {
        event = event.named(number.to_string());
    }
    if let Some(due_in) = due_in_ms(number) {
        event = event.due_in(Duration::from_millis(due_in));
    }
    Ok((Recipient::new(kind, key.to_string())?, event))
}
