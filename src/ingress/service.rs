//! The implementation of the gRPC service.

use prost::Message;
use sqlx::SqlitePool;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::call::{Call, Calls, cut_of};
use super::publish::store_failed;
use super::store;
use crate::grpc::{Cut, reworded};
use crate::proto::chipingress::pb::chip_ingress_server::ChipIngress;
use crate::proto::chipingress::pb::{
    CloudEventBatch, EmptyRequest, PingResponse, PublishResponse, RegisterSchemaRequest, RegisterSchemaResponse,
    StreamEventsRequest, StreamEventsResponse,
};
use crate::proto::io::cloudevents::v1::CloudEvent;

/// The maximum number of answers of a StreamEvents call that wait for the client.
const STREAM_ANSWERS: usize = 16;

/// The five calls of the service.
pub(super) struct Service {
    pub(super) calls: Calls,
    pub(super) pool: SqlitePool,
    /// Whether the server has a store for schemas that outlives it.
    pub(super) registers: bool,
    pub(super) tasks: TaskTracker,
}

#[tonic::async_trait]
impl ChipIngress for Service {
    async fn publish(&self, request: Request<CloudEvent>) -> Result<Response<PublishResponse>, Status> {
        let cut = cut_of(&request);
        let events = [request.into_inner()];
        let request_bytes = events.iter().map(Message::encoded_len).sum();
        let call = Call { events: &events, request_bytes, all_or_nothing: false, cut: cut.as_ref() };
        self.calls.publish(call).await.map(Response::new)
    }

    async fn publish_batch(&self, request: Request<CloudEventBatch>) -> Result<Response<PublishResponse>, Status> {
        let cut = cut_of(&request);
        let batch = request.into_inner();
        let request_bytes = batch.encoded_len();
        let all_or_nothing = batch.options.is_some_and(|options| options.transaction_enabled());
        let call = Call { events: &batch.events, request_bytes, all_or_nothing, cut: cut.as_ref() };
        self.calls.publish(call).await.map(Response::new)
    }

    async fn ping(&self, _request: Request<EmptyRequest>) -> Result<Response<PingResponse>, Status> {
        self.calls.before(&[], 0).await?;
        Ok(Response::new(PingResponse { message: "pong".to_owned() }))
    }

    type StreamEventsStream = ReceiverStream<Result<StreamEventsResponse, Status>>;

    async fn stream_events(
        &self,
        request: Request<Streaming<StreamEventsRequest>>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        let (answers, answered) = mpsc::channel(STREAM_ANSWERS);
        let calls = self.calls.clone();
        let cut = cut_of(&request);
        self.tasks.spawn(async move {
            let answering = answer_each(&calls, cut.as_ref(), request.into_inner(), &answers);
            if calls.stopping.run_until_cancelled(answering).await.is_none() {
                let _ = answers.try_send(Err(Status::unavailable("the ingress server is stopping")));
            }
        });
        Ok(Response::new(ReceiverStream::new(answered)))
    }

    async fn register_schema(
        &self,
        request: Request<RegisterSchemaRequest>,
    ) -> Result<Response<RegisterSchemaResponse>, Status> {
        let request = request.into_inner();
        self.calls.before(&[], request.encoded_len()).await?;
        if !self.registers {
            return Err(Status::unimplemented("this server keeps no schemas"));
        }
        if request.schemas.iter().any(|schema| schema.subject.is_empty() || schema.schema.is_empty()) {
            return Err(Status::invalid_argument("a schema to register has no subject or no text"));
        }
        let registered = store::register(&self.pool, &request.schemas).await;
        let registered = registered.map_err(|error| store_failed(&error))?;
        Ok(Response::new(RegisterSchemaResponse { registered }))
    }
}

/// Answers each request of a stream.
///
/// Ends when the client ends its stream or stops reading, and after the first request that fails as a whole.
async fn answer_each(
    calls: &Calls,
    cut: Option<&Cut>,
    mut requests: Streaming<StreamEventsRequest>,
    answers: &mpsc::Sender<Result<StreamEventsResponse, Status>>,
) {
    while let Some(request) = requests.next().await {
        let answer = match request {
            Ok(request) => answer_one(calls, cut, request.event.unwrap_or_default()).await,
            Err(status) => Err(reworded(&status).unwrap_or(status)),
        };
        let failed = answer.is_err();
        if answers.send(answer).await.is_err() || failed {
            return;
        }
    }
}

async fn answer_one(calls: &Calls, cut: Option<&Cut>, event: CloudEvent) -> Result<StreamEventsResponse, Status> {
    let events = [event];
    let request_bytes = events.iter().map(Message::encoded_len).sum();
    let response = calls.publish(Call { events: &events, request_bytes, all_or_nothing: false, cut }).await?;
    let failed = response.results.iter().any(|result| result.error.is_some());
    let [event] = events;
    Ok(StreamEventsResponse { event_id: event.id, status: if failed { "error" } else { "success" }.to_owned() })
}
