//! The server keeps each event once, also through restarts and races.

use std::collections::HashSet;

use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn a_batch_is_answered_by_position_and_kept_in_order() {
    let server = server().await;
    let mut client = client(&server).await;
    let bad = CloudEvent { id: "bad".into(), ..event("", "", "") };
    let bad = CloudEvent { source: String::new(), ..bad };
    let events = vec![event("a", "ka", "1"), bad, event("b", "", "2"), event("c", "kc", "3")];
    let response = publish(&mut client, events).await.unwrap();
    let wanted = ["a", "bad: PUBLISH_ERROR_CODE_VALIDATION_FAILED the source is missing", "b", "c"];
    assert_eq!(summary(&response), wanted);
    let ids: Vec<String> = log(&server).await.into_iter().map(|kept| kept.event.id).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(counts(&server).await, (3, 0, 0, 1));
    assert_eq!(server.log().keys().await.unwrap(), ["ka", "kc"]);
}

#[tokio::test]
async fn a_transactional_batch_is_kept_whole_or_not_at_all() {
    let server = server().await;
    let mut client = client(&server).await;
    let bad = CloudEvent { r#type: String::new(), ..event("bad", "k2", "2") };
    let refused = client.publish_batch(batch(vec![event("a", "k1", "1"), bad], true)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("event 1 (\"bad\")"), "{refused}");
    assert!(refused.message().contains("the type is missing"), "{refused}");
    assert_eq!(counts(&server).await, (0, 0, 0, 1));

    let good = vec![event("a", "k1", "1"), event("b", "k2", "2")];
    let response = client.publish_batch(batch(good, true)).await.unwrap().into_inner();
    assert_eq!(summary(&response), ["a", "b"]);
    assert_eq!(counts(&server).await, (2, 0, 0, 1));
}

#[tokio::test]
async fn an_empty_batch_is_answered_without_results() {
    let server = server().await;
    let response = publish(&mut client(&server).await, Vec::new()).await.unwrap();
    assert!(response.results.is_empty());
}

/// The sequence and time attributes of a sender do not change the content; any other difference does.
#[tokio::test]
async fn copies_are_counted_and_other_content_is_kept_as_a_conflict() {
    let server = server().await;
    let mut client = client(&server).await;
    let first = event("a", "k\"1\u{1}ä", "1");
    publish(&mut client, vec![first.clone(), first.clone()]).await.unwrap();
    let mut stamped = first.clone();
    stamped.id = "another".into();
    set(&mut stamped, "seqnum", Attr::CeString("8".into()));
    set(&mut stamped, "seqepoch", Attr::CeString("x".into()));
    set(&mut stamped, "recordedtime", Attr::CeTimestamp(prost_types::Timestamp { seconds: 9, nanos: 0 }));
    assert_eq!(summary(&publish(&mut client, vec![stamped]).await.unwrap()), ["another"]);
    assert_eq!(counts(&server).await, (1, 2, 0, 0));

    let mut other = first.clone();
    other.data = Some(Data::BinaryData("2".into()));
    let mut elsewhere = first.clone();
    elsewhere.source = "depot".into();
    let sent = vec![other.clone(), elsewhere.clone(), other.clone(), event("b", "k2", "1")];
    assert_eq!(summary(&publish(&mut client, sent).await.unwrap()), ["a", "a", "a", "b"]);
    assert_eq!(counts(&server).await, (2, 3, 2, 0));

    let log = log(&server).await;
    assert_eq!((log[0].copies, log[0].conflicts, &log[0].event), (2, 2, &first));
    assert_eq!((log[1].copies, log[1].conflicts), (0, 0));
    let conflicts = server.log().conflicts(0, 10).await.unwrap();
    let found: Vec<_> = conflicts.iter().map(|kept| (&kept.event, kept.copies)).collect();
    assert_eq!(found, [(&other, 1), (&elsewhere, 0)]);
    assert_eq!(conflicts[0].key, log[0].key);
}

#[tokio::test]
async fn events_without_a_key_are_each_kept() {
    let server = server().await;
    let same = event("a", "", "1");
    publish(&mut client(&server).await, vec![same.clone(), same.clone(), same]).await.unwrap();
    assert_eq!(counts(&server).await, (3, 0, 0, 0));
    assert!(server.log().keys().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_restart_continues_with_the_same_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ingress.sqlite3");
    for round in 0..3 {
        let server = Ingress::builder().store_file(&file).serve("127.0.0.1:0").await.unwrap();
        let fresh = format!("fresh{round}");
        let events = vec![event("a", "same", "1"), event("b", &fresh, "2"), event("c", "same", &fresh)];
        publish(&mut client(&server).await, events).await.unwrap();
        assert!(server.stop(PATIENCE).await.complete);
        assert_eq!(counts(&server).await, (round + 2, round, round + 1, 0));
    }
    let log = eventbox::ingress::IngressLog::open(&file).await.unwrap();
    assert_eq!(log.keys().await.unwrap(), ["fresh0", "fresh1", "fresh2", "same"]);
    let events = log.events(0, 10).await.unwrap();
    assert!(events.is_sorted_by_key(|event| event.sequence));
}

#[tokio::test]
async fn the_server_shares_a_database_with_other_tables() {
    let directory = tempfile::tempdir().unwrap();
    let options = eventbox::sqlite_options(directory.path().join("app.sqlite3"));
    let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
    eventbox::migrate(&pool).await.unwrap();
    let server = Ingress::builder().store_pool(pool.clone()).serve("127.0.0.1:0").await.unwrap();
    publish(&mut client(&server).await, vec![event("a", "k", "1")]).await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM ingress_event").fetch_one(&pool).await.unwrap();
    assert_eq!(kept, 1);
}

/// Eight connections send the same keys at the same time: each is kept once, and every copy is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_batches_keep_each_key_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ingress.sqlite3");
    let server = Ingress::builder().store_file(&file).serve("127.0.0.1:0").await.unwrap();
    let racers = (0..8).map(|racer| {
        let address = server.local_addr().to_string();
        tokio::spawn(async move {
            let mut client = connect(&address).await;
            for round in 0..20 {
                let key = |index| format!("{}", (round * 5 + index) % 50);
                let mut events: Vec<_> = (0..10).map(|index| event("a", &key(index), &key(index))).collect();
                events.push(event("x", "contended", &format!("{racer}")));
                let response = publish(&mut client, events).await.unwrap();
                assert!(response.results.iter().all(|result| result.error.is_none()));
            }
        })
    });
    for racer in join_all(racers).await {
        racer.unwrap();
    }
    let (kept, duplicates, conflicts, rejected) = counts(&server).await;
    assert_eq!((kept, conflicts, rejected), (51, 7, 0));
    assert_eq!(kept + duplicates + conflicts, 8 * 20 * 11);
    let log = log(&server).await;
    let keys: HashSet<_> = log.iter().filter_map(|event| event.key.clone()).collect();
    assert_eq!((log.len(), keys.len()), (51, 51));
}

/// Two servers use one file, as when one starts before the other has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_share_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ingress.sqlite3");
    let one = Ingress::builder().store_file(&file).serve("127.0.0.1:0").await.unwrap();
    let two = Ingress::builder().store_file(&file).serve("127.0.0.1:0").await.unwrap();
    let send = async |server: &IngressHandle| {
        let mut client = client(server).await;
        for key in 0..30 {
            publish(&mut client, vec![event("a", &key.to_string(), "1")]).await.unwrap();
        }
    };
    tokio::join!(send(&one), send(&two));
    assert_eq!(counts(&one).await, (30, 30, 0, 0));
    assert_eq!(log(&two).await.len(), 30);
}
