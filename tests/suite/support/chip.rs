//! A Chip Ingress server, its clients and events.

use std::time::Duration;

use eventbox::ingress::{Ingress, IngressHandle, KeptEvent};
use eventbox::proto::chipingress::pb::chip_ingress_client::ChipIngressClient;
use eventbox::proto::chipingress::pb::{CloudEventBatch, PublishOptions, PublishResponse};
use eventbox::proto::io::cloudevents::v1::CloudEvent;
use eventbox::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use eventbox::proto::io::cloudevents::v1::cloud_event::{CloudEventAttributeValue, Data};
use tonic::Status;
use tonic::transport::Channel;

pub(crate) type Client = ChipIngressClient<Channel>;

/// Longest time that a step may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn server() -> IngressHandle {
    Ingress::builder().serve("127.0.0.1:0").await.unwrap()
}

pub(crate) async fn client(server: &IngressHandle) -> Client {
    connect(&server.local_addr().to_string()).await
}

pub(crate) async fn connect(address: &str) -> Client {
    ChipIngressClient::connect(format!("http://{address}")).await.unwrap()
}

/// Returns a valid event; an empty `key` means no key.
pub(crate) fn event(id: &str, key: &str, payload: &str) -> CloudEvent {
    let mut event = CloudEvent {
        id: id.to_owned(),
        source: "shop".to_owned(),
        spec_version: "1.0".to_owned(),
        r#type: "order.paid".to_owned(),
        data: Some(Data::BinaryData(payload.to_owned().into())),
        ..CloudEvent::default()
    };
    if !key.is_empty() {
        set(&mut event, "idempotencykey", Attr::CeString(key.to_owned()));
    }
    event
}

pub(crate) fn of_type(mut event: CloudEvent, kind: &str) -> CloudEvent {
    event.r#type = kind.to_owned();
    event
}

pub(crate) fn set(event: &mut CloudEvent, name: &str, value: Attr) {
    event.attributes.insert(name.to_owned(), CloudEventAttributeValue { attr: Some(value) });
}

pub(crate) fn batch(events: Vec<CloudEvent>, all_or_nothing: bool) -> CloudEventBatch {
    CloudEventBatch { events, options: Some(PublishOptions { transaction_enabled: Some(all_or_nothing) }) }
}

pub(crate) async fn publish(client: &mut Client, events: Vec<CloudEvent>) -> Result<PublishResponse, Status> {
    Ok(client.publish_batch(batch(events, false)).await?.into_inner())
}

/// Returns each result as "id" or "id: code reason".
pub(crate) fn summary(response: &PublishResponse) -> Vec<String> {
    let one = |result: &eventbox::proto::chipingress::pb::PublishResult| match &result.error {
        None => result.event_id.clone(),
        Some(error) => format!("{}: {} {}", result.event_id, error.error_code().as_str_name(), error.reason),
    };
    response.results.iter().map(one).collect()
}

/// Reads the whole log, page by page.
pub(crate) async fn log(server: &IngressHandle) -> Vec<KeptEvent> {
    let mut events: Vec<KeptEvent> = Vec::new();
    loop {
        let after = events.last().map_or(0, |event| event.sequence);
        let page = server.log().events(after, 7).await.unwrap();
        if page.is_empty() {
            return events;
        }
        events.extend(page);
    }
}

/// Returns (kept, duplicates, conflicts, rejected).
pub(crate) async fn counts(server: &IngressHandle) -> (u64, u64, u64, u64) {
    let counts = server.log().counts().await.unwrap();
    (counts.kept, counts.duplicates, counts.conflicts, counts.rejected)
}
