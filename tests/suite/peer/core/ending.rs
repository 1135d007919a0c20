//! Streams that are gone, and processes that died with them.

use eventbox::peer::{Mapping, Undelivered};
use eventbox::{Recipient, admin};

use super::super::pipe::{Answers, Pipes};
use super::super::{STOP, chat, emit, is_empty, out, peers, values};
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
        db.run(&insert_stream::<Engine>(worker)).await;
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
}

/// Returns the statement that leaves the row of a stream whose process is not a member.
fn insert_stream<B: crate::support::TestEngine>(worker: eventbox::uuid::Uuid) -> String {
    let worker = worker.simple();
    let worker = if B::NAME == "PostgreSQL" { format!("'{worker}'") } else { format!("x'{worker}'") };
    format!(
        "INSERT INTO eventbox_stream (peer, stream, worker, facts, started_at_us)
         VALUES ('chat', 'dead', {worker}, '{{}}', 0)"
    )
}
