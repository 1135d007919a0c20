//! A sender process: it emits the numbers of its lane, and notes each attempt and each acknowledgement in a file.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventbox::{Event, Receipt, Recipient};
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
        loop {
            match put(pool, number).await {
                Ok(_) => {
                    notes.acknowledge(number)?;
                    break;
                }
                Err(error) => eprintln!("{number}: {error}"),
            }
            // An event without a name is sent once, because a repeat would be another event.
            if !is_named(number) || is_over.load(Ordering::Relaxed) {
                break;
            }
            sleep(RETRY).await;
        }
        place += 1;
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Emits an event once. After an error the event may exist or not.
pub(crate) async fn put(pool: &PgPool, number: u64) -> eventbox::Result<Receipt> {
    let (kind, key) = box_of(number);
    let mut event = Event::new(number.to_string());
    if is_named(number) {
        event = event.named(number.to_string());
    }
    eventbox::emit(pool, &Recipient::new(kind, key)?, event).await
}
