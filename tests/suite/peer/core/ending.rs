//! Streams that are gone, and processes that died with them.

use std::time::Duration;

use eventbox::peer::{Mapping, Peers, Undelivered};
use eventbox::{Recipient, admin};

use super::super::pipe::{Answers, Pipes};
use super::super::{STOP, chat, config, emit, is_empty, out, peers, values};
use crate::support::{SOON, eventually, on_every_engine};

fn mapping(undelivered: Undelivered) -> Mapping {
    Mapping::to("room/all").unwrap().with_undelivered(undelivered)
}

on_every_engine! {
    /// Case 10 of the acceptance cases: an answer for an unknown stream fails, and is never silent.
    async fn events_for_an_unknown_stream_become_dead_letters(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        emit(db, &out("never"), "a").await;
        is_empty(db, &out("never")).await;
        let dead = admin::quarantined(&db.pool, &out("never"), None, 10).await.unwrap();
        assert_eq!(dead.len(), 1);
        assert!(dead[0].reason.contains("stream never of peer chat is closed"), "{}", dead[0].reason);
        assert!(peers.health().problems.iter().any(|problem| problem.contains("breaker of peer chat")));
        peers.stop(STOP).await;
    }

    async fn undelivered_events_go_to_another_stream(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes).mapping(mapping(Undelivered::AnotherStream))).start().await.unwrap();
        emit(db, &out("gone"), "a").await;
        eventually(SOON, async || values(db, &out("gone")).await == ["a"]).await;
        let mut other = pipes.connect("other");
        assert_eq!(other.next().await.as_deref(), Some("a\n"));
        is_empty(db, &out("gone")).await;
        assert!(peers.stop(STOP).await.complete);
    }

    async fn undelivered_events_go_back_to_a_recipient(db) {
        let pipes = Pipes::new();
        let back = Undelivered::To("sender/{stream}".parse().unwrap());
        let peers = peers(db).peer(chat(&pipes).mapping(mapping(back))).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        pipe.answer(Answers::Silent);
        emit(db, &out("one"), "a").await;
        pipe.next().await;
        drop(pipe);
        is_empty(db, &out("one")).await;
        let sender = Recipient::new("sender", "one").unwrap();
        assert_eq!(values(db, &sender).await, [r#"{"undelivered":"a","peer":"chat","stream":"one"}"#]);
        assert!(peers.stop(STOP).await.complete);
    }

    async fn the_streams_of_a_dead_process_are_lost(db) {
        let worker = eventbox::uuid::Uuid::new_v4();
        db.run(&insert_stream::<Engine>("dead", worker)).await;
        emit(db, &out("dead"), "a").await;
        let mapping = Mapping::to("room/all").unwrap().with_signals("session/{stream}").unwrap();
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes).mapping(mapping)).start().await.unwrap();
        let session = Recipient::new("session", "dead").unwrap();
        eventually(SOON, async || values(db, &session).await.len() == 1).await;
        assert_eq!(
            values(db, &session).await,
            [r#"{"signal":"stream_ended","peer":"chat","stream":"dead","reason":"lost"}"#]
        );
        is_empty(db, &out("dead")).await;
        assert_eq!(admin::quarantined(&db.pool, &out("dead"), None, 10).await.unwrap().len(), 1);
        peers.stop(STOP).await;
    }

    /// A process whose heartbeat is late keeps its streams, while it ends those of dead processes.
    async fn a_late_heartbeat_loses_no_stream_of_its_own_process(db) {
        let pipes = Pipes::new();
        let mut config = config();
        if let Some(leases) = &mut config.runtime.leases {
            // One heartbeat at the start, and none after it.
            leases.renew_interval = Duration::from_secs(3_600);
            leases.lease_ttl = Duration::from_secs(4 * 3_600);
        }
        let peers = Peers::builder(db.pool.clone()).config(config).peer(chat(&pipes)).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        eventually(SOON, async || peers.streams("chat") == 1 && db.count("eventbox_member").await == 1).await;
        db.run("UPDATE eventbox_member SET heartbeat_at_us = 0").await;
        // The first sweep may have begun before that.
        for dead in ["dead", "dead-too"] {
            db.run(&insert_stream::<Engine>(dead, eventbox::uuid::Uuid::new_v4())).await;
            let left = async || db.number(format_args!("SELECT count(*) FROM eventbox_stream WHERE stream = '{dead}'")).await;
            eventually(SOON, async || left().await == 0).await;
        }
        assert_eq!(db.count("eventbox_stream").await, 1);
        emit(db, &out("one"), "a").await;
        assert_eq!(pipe.next().await.as_deref(), Some("a\n"));
        is_empty(db, &out("one")).await;
        peers.stop(STOP).await;
    }

    /// The events of closed streams leave, also behind one that an operator has paused, whose events stay.
    async fn a_paused_stream_that_is_gone_holds_up_no_other(db) {
        let gone: Vec<Recipient> = (0..6).map(|n| out(&format!("gone-{n}"))).collect();
        let paused = gone.iter().min_by_key(|to| to.shard()).unwrap();
        for to in &gone {
            emit(db, to, "a").await;
        }
        admin::pause(&db.pool, paused).await.unwrap();
        let back = Undelivered::To("sender/all".parse().unwrap());
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes).mapping(mapping(back))).start().await.unwrap();
        let sender = Recipient::new("sender", "all").unwrap();
        eventually(SOON, async || values(db, &sender).await.len() == gone.len() - 1).await;
        assert_eq!(values(db, paused).await, ["a"]);
        admin::resume(&db.pool, paused).await.unwrap();
        is_empty(db, paused).await;
        assert_eq!(values(db, &sender).await.len(), gone.len());
        peers.stop(STOP).await;
    }
}

/// Returns the statement that leaves the row of a stream whose process is not a member.
fn insert_stream<B: crate::support::TestEngine>(stream: &str, worker: eventbox::uuid::Uuid) -> String {
    let worker = worker.simple();
    let worker = if B::NAME == "PostgreSQL" { format!("'{worker}'") } else { format!("x'{worker}'") };
    format!(
        "INSERT INTO eventbox_stream (peer, stream, worker, facts, started_at_us)
         VALUES ('chat', '{stream}', {worker}, '{{}}', 0)"
    )
}
