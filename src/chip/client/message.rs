//! An event on its way, and what becomes of it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::Instant;

use crate::chip::answer::outcome::SendError;
use crate::chip::client::batch::{Callback, Sent};
use crate::chip::client::split::field_bytes;
use crate::cloudevent::CloudEvent;
use crate::room::Place;

/// An event on its way, with what is to happen when its fate is known. Dropping it is a fate too.
pub(crate) struct Work {
    pub(crate) event: Option<CloudEvent>,
    /// The size of the event.
    pub(crate) bytes: usize,
    /// The attempt, where there are several.
    pub(crate) attempt: i32,
    send_before: Option<Instant>,
    queued_at: Instant,
    callback: Option<Callback>,
    /// Its place in the queue, which it keeps while it is sent.
    _place: Place,
}

impl Work {
    pub(crate) fn new(
        event: CloudEvent,
        place: Place,
        attempt: i32,
        send_before: Option<Instant>,
        callback: Option<Callback>,
    ) -> Self {
        let bytes = event.encoded_len();
        Work { event: Some(event), bytes, attempt, send_before, queued_at: Instant::now(), callback, _place: place }
    }

    /// Forgets the callback: the caller is told in another way.
    pub(crate) fn refuse(mut self) {
        self.callback = None;
    }

    pub(crate) fn settled(self, result: Result<(), SendError>, alone: bool) -> Settled {
        Settled { work: self, result, alone }
    }

    pub(crate) fn too_late(&self) -> bool {
        self.send_before.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn call(&mut self, result: Result<(), SendError>, alone: bool) {
        if let Some(callback) = self.callback.take() {
            let sent = Sent { result, alone, elapsed: self.queued_at.elapsed(), event: self.event.take() };
            if catch_unwind(AssertUnwindSafe(|| callback(sent))).is_err() {
                tracing::error!("the callback of an event panicked");
            }
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.call(Err(SendError::Shutdown), false);
    }
}

/// The size of a request with these events, whose options take so many bytes.
pub(crate) fn request_bytes(options_bytes: usize, events: &[Work]) -> usize {
    options_bytes + events.iter().map(|work| field_bytes(work.bytes)).sum::<usize>()
}

/// An event whose fate is known.
pub(crate) struct Settled {
    work: Work,
    result: Result<(), SendError>,
    alone: bool,
}

impl Settled {
    pub(crate) fn run(mut self) {
        let result = std::mem::replace(&mut self.result, Ok(()));
        self.work.call(result, self.alone);
    }
}
