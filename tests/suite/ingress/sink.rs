//! A sink in place of the server's log.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use eventbox::ingress::{NotTaken, Sink, Taken};
use eventbox::proto::chip_common::Schema;
use eventbox::proto::chipingress::pb::PublishErrorCode;
use eventbox::proto::chipingress::pb::RegisterSchemaRequest;

use super::*;

/// Keeps the ids of events, and refuses those with the id `no`. It fails as a whole on the id `away`.
#[derive(Default)]
struct Ids(Mutex<Vec<String>>);

#[async_trait]
impl Sink for Ids {
    async fn take(&self, events: Vec<CloudEvent>, all_or_nothing: bool) -> Result<Vec<Taken>, NotTaken> {
        if events.iter().any(|event| event.id == "away") {
            return Err(NotTaken::Unavailable { reason: "the sink is away".to_owned() });
        }
        let refused = Taken::Refused { code: PublishErrorCode::ValidationFailed, reason: "no".to_owned() };
        let is_good = |event: &&CloudEvent| event.id != "no";
        if !all_or_nothing || events.iter().all(|event| is_good(&event)) {
            self.0.lock().unwrap().extend(events.iter().filter(is_good).map(|event| event.id.clone()));
        }
        Ok(events.iter().map(|event| if is_good(&event) { Taken::Kept } else { refused.clone() }).collect())
    }
}

async fn with_sink() -> (IngressHandle, Arc<Ids>, Client) {
    let ids = Arc::new(Ids::default());
    let server = Ingress::builder().sink(ids.clone()).serve("127.0.0.1:0").await.unwrap();
    let client = client(&server).await;
    (server, ids, client)
}

#[tokio::test]
async fn a_sink_answers_for_each_event_that_is_valid() {
    let (server, ids, mut client) = with_sink().await;
    let events = vec![event("a", "", "1"), of_type(event("b", "", "2"), ""), event("no", "", "3"), event("d", "", "4")];
    let answers = summary(&publish(&mut client, events).await.unwrap());
    let wanted = [
        "a",
        "b: PUBLISH_ERROR_CODE_VALIDATION_FAILED the type is missing",
        "no: PUBLISH_ERROR_CODE_VALIDATION_FAILED no",
        "d",
    ];
    assert_eq!(answers, wanted);
    assert_eq!(*ids.0.lock().unwrap(), ["a", "d"]);
    assert_eq!(counts(&server).await, (0, 0, 0, 0), "the log stays empty");
}

#[tokio::test]
async fn a_call_fails_as_a_whole_when_the_sink_does() {
    let (_server, ids, mut client) = with_sink().await;
    let refused = publish(&mut client, vec![event("a", "", "1"), event("away", "", "2")]).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (tonic::Code::Unavailable, "the sink is away"));
    let refused = client.publish_batch(batch(vec![event("a", "", "1"), event("no", "", "2")], true)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{refused}");
    assert!(ids.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn schemas_are_not_registered_where_they_would_be_forgotten() {
    let (_server, _ids, mut client) = with_sink().await;
    let request = RegisterSchemaRequest { schemas: vec![Schema::default()] };
    assert_eq!(client.register_schema(request).await.unwrap_err().code(), tonic::Code::Unimplemented);
}
