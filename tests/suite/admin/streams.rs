//! Peers and their open streams, as an operator sees them: lists, `why` and the doctor.

use std::time::{Duration, SystemTime};

use eventbox::admin::{self, DoctorOptions, Finding, InspectOptions, Reason, Severity};
use eventbox::uuid::Uuid;
use eventbox::{Event, Recipient};

use crate::support::{CellEngine, TestDb, TestEngine, on_every_engine};

const ALIVE: Uuid = Uuid::from_u128(0xa);
const GONE: Uuid = Uuid::from_u128(0xb);

fn literal<B: TestEngine>(id: Uuid) -> String {
    match B::FOLDER {
        "postgres" => format!("'{id}'"),
        _ => format!("x'{}'", id.simple()),
    }
}

/// Returns this many seconds ago, in microseconds.
fn ago_us(seconds: u64) -> u128 {
    let at = SystemTime::now() - Duration::from_secs(seconds);
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros()
}

/// Inserts a process with these kinds, which has been silent for these seconds.
pub(crate) async fn member<B: TestEngine>(db: &TestDb<B>, worker: Uuid, kinds: &[&str], silent: u64) {
    let report = serde_json::json!({ "kinds": kinds });
    db.run(format_args!(
        "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us, report)
         VALUES ({}, 'host-{:x}', 256, false, {}, '{report}')",
        literal::<B>(worker),
        worker.as_u128(),
        ago_us(silent)
    ))
    .await;
}

/// Inserts an open stream of a process, which began these seconds ago.
pub(crate) async fn stream<B: TestEngine>(db: &TestDb<B>, peer: &str, stream: &str, worker: Uuid, started: u64) {
    db.run(format_args!(
        "INSERT INTO eventbox_stream (peer, stream, worker, facts, started_at_us)
         VALUES ('{peer}', '{stream}', {}, '{{\"remote\":\"192.0.2.7:4711\"}}', {})",
        literal::<B>(worker),
        ago_us(started)
    ))
    .await;
}

fn of(peer: &str, stream: &str) -> Recipient {
    Recipient::new(format!("peer.{peer}"), stream).unwrap()
}

async fn emit<B: CellEngine>(db: &TestDb<B>, to: &Recipient) {
    let mut conn = db.pool.acquire().await.unwrap();
    B::emit(&mut conn, to, Event::new("x")).await.unwrap();
}

async fn reason<B: TestEngine>(db: &TestDb<B>) -> Reason {
    let why = admin::why(&db.pool, &of("chat", "s1")).await.unwrap();
    assert!(why.sentence.ends_with('.') && why.sentence.contains("1 event waits"), "{}", why.sentence);
    assert!(!why.advice.is_empty());
    why.reason
}

/// Returns the findings of the check of peers and kinds that are worse than a note.
async fn bad<B: TestEngine>(db: &TestDb<B>) -> Vec<Finding> {
    let findings = admin::doctor(&db.pool, &DoctorOptions::default()).await.unwrap();
    let is_bad = |finding: &Finding| finding.severity > Severity::Note && ["peers", "kinds"].contains(&finding.check);
    findings.into_iter().filter(is_bad).collect()
}

on_every_engine! {
    async fn peers_are_listed_by_streams_events_and_processes(db) {
        assert!(admin::peers(&db.pool).await.unwrap().is_empty());
        member(db, ALIVE, &["peer.chat", "peer.idle", "order"], 1).await;
        member(db, GONE, &["peer.chat"], 40).await;
        for (peer, name, worker) in [("chat", "s1", ALIVE), ("chat", "s2", GONE), ("other", "s1", Uuid::from_u128(9))] {
            stream(db, peer, name, worker, 60).await;
        }
        for to in [of("chat", "s1"), of("chat", "s1"), of("mail", "main"), Recipient::new("order", "7").unwrap()] {
            emit(db, &to).await;
        }
        let peers = admin::peers(&db.pool).await.unwrap();
        let rows: Vec<_> = peers.iter().map(|peer| {
            (peer.peer.as_str(), peer.streams.number, peer.silent.number, peer.waiting.number, peer.processes.len())
        }).collect();
        assert_eq!(rows, [("chat", 2, 1, 2, 1), ("idle", 0, 0, 0, 1), ("mail", 0, 0, 1, 0), ("other", 1, 1, 0, 0)]);
        let (chat, idle) = (&peers[0], &peers[1]);
        assert_eq!((chat.processes[0].worker, chat.processes[0].address.as_str()), (ALIVE, "host-a"));
        let began = chat.first_started_at.unwrap().elapsed().unwrap();
        assert!((59..120).contains(&began.as_secs()) && idle.first_started_at.is_none(), "{began:?}");
    }

    async fn streams_are_listed_a_page_at_a_time(db) {
        member(db, ALIVE, &["peer.chat"], 1).await;
        for (name, worker) in [("s1", ALIVE), ("s2", GONE), ("s3", ALIVE)] {
            stream(db, "chat", name, worker, 60).await;
        }
        stream(db, "chat2", "s0", ALIVE, 60).await;
        emit(db, &of("chat", "s1")).await;
        let first = admin::streams(&db.pool, "chat", None, 2).await.unwrap();
        let rows: Vec<_> = first.iter().map(|one| (one.stream.as_str(), one.is_alive, one.waiting.number)).collect();
        assert_eq!(rows, [("s1", true, 1), ("s2", false, 0)]);
        let shown = (first[0].address.as_deref(), first[0].facts["remote"].as_str());
        assert_eq!(shown, (Some("host-a"), "192.0.2.7:4711"));
        assert!(first[0].silent_for.unwrap() < Duration::from_secs(15));
        assert_eq!((first[1].worker, first[1].address.as_deref(), first[1].silent_for), (GONE, None, None));
        let rest = admin::streams(&db.pool, "chat", Some("s2"), 2).await.unwrap();
        assert_eq!(rest.iter().map(|one| one.stream.as_str()).collect::<Vec<_>>(), ["s3"]);
        let json = serde_json::to_value(&first[1]).unwrap();
        assert!(json["silent_seconds"].is_null() && json["started_at"].is_string(), "{json}");

        // A stream that began a moment ago lives, also before the first heartbeat of its process.
        stream(db, "chat", "s4", GONE, 1).await;
        assert!(admin::stream(&db.pool, &of("chat", "s4")).await.unwrap().unwrap().is_alive);
        for nobody in [of("chat", "s9"), Recipient::new("order", "s1").unwrap()] {
            assert!(admin::stream(&db.pool, &nobody).await.unwrap().is_none(), "{nobody}");
        }
        let detail = admin::inspect(&db.pool, &of("chat", "s2"), &InspectOptions::default()).await.unwrap();
        assert_eq!(detail.stream.unwrap().worker, GONE);
    }

    async fn events_of_a_peer_that_no_process_runs(db) {
        emit(db, &of("chat", "s1")).await;
        let not_running = Reason::PeerNotRunning { peer: "chat".to_owned() };
        assert_eq!(reason(db).await, not_running);
        // Another peer, another kind, and a process that is silent.
        member(db, ALIVE, &["peer.chats", "order"], 1).await;
        member(db, GONE, &["peer.chat"], 40).await;
        assert_eq!(reason(db).await, not_running);
    }

    /// The holder of the shard decides nothing about a stream, whatever it has registered.
    async fn events_of_a_stream_that_is_not_open(db) {
        emit(db, &of("chat", "s1")).await;
        member(db, ALIVE, &["peer.chat"], 1).await;
        let closed = Reason::StreamClosed { peer: "chat".to_owned() };
        assert_eq!(reason(db).await, closed);
        member(db, GONE, &["order"], 1).await;
        let holder = literal::<Engine>(GONE);
        db.run(format_args!("UPDATE eventbox_lease SET holder = {holder}, expires_at_us = 9000000000000000")).await;
        assert_eq!(reason(db).await, closed);
        admin::pause(&db.pool, &of("chat", "s1")).await.unwrap();
        assert_eq!(reason(db).await, Reason::Paused { is_kind: false });
    }

    async fn events_of_an_open_stream(db) {
        emit(db, &of("chat", "s1")).await;
        member(db, ALIVE, &["peer.chat"], 1).await;
        stream(db, "chat", "s1", ALIVE, 60).await;
        assert!(matches!(reason(db).await, Reason::StreamSending { worker: ALIVE, .. }));
        let id = literal::<Engine>(Uuid::from_u128(0x7000_8000_0000_0000_0000));
        db.run(format_args!("UPDATE eventbox_event SET id = {id}")).await;
        assert!(matches!(reason(db).await, Reason::StreamSlow { worker: ALIVE, .. }));
        // The event is older than the stream, which had no time yet.
        db.run("DELETE FROM eventbox_stream").await;
        stream(db, "chat", "s1", ALIVE, 1).await;
        assert!(matches!(reason(db).await, Reason::StreamSending { .. }));
    }

    async fn events_of_a_stream_whose_breaker_is_open(db) {
        emit(db, &of("chat", "s1")).await;
        member(db, ALIVE, &["peer.chat"], 1).await;
        stream(db, "chat", "s1", ALIVE, 60).await;
        let report = r#"{"kinds":["peer.chat"],"failing":[{"recipient":"peer.chat/s1","error":"the pipe is broken"}]}"#;
        db.run(format_args!("UPDATE eventbox_member SET report = '{report}'")).await;
        let why = admin::why(&db.pool, &of("chat", "s1")).await.unwrap();
        assert!(matches!(&why.reason, Reason::StreamFailing { worker: ALIVE, error, .. } if error.contains("broken")));
        assert!(why.sentence.contains("cannot send; 1 event waits") && why.sentence.contains("broken"), "{why:?}");
        // Another stream of that process goes on.
        emit(db, &of("chat", "s2")).await;
        stream(db, "chat", "s2", ALIVE, 60).await;
        let why = admin::why(&db.pool, &of("chat", "s2")).await.unwrap();
        assert!(matches!(why.reason, Reason::StreamSending { .. }), "{why:?}");
    }

    async fn events_of_a_stream_whose_process_is_silent(db) {
        emit(db, &of("chat", "s1")).await;
        member(db, ALIVE, &["peer.chat"], 1).await;
        stream(db, "chat", "s1", GONE, 60).await;
        assert_eq!(reason(db).await, Reason::StreamSilent { worker: GONE, silent_for: None });
        member(db, GONE, &["peer.chat"], 40).await;
        let Reason::StreamSilent { silent_for: Some(silent_for), .. } = reason(db).await else { panic!() };
        assert!((39..100).contains(&silent_for.as_secs()), "{silent_for:?}");
    }

    /// A timer of a stream is moved by whoever holds the shard, so its reasons are those of every recipient.
    async fn a_due_timer_of_a_stream_waits_for_the_holder(db) {
        let to = of("chat", "s1");
        let later = Event::new("x").due_in(Duration::from_secs(3_600));
        eventbox::emit_all(&db.pool, &[(to.clone(), later)]).await.unwrap();
        db.run("UPDATE eventbox_timer SET due_at_us = 1").await;
        assert_eq!(admin::why(&db.pool, &to).await.unwrap().reason, Reason::NoHolder { shard: to.shard() });
    }

    async fn the_doctor_finds_silent_streams_and_unsent_events(db) {
        assert!(bad(db).await.is_empty());
        member(db, ALIVE, &["order", "peer.chat"], 1).await;
        stream(db, "chat", "s1", ALIVE, 600).await;
        emit(db, &of("chat", "s1")).await;
        assert!(bad(db).await.is_empty(), "{:#?}", bad(db).await);
        stream(db, "chat", "s2", GONE, 600).await;
        let found = bad(db).await;
        assert!(found.len() == 1 && found[0].sentence.starts_with("1 streams of peer chat"), "{found:#?}");
        db.run("DELETE FROM eventbox_stream WHERE stream = 's2'").await;
        emit(db, &of("mail", "main")).await;
        let found = bad(db).await;
        assert!(found.len() == 1 && found[0].sentence.contains("peer.mail"), "once, by the check of peers: {found:#?}");
        assert!(found[0].advice.as_ref().is_some_and(|advice| advice.contains("eventbox peer run")));
    }

    /// A process that only runs peers takes no shards, and is no worker that takes too few.
    async fn a_process_that_only_runs_peers_is_no_worker(db) {
        member(db, ALIVE, &["peer.chat"], 1).await;
        db.run("UPDATE eventbox_member SET shard_limit = 0").await;
        let findings = admin::doctor(&db.pool, &DoctorOptions::default()).await.unwrap();
        let of_leases: Vec<_> = findings.iter().filter(|finding| finding.check == "leases").collect();
        assert!(of_leases.len() == 1 && of_leases[0].severity == Severity::Note, "{of_leases:#?}");
    }
}
