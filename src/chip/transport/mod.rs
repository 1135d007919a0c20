//! The seam between the emitter and the wire.

pub(crate) mod connection;
pub(crate) mod grpc;
pub(crate) mod noop;

use std::time::Duration;

use async_trait::async_trait;
use tonic::Status;

use crate::proto::chipingress::pb::{CloudEventBatch, PublishResponse};
use crate::proto::io::cloudevents::v1::CloudEvent;

/// How batches leave the process: [`GrpcTransport`](crate::chip::GrpcTransport) over gRPC,
/// [`NoopTransport`](crate::chip::NoopTransport) into the void, or one of your own.
///
/// A call answers before its timeout, or the caller gives it up and its outcome is unknown. It must not retry a batch by itself: the
/// outbox owns retries.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Publishes a batch. The results belong to the events by their position.
    async fn publish_batch(&self, batch: &CloudEventBatch, timeout: Duration) -> Result<PublishResponse, Status>;

    /// Publishes one event. Its result may be an error too.
    async fn publish(&self, event: &CloudEvent, timeout: Duration) -> Result<PublishResponse, Status>;

    /// Names where it sends, for the log.
    fn destination(&self) -> String {
        "the transport of the application".to_owned()
    }

    /// Makes new credentials before the next call, because the server refused the ones it got.
    async fn refresh_credentials(&self) {}

    /// Releases what the transport holds. Called once, when nothing is sent any more.
    async fn close(&self) {}
}
