//! What eventboxes tell through the `metrics` facade. The label is the recipient's kind, except where events of several kinds are counted together; counts are made after the commit.

use std::time::{Duration, SystemTime};

use metrics::{counter, gauge, histogram};

use super::emit::Emitted;
use super::event::EventId;
use super::process::Turn;
use crate::error::{Error, Result};
use crate::recipient::Recipient;
use crate::store::{Class, Fault, ListedRow};

const LIST_DURATION: &str = "eventbox_list_duration_ms";
const SENT: &str = "eventbox_sent_total";
const REMOVED: &str = "eventbox_removed_total";
const SIZE: &str = "eventbox_size";
const OLDEST_AGE: &str = "eventbox_oldest_age_seconds";
const CONTENTION: &str = "eventbox_contention_total";
const PROCESS_DURATION: &str = "eventbox_process_duration_ms";
const BATCH_EVENTS: &str = "eventbox_batch_events";
const TRANSITIONS: &str = "eventbox_transitions_total";
const GARBAGE: &str = "eventbox_garbage_total";
const SEND_GROUP_EVENTS: &str = "eventbox_send_group_events";
const QUARANTINED: &str = "eventbox_quarantined_total";
const DUPLICATES: &str = "eventbox_duplicates_total";

/// Events were taken aside because they kept failing.
pub(super) fn quarantined(kind: &str, events: usize) {
    counter!(QUARANTINED, "kind" => kind.to_owned()).increment(events as u64);
}

/// A listing ended.
pub(super) fn listed(kind: &str, elapsed: Duration, rows: Result<&[ListedRow], &Fault>) {
    let result = match rows {
        Ok(_) => "OK",
        Err(fault) if fault.class() == Class::Transient => "TIMEOUT",
        Err(_) => "FAILURE",
    };
    histogram!(LIST_DURATION, "kind" => kind.to_owned(), "result" => result).record(milliseconds(elapsed));
    if let Ok(rows) = rows {
        #[allow(clippy::cast_precision_loss, reason = "a page of a box is far smaller than the precision")]
        gauge!(SIZE, "kind" => kind.to_owned()).set(rows.len() as f64);
        let emitted_at = rows.first().map(|row| EventId(row.id).emitted_at());
        let age = emitted_at.and_then(|emitted_at| SystemTime::now().duration_since(emitted_at).ok());
        gauge!(OLDEST_AGE, "kind" => kind.to_owned()).set(age.unwrap_or_default().as_secs_f64());
    }
}

/// An emit was answered. Inside a caller's transaction that is before its commit.
pub(super) fn emitted(to: &Recipient, answer: Emitted) {
    let name = if answer == Emitted::Added { SENT } else { DUPLICATES };
    counter!(name, "kind" => to.kind().to_owned()).increment(1);
}

/// A sender puts so many events into one insert.
pub(super) fn sent_group(events: usize) {
    #[allow(clippy::cast_precision_loss, reason = "a group is far smaller than the precision")]
    histogram!(SEND_GROUP_EVENTS).record(events as f64);
}

/// Another writer came first.
pub(super) fn contention(kind: &str) {
    counter!(CONTENTION, "kind" => kind.to_owned()).increment(1);
}

/// A turn committed.
pub(super) fn committed(kind: &str, events: usize, transitions: usize, consumed: usize, garbage: usize) {
    #[allow(clippy::cast_precision_loss, reason = "a batch is far smaller than the precision")]
    histogram!(BATCH_EVENTS, "kind" => kind.to_owned()).record(events as f64);
    for (name, count) in [(TRANSITIONS, transitions), (REMOVED, consumed + garbage), (GARBAGE, garbage)] {
        counter!(name, "kind" => kind.to_owned()).increment(count as u64);
    }
}

/// A call ended, with a turn or without one.
pub(super) fn processed(kind: &str, elapsed: Duration, done: &Result<Turn>) {
    let result = match done {
        Ok(Turn { number: Some(_), .. }) => "committed",
        Ok(_) => "nothing",
        Err(Error::Contention { .. }) => "contention",
        Err(Error::Transient { .. }) => "transient",
        Err(Error::Unknown { .. }) => "unknown",
        Err(Error::Paused { .. }) => "paused",
        Err(_) => "failed",
    };
    histogram!(PROCESS_DURATION, "kind" => kind.to_owned(), "result" => result).record(milliseconds(elapsed));
}

fn milliseconds(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1_000.0
}
