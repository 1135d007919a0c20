//! A sender process: it emits the numbers of its lane, and notes each attempt and each acknowledgement in a file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventbox::{Event, Recipient};
use sqlx::PgPool;
use tokio::time::sleep;

use super::super::report::Result;
use super::numbers::{box_of, is_named, number};
use super::oracle::Notes;
use super::process::told_to_stop;

/// Pause between two emits.
const PAUSE: Duration = Duration::from_millis(30);

/// Pause before a failed emit is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// Emits until it is told to stop.
pub(crate) async fn send(pool: &PgPool, lane: u64, folder: &Path) -> Result<()> {
    let mut notes = Notes::of_sender(folder, lane)?;
    let is_over = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let is_over = Arc::clone(&is_over);
        async move {
            told_to_stop().await;
            is_over.store(true, Ordering::Relaxed);
        }
    });
    let mut place = 0;
    while !is_over.load(Ordering::Relaxed) {
        let number = number(lane, place);
        notes.attempt(number)?;
        let mut is_acknowledged = put(pool, number).await;
        // An event without a name is sent once, because a repeat would be another event.
        while !is_acknowledged && is_named(number) && !is_over.load(Ordering::Relaxed) {
            sleep(RETRY).await;
            is_acknowledged = put(pool, number).await;
        }
        if is_acknowledged {
            notes.acknowledge(number)?;
        }
        place += 1;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Emits an event. Returns whether the emit was acknowledged; after an error the event may exist or not.
pub(crate) async fn put(pool: &PgPool, number: u64) -> bool {
    let (kind, key) = box_of(number);
    let Ok(to) = Recipient::new(kind, key) else { return false };
    let mut event = Event::new(number.to_string());
    if is_named(number) {
        event = event.named(number.to_string());
    }
    let emitted = eventbox::emit(pool, &to, event).await;
    if let Err(error) = &emitted {
        eprintln!("{number}: {error}");
    }
    emitted.is_ok()
}
