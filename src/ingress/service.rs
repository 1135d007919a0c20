//! The service as gRPC knows it.

use std::sync::Arc;

use sqlx::SqlitePool;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::publish::{Publisher, store_failed};
use super::store;
use crate::proto::chipingress::pb::chip_ingress_server::ChipIngress;
use crate::proto::chipingress::pb::{
    CloudEventBatch, EmptyRequest, PingResponse, PublishResponse, RegisterSchemaRequest, RegisterSchemaResponse,
    StreamEventsRequest, StreamEventsResponse,
};
use crate::proto::io::cloudevents::v1::CloudEvent;

/// How many calls one connection may have open at a time.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 256;

/// How many answers of a StreamEvents call wait for their reader.
const STREAM_ANSWERS: usize = 16;

/// The five calls.
pub(super) struct Service {
    pub(super) publisher: Publisher,
    pub(super) pool: SqlitePool,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
}

#[tonic::async_trait]
impl ChipIngress for Service {
    async fn publish(&self, request: Request<CloudEvent>) -> Result<Response<PublishResponse>, Status> {
        let event = request.into_inner();
        self.publisher.publish(&[event], false).await.map(Response::new)
    }

    async fn publish_batch(&self, request: Request<CloudEventBatch>) -> Result<Response<PublishResponse>, Status> {
        let batch = request.into_inner();
        let all_or_nothing = batch.options.is_some_and(|options| options.transaction_enabled());
        self.publisher.publish(&batch.events, all_or_nothing).await.map(Response::new)
    }

    async fn ping(&self, _request: Request<EmptyRequest>) -> Result<Response<PingResponse>, Status> {
        Ok(Response::new(PingResponse { message: "pong".to_owned() }))
    }

    type StreamEventsStream = ReceiverStream<Result<StreamEventsResponse, Status>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let (answers, answered) = mpsc::channel(STREAM_ANSWERS);
        let publisher = self.publisher.clone();
        let stopping = self.stopping.clone();
        self.tasks.spawn(async move {
            let answering = answer_each(publisher, request.into_inner(), &answers);
            if stopping.run_until_cancelled(answering).await.is_none() {
                let _ = answers.try_send(Err(Status::unavailable("the ingress server is stopping")));
            }
        });
        Ok(Response::new(ReceiverStream::new(answered)))
    }

    async fn register_schema(
        &self,
        request: Request<RegisterSchemaRequest>,
    ) -> Result<Response<RegisterSchemaResponse>, Status> {
        let schemas = request.into_inner().schemas;
        if schemas.iter().any(|schema| schema.subject.is_empty() || schema.schema.is_empty()) {
            return Err(Status::invalid_argument("a schema to register has no subject or no text"));
        }
        let registered = store::register(&self.pool, &schemas).await;
        let registered = registered.map_err(|error| store_failed(&Arc::new(error)))?;
        Ok(Response::new(RegisterSchemaResponse { registered }))
    }
}

/// Ends when the client ends its stream, or no longer reads.
async fn answer_each(
    publisher: Publisher,
    mut events: Streaming<StreamEventsRequest>,
    answers: &mpsc::Sender<Result<StreamEventsResponse, Status>>,
) {
    while let Some(Ok(request)) = events.next().await {
        let event = request.event.unwrap_or_default();
        let answer = publisher.publish(std::slice::from_ref(&event), false).await.map(|response| {
            let failed = response.results.iter().any(|result| result.error.is_some());
            StreamEventsResponse { event_id: event.id, status: if failed { "error" } else { "success" }.to_owned() }
        });
        if answers.send(answer).await.is_err() {
            return;
        }
    }
}
