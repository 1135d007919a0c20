//! The results of a request, each with its event.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::chip::answer::outcome::{EventErrorCode, SendError};
use crate::chip::client::config::EmptyResults;
use crate::chip::client::request::Sender;
use crate::proto::chipingress::pb::{CloudEventBatch, PublishResponse};

impl Sender {
    /// The result of each event, by position.
    pub(crate) fn results(&self, batch: &CloudEventBatch, response: PublishResponse) -> Vec<Result<(), SendError>> {
        let (wanted, got) = (batch.events.len(), response.results.len());
        if self.config().transaction_enabled {
            return vec![Ok(()); wanted];
        }
        let renamed =
            response.results.iter().zip(&batch.events).any(|(result, event)| {
                !result.event_id.is_empty() && !event.id.is_empty() && result.event_id != event.id
            });
        if got != wanted || renamed {
            self.metrics().mismatch();
            let empty = got == 0 && self.config().empty_results == EmptyResults::Success;
            if !empty || !self.warned_of_empty.swap(true, Ordering::Relaxed) {
                tracing::warn!(wanted, got, renamed, "the results of a batch do not match its events");
            }
            if empty {
                return vec![Ok(()); wanted];
            }
        }
        let mut results: Vec<_> = response
            .results
            .into_iter()
            .take(wanted)
            .map(|result| match result.error {
                None => Ok(()),
                Some(error) => Err(SendError::Event { code: EventErrorCode(error.error_code), reason: error.reason }),
            })
            .collect();
        results.resize_with(wanted, || {
            let reason = format!("server returned {got} results for {wanted} events");
            Err(SendError::Event { code: EventErrorCode::RESULTS_MISMATCH, reason })
        });
        self.tell_refused(&results);
        results
    }

    /// Puts the events that the server refused into the log, by their codes.
    pub(crate) fn tell_refused(&self, results: &[Result<(), SendError>]) {
        let mut refused = BTreeMap::new();
        for error in results.iter().filter_map(|result| result.as_ref().err()) {
            refused.entry(error.code()).or_insert((0, error)).0 += 1;
        }
        for (code, (events, error)) in refused {
            self.failures().events(code, events, &error.to_string());
        }
    }
}
