//! Why the events of a stream are not sent.

use super::{Facts, LONG_WAIT, Reason};
use crate::admin::view::peers::{StreamView, running};
use crate::eventbox::STREAM_KIND;
use crate::recipient::Recipient;

/// Returns whether a recipient is the eventbox of a stream.
pub(super) fn is_stream(of: &Recipient) -> bool {
    of.kind().starts_with(STREAM_KIND)
}

fn peer_of(of: &Recipient) -> &str {
    of.kind().strip_prefix(STREAM_KIND).unwrap_or_default()
}

impl Facts {
    pub(super) fn of_stream(&self, of: &Recipient) -> Reason {
        if let Some(reason) = self.stopped() {
            return reason;
        }
        match &self.stream {
            Some(stream) if !stream.is_alive => {
                Reason::StreamSilent { worker: stream.worker, silent_for: stream.silent_for }
            }
            Some(stream) => self.of_open_stream(of, stream),
            None if running(peer_of(of), &self.members).next().is_none() => {
                Reason::PeerNotRunning { peer: peer_of(of).to_owned() }
            }
            None => Reason::StreamClosed { peer: peer_of(of).to_owned() },
        }
    }

    fn of_open_stream(&self, of: &Recipient, stream: &StreamView) -> Reason {
        let (worker, waiting) = (stream.worker, self.events);
        let oldest_at = self.oldest_at().unwrap_or(self.now);
        let mut failing = self.members.iter().filter(|member| member.worker == worker).flat_map(|by| &by.failing);
        if let Some(failing) = failing.find(|failing| failing.recipient == *of) {
            return Reason::StreamFailing { worker, waiting, oldest_at, error: failing.error.clone() };
        }
        // What was emitted before the stream was open could not be sent.
        let since = oldest_at.max(stream.started_at);
        if self.now.duration_since(since).unwrap_or_default() < LONG_WAIT {
            return Reason::StreamSending { worker, waiting, oldest_at };
        }
        match &self.old {
            Some(old) => Reason::OldTransaction { transaction: old.to_string() },
            None => Reason::StreamSlow { worker, started_at: stream.started_at, waiting, oldest_at },
        }
    }

    /// Returns a reason of a stream as a sentence, and what to do.
    pub(super) fn words_of_stream(&self, of: &Recipient, reason: &Reason, waiting: &str) -> (String, String) {
        let (peer, stream) = (peer_of(of), of.key());
        match reason {
            Reason::StreamClosed { .. } => (
                format!("Stream {stream} of peer {peer} is not open; {waiting}."),
                format!(
                    "The mapping of the peer (undelivered) decides: events stay until the stream comes back, or leave \
                     within seconds. Those in quarantine: eventbox dead list --recipient {of}"
                ),
            ),
            Reason::StreamSilent { worker, silent_for } => (
                match silent_for {
                    Some(silent_for) => format!(
                        "Stream {stream} of peer {peer} is open in {}, which has been silent for {} s; {waiting}.",
                        self.address(worker),
                        silent_for.as_secs()
                    ),
                    None => format!(
                        "Stream {stream} of peer {peer} is open in {worker}, which is no member any more; {waiting}."
                    ),
                },
                format!(
                    "Start a process that runs {peer}: it ends streams of dead processes, and their events go where \
                     the mapping says."
                ),
            ),
            Reason::StreamFailing { worker, oldest_at, error, .. } => (
                format!(
                    "Stream {stream} of peer {peer} is open in {}, and cannot send; {waiting}, the oldest since {}. \
                     The error: {error}",
                    self.address(worker),
                    self.ago(*oldest_at)
                ),
                "Repair the other side, or the way to it. The breaker of the stream lets a batch pass as a probe from \
                 time to time, and the first success closes it."
                    .to_owned(),
            ),
            Reason::StreamSlow { worker, started_at, oldest_at, .. } => (
                format!(
                    "Stream {stream} of peer {peer} is open in {} since {}, and the other side does not acknowledge; \
                     {waiting}, the oldest since {}.",
                    self.address(worker),
                    self.ago(*started_at),
                    self.ago(*oldest_at)
                ),
                "Look at the other side, and into the log of that process.".to_owned(),
            ),
            Reason::StreamSending { worker, oldest_at, .. } => (
                format!(
                    "Nothing is wrong: {} sends {of}; {waiting}, the oldest since {}.",
                    self.address(worker),
                    self.ago(*oldest_at)
                ),
                format!("If the age grows, the other side is too slow: eventbox peer streams {peer}"),
            ),
            _ => (
                format!("No living process runs peer {peer}; {waiting}."),
                format!("Start one that declares {peer}: eventbox peer run. To see what runs: eventbox peer list"),
            ),
        }
    }
}
