//! Typed payloads: a payload comes back as it went in, and an unreadable payload is an error that names its event.

use std::num::NonZeroU32;

use eventbox::{BoxError, Error, Event, Outcome, PayloadError, Recipient, Reducer};
use serde::{Deserialize, Serialize};

use crate::support::on_every_engine;

#[derive(Clone, PartialEq, prost::Message)]
struct Departed {
    #[prost(string, tag = "1")]
    tailnum: String,
    #[prost(int32, tag = "2")]
    delay_minutes: i32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Landed<'a> {
    tailnum: &'a str,
}

/// Adds up the delays of events in protobuf.
struct Delays;

impl Reducer for Delays {
    type State = i64;

    fn reduce(&self, _to: &Recipient, events: &[Event], delays: i64) -> Result<Outcome<i64>, BoxError> {
        let departed = events.iter().map(Event::protobuf).collect::<Result<Vec<Departed>, _>>()?;
        Ok(Outcome::to(departed.iter().fold(delays, |sum, one| sum + i64::from(one.delay_minutes))).consuming(events))
    }
}

#[test]
fn a_typed_payload_comes_back() {
    let departed = Departed { tailnum: "N14228".to_owned(), delay_minutes: -3 };
    assert_eq!(Event::from_protobuf(&departed).protobuf::<Departed>().unwrap(), departed);
    assert_eq!(Event::new("").protobuf::<Departed>().unwrap(), Departed::default());
    let event = Event::from_json(&Landed { tailnum: "N14228" }).unwrap();
    assert_eq!(event.json::<Landed<'_>>().unwrap(), Landed { tailnum: "N14228" });
}

on_every_engine! {
    async fn an_unreadable_payload_names_its_event(db) {
        let to = Recipient::new("airport", "JFK").unwrap();
        let good = Event::from_protobuf(&Departed { tailnum: "N14228".to_owned(), delay_minutes: 75 });
        eventbox::emit(&db.pool, &to, good).await.unwrap();
        // A string whose bytes end before its stated length.
        eventbox::emit(&db.pool, &to, Event::new(&b"\x0a\x07N1"[..])).await.unwrap();
        let all = NonZeroU32::new(10).unwrap();
        let error = eventbox::reduce_batch(&db.pool, &to, &Delays, all).await.unwrap_err();
        let Error::Processor { source, .. } = &error else { panic!("{error:?}") };
        let payload: &PayloadError = source.downcast_ref().expect("the error keeps its type");
        let ids = crate::support::drain(&db.pool, &to).await;
        assert_eq!((payload.id, payload.encoding), (ids[1].id(), "protobuf"));
        assert_eq!(payload.to_string(), format!("event {} cannot be read as protobuf", ids[1].id()));
        assert!(!payload.source.to_string().is_empty());

        let error = ids[0].json::<i64>().unwrap_err();
        assert!(error.to_string().contains(&ids[0].id().to_string()), "{error}");
    }
}
