//! A transport that sends nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use tonic::Status;

use crate::chip::transport::Transport;
use crate::proto::chip_common::Schema;
use crate::proto::chipingress::pb::{CloudEventBatch, PublishResponse};
use crate::proto::io::cloudevents::v1::CloudEvent;

/// Accepts every event and sends nothing, for programs that run without a Chip Ingress.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopTransport;

impl NoopTransport {
    /// Returns `pong`.
    ///
    /// # Errors
    ///
    /// None.
    pub async fn ping(&self, _limit: Duration) -> Result<String, Status> {
        Ok("pong".to_owned())
    }

    /// Registers nothing.
    ///
    /// # Errors
    ///
    /// None.
    pub async fn register_schemas(
        &self,
        _schemas: Vec<Schema>,
        _limit: Duration,
    ) -> Result<BTreeMap<String, i32>, Status> {
        Ok(BTreeMap::new())
    }
}

#[async_trait]
impl Transport for NoopTransport {
    async fn publish_batch(&self, _batch: &CloudEventBatch, _timeout: Duration) -> Result<PublishResponse, Status> {
        Ok(PublishResponse::default())
    }

    async fn publish(&self, _event: &CloudEvent, _timeout: Duration) -> Result<PublishResponse, Status> {
        Ok(PublishResponse::default())
    }
}
