//! The Chip Ingress service as a door into eventboxes, and the client as a way out.

use eventbox::peer::connectors::chip_ingress::{ValueForm, Wrap};
use eventbox::peer::connectors::{ChipIngress, ChipIngressConfig, ChipIngressServer, ChipIngressServerConfig};
use eventbox::peer::{Mapping, Peer, Peers};
use eventbox::proto::io::cloudevents::v1::CloudEvent;
use eventbox::proto::io::cloudevents::v1::cloud_event::cloud_event_attribute_value::Attr;
use eventbox::{Backend, Event};
use tonic::Code;

use super::{STOP, box_of, run, texts};
use crate::support::chip::{Client, batch, connect, event, log, of_type, publish, server, set, summary};
use crate::support::{SOON, eventually, on_every_engine};

async fn door<B: Backend>(pool: &sqlx::Pool<B>) -> (Peers<B>, Client) {
    let mut config = ChipIngressServerConfig::new("127.0.0.1:0");
    config.value = ValueForm::Data;
    let connector = ChipIngressServer::new(config).unwrap();
    let bound = connector.bound();
    let peers = run(pool, Peer::new("door", connector).mapping(Mapping::to("order/{subject}").unwrap())).await;
    let address = bound.borrow().unwrap();
    (peers, connect(&address.to_string()).await)
}

fn of(id: &str, payload: &str) -> CloudEvent {
    let mut event = event(id, "", payload);
    set(&mut event, "subject", Attr::CeString("7".to_owned()));
    event
}

on_every_engine! {
    async fn each_event_of_a_batch_is_answered_after_its_commit(db) {
        let (peers, mut client) = door(&db.pool).await;
        let events = vec![of("1", "one"), of_type(of("2", "two"), ""), event("3", "", "three"), of("4", "four")];
        for _ in 0..2 {
            let answers = summary(&publish(&mut client, events.clone()).await.unwrap());
            assert_eq!((&*answers[0], &*answers[3]), ("1", "4"));
            let invalid = "2: PUBLISH_ERROR_CODE_VALIDATION_FAILED the type is missing";
            assert!(answers[1].starts_with(invalid), "{answers:?}");
            assert!(answers[2].contains("{subject}"), "{answers:?}");
            assert_eq!(texts(&db.pool, "order/7").await, ["one", "four"], "a batch that is sent again changes nothing");
        }
        peers.stop(STOP).await;
        let (peers, mut client) = door(&db.pool).await;
        publish(&mut client, events).await.unwrap();
        assert_eq!(texts(&db.pool, "order/7").await, ["one", "four"], "nor does one after a restart");
        peers.stop(STOP).await;
    }

    async fn a_batch_of_all_or_nothing_with_a_bad_event_keeps_none(db) {
        let (peers, mut client) = door(&db.pool).await;
        let bad = vec![of("1", "one"), event("2", "", "no subject")];
        let refused = client.publish_batch(batch(bad, true)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(texts(&db.pool, "order/7").await.is_empty());
        client.publish_batch(batch(vec![of("1", "one"), of("2", "two")], true)).await.unwrap();
        assert_eq!(texts(&db.pool, "order/7").await, ["one", "two"]);
        peers.stop(STOP).await;
        let gone = publish(&mut client, vec![of("3", "three")]).await.unwrap_err();
        assert_eq!(gone.code(), Code::Unavailable, "{gone}");
    }

    async fn events_are_published_and_what_is_refused_for_good_is_quarantined(db) {
        let server = server().await;
        let mut config = ChipIngressConfig::new(server.local_addr().to_string());
        config.wrap = Some(Wrap::new("shop", "order.paid"));
        let out = box_of("chip", "main");
        for value in ["1", "2"] {
            eventbox::emit(&db.pool, &out, Event::new(value)).await.unwrap();
        }
        let peers = run(&db.pool, Peer::new("chip", ChipIngress::new(config).unwrap())).await;
        eventually(SOON, async || texts(&db.pool, out.as_str()).await.is_empty()).await;
        peers.stop(STOP).await;
        let kept = log(&server).await;
        assert_eq!(kept.iter().map(|event| event.payload().to_vec()).collect::<Vec<_>>(), [b"1", b"2"]);
        assert!(kept.iter().all(|event| event.key.is_some()));

        // Without `wrap` the value must be a CloudEvent.
        let good = r#"{"specversion":"1.0","id":"a","source":"shop","type":"order.paid","data":3}"#;
        for value in ["no event", good] {
            eventbox::emit(&db.pool, &out, Event::new(value)).await.unwrap();
        }
        let config = ChipIngressConfig::new(server.local_addr().to_string());
        let peers = run(&db.pool, Peer::new("chip", ChipIngress::new(config).unwrap())).await;
        eventually(SOON, async || texts(&db.pool, out.as_str()).await.is_empty()).await;
        peers.stop(STOP).await;
        assert_eq!(log(&server).await[2].payload().to_vec(), b"3");
        assert_eq!(eventbox::admin::quarantined(&db.pool, &out, None, 10).await.unwrap().len(), 1);
    }
}
