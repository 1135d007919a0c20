//! The seam between the service and the place where published events go.

use async_trait::async_trait;
use tonic::Status;

use crate::proto::chipingress::pb::PublishErrorCode;
use crate::proto::io::cloudevents::v1::CloudEvent;

/// A place for published events other than the server's own log.
///
/// The server has checked the events before it passes them on, and answers the call with what the sink returns. Use it
/// to make the service a door into something else; [`IngressBuilder::sink`](super::IngressBuilder::sink) installs it.
///
/// # Examples
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
/// use eventbox::ingress::{Ingress, NotTaken, Sink, Taken};
/// use eventbox::proto::io::cloudevents::v1::CloudEvent;
///
/// /// Takes events with a payload, and forgets them.
/// #[derive(Default)]
/// struct Counter(AtomicUsize);
///
/// #[async_trait::async_trait]
/// impl Sink for Counter {
///     async fn take(&self, events: Vec<CloudEvent>, _all_or_nothing: bool) -> Result<Vec<Taken>, NotTaken> {
///         self.0.fetch_add(events.len(), Ordering::Relaxed);
///         Ok(events.iter().map(|_| Taken::Kept).collect())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Ingress::builder().sink(Arc::new(Counter::default())).serve("127.0.0.1:0").await?;
/// server.stop(std::time::Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[async_trait]
pub trait Sink: Send + Sync + 'static {
    /// Takes the valid events of one call, in their order, and returns one answer for each after the commit.
    ///
    /// With `all_or_nothing` it keeps either all events or none: an answer other than [`Taken::Kept`] then means that
    /// it kept none.
    ///
    /// # Errors
    ///
    /// [`NotTaken`] when the call as a whole failed. The client sends its events again, so the sink must recognise
    /// them.
    async fn take(&self, events: Vec<CloudEvent>, all_or_nothing: bool) -> Result<Vec<Taken>, NotTaken>;
}

/// The answer of a [`Sink`] for one event.
///
/// # Examples
///
/// ```
/// use eventbox::ingress::Taken;
/// use eventbox::proto::chipingress::pb::PublishErrorCode;
///
/// let answer = Taken::Refused { code: PublishErrorCode::ValidationFailed, reason: "it has no subject".to_owned() };
/// assert_ne!(answer, Taken::Kept);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Taken {
    /// The event is kept, now or by an earlier call.
    Kept,
    /// The event can never be kept.
    Refused {
        /// The code of the answer.
        code: PublishErrorCode,
        /// The reason, for the sender of the event.
        reason: String,
    },
}

/// Why a [`Sink`] took no event of a call. The client may send them again.
///
/// # Examples
///
/// ```
/// use eventbox::ingress::NotTaken;
///
/// let full = NotTaken::Unavailable { reason: "the queue is full: try again later".to_owned() };
/// assert_eq!(full.to_string(), "the queue is full: try again later");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotTaken {
    /// Trying again may help: UNAVAILABLE.
    #[error("{reason}")]
    Unavailable {
        /// The reason, for the client.
        reason: String,
    },
    /// Trying again does not help before somebody repairs the server: INTERNAL.
    #[error("{reason}")]
    Failed {
        /// The reason, for the client.
        reason: String,
    },
}

impl From<NotTaken> for Status {
    fn from(reason: NotTaken) -> Self {
        match reason {
            NotTaken::Unavailable { reason } => Status::unavailable(reason),
            NotTaken::Failed { reason } => Status::internal(reason),
        }
    }
}
