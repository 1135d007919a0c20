//! The seam between the client and the wire.

pub(crate) mod connection;
pub(crate) mod grpc;
pub(crate) mod noop;

use std::time::Duration;

use async_trait::async_trait;
use tonic::Status;

use crate::proto::chipingress::pb::{CloudEventBatch, PublishResponse};
use crate::proto::io::cloudevents::v1::CloudEvent;

/// Way of batches out of the process: [`GrpcTransport`](crate::chip::GrpcTransport) over gRPC,
/// [`NoopTransport`](crate::chip::NoopTransport) to nowhere, or one of your own.
///
/// A call returns before its timeout, or the client drops it and its outcome is unknown. A transport must not retry a
/// batch by itself, because the outbox owns the retries.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Publishes a batch. The results belong to the events by their position.
    async fn publish_batch(&self, batch: &CloudEventBatch, timeout: Duration) -> Result<PublishResponse, Status>;

    /// Publishes one event. Its result may be an error too.
    async fn publish(&self, event: &CloudEvent, timeout: Duration) -> Result<PublishResponse, Status>;

    /// Returns the name of the destination, for the log.
    fn destination(&self) -> String {
        "the transport of the application".to_owned()
    }

    /// Makes new credentials before the next call, after the server refused the last ones.
    async fn refresh_credentials(&self) {}

    /// Closes the transport. The client calls it once, after its last request.
    async fn close(&self) {}
}
