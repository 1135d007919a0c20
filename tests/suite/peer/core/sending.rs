//! What goes out on streams.

use std::time::Duration;

use eventbox::admin::{Operator, Reason};
use eventbox::peer::PeerLimits;
use eventbox::peer::framing::InterceptorSpec;

use super::super::pipe::{Answers, Pipes};
use super::super::{STOP, chat, emit, is_empty, out, peers, room, values};
use crate::support::{SOON, eventually, on_every_engine};

on_every_engine! {
    async fn events_of_a_stream_go_out_in_order_and_are_consumed(db) {
        let pipes = Pipes::new();
        emit(db, &out("one"), "0").await;
        let peers = peers(db).peer(chat(&pipes).mapping(keeping())).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        for n in 1..300 {
            emit(db, &out("one"), &n.to_string()).await;
        }
        for n in 0..300 {
            assert_eq!(pipe.next().await, Some(format!("{n}\n")));
        }
        is_empty(db, &out("one")).await;
        assert!(peers.stop(STOP).await.complete);
        assert_eq!(pipe.arrived(), Vec::<String>::new(), "nothing was sent twice");
    }

    async fn what_is_not_acknowledged_stays_and_is_sent_by_the_next_session(db) {
        let pipes = Pipes::keeping_ids();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        pipe.answer(Answers::Silent);
        for value in ["a", "b"] {
            emit(db, &out("one"), value).await;
        }
        assert_eq!(pipe.next().await.as_deref(), Some("a\n"));
        pipe.next().await;
        pipe.close();
        assert_eq!(pipe.next().await, None);
        assert_eq!(values(db, &out("one")).await, ["a", "b"]);
        let mut again = pipes.connect("one");
        assert_eq!((again.next().await, again.next().await), (Some("a\n".to_owned()), Some("b\n".to_owned())));
        is_empty(db, &out("one")).await;
        assert!(peers.stop(STOP).await.complete);
    }

    async fn a_stream_that_is_stuck_stops_no_other(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let (stuck, mut good) = (pipes.connect("stuck"), pipes.connect("good"));
        stuck.answer(Answers::Silent);
        eventually(SOON, async || peers.streams("chat") == 2).await;
        for n in 0..200 {
            emit(db, &out("stuck"), &n.to_string()).await;
            emit(db, &out("good"), &n.to_string()).await;
            assert_eq!(good.next().await, Some(format!("{n}\n")));
        }
        is_empty(db, &out("good")).await;
        assert_eq!(values(db, &out("stuck")).await.len(), 200);
        drop(stuck);
        peers.stop(STOP).await;
    }

    async fn a_failed_batch_is_sent_again_and_opens_the_breaker_of_its_stream(db) {
        let pipes = Pipes::new();
        let mut limits = PeerLimits::default();
        limits.cool_down = (Duration::from_millis(200), Duration::from_millis(200));
        let peers = peers(db).peer(chat(&pipes).limits(limits)).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        pipe.answer(Answers::Fail);
        emit(db, &out("one"), "a").await;
        for _ in 0..5 {
            assert_eq!(pipe.next().await.as_deref(), Some("a\n"));
        }
        // The process tells of it at its next heartbeats.
        let reason = async || eventbox::admin::why(&db.pool, &out("one")).await.unwrap().reason;
        eventually(SOON, async || matches!(reason().await, Reason::StreamFailing { .. })).await;
        pipe.answer(Answers::Acknowledge);
        is_empty(db, &out("one")).await;
        let failing = async || {
            let members = eventbox::admin::members(&db.pool).await.unwrap();
            members.iter().map(|member| member.failing.len()).sum::<usize>()
        };
        eventually(SOON, async || failing().await == 0).await;
        assert!(peers.stop(STOP).await.complete);
    }

    async fn an_event_that_is_refused_goes_into_the_quarantine_and_the_others_go_on(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let pipe = pipes.connect("one");
        pipe.answer(Answers::Refuse);
        for value in ["a", "bad", "b"] {
            emit(db, &out("one"), value).await;
        }
        is_empty(db, &out("one")).await;
        let taken = eventbox::admin::quarantined(&db.pool, &out("one"), None, 10).await.unwrap();
        assert_eq!(taken.len(), 1);
        assert_eq!((taken[0].event.value(), taken[0].reason.as_str()), (&b"bad"[..], "it is bad"));
        assert!(peers.stop(STOP).await.complete);
    }

    async fn no_event_is_acknowledged_while_an_interceptor_holds_its_bytes_back(db) {
        let pipes = Pipes::new();
        let interceptors = ["chunk", "lines"].map(|name| InterceptorSpec::named(name).unwrap());
        let peers = peers(db).peer(chat(&pipes).interceptors(interceptors)).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        emit(db, &out("one"), "far smaller than a chunk").await;
        assert_eq!(pipe.next().await.as_deref(), Some("far smaller than a chunk\n"));
        is_empty(db, &out("one")).await;
        assert!(peers.stop(STOP).await.complete);
    }

    /// Case 17 of the acceptance cases: a breaker that closes ends no pause of an operator.
    async fn an_operators_pause_outlives_a_breaker(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        eventually(SOON, async || peers.streams("chat") == 1).await;
        let operator = Operator::new(db.pool.clone(), "ana");
        operator.pause(&out("one")).await.unwrap();
        emit(db, &out("one"), "a").await;
        emit(db, &out("two"), "for the sweep").await;
        eventually(SOON, async || values(db, &out("two")).await.is_empty()).await;
        assert_eq!(pipe.arrived(), Vec::<String>::new());
        operator.resume(&out("one")).await.unwrap();
        assert_eq!(pipe.next().await.as_deref(), Some("a\n"));
        assert!(peers.stop(STOP).await.complete);
    }

    async fn a_stop_sends_what_waits_and_reports_what_is_left(db) {
        let pipes = Pipes::keeping_ids();
        let running = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        eventually(SOON, async || running.streams("chat") == 1).await;
        let events: Vec<_> = (0..1_000).map(|n| (out("one"), eventbox::Event::new(n.to_string()))).collect();
        let mut conn = db.pool.acquire().await.unwrap();
        <Engine as crate::support::CellEngine>::emit_all(&mut conn, &events).await.unwrap();
        drop(conn);
        assert!(running.stop(STOP).await.complete);
        assert_eq!(pipe.arrived().len(), 1_000);
        assert!(values(db, &out("one")).await.is_empty());

        let running = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let pipe = pipes.connect("one");
        pipe.answer(Answers::Silent);
        emit(db, &out("one"), "a").await;
        eventually(SOON, async || running.streams("chat") == 1).await;
        let report = running.stop(Duration::from_secs(2)).await;
        assert_eq!((report.complete, report.left), (false, 1), "{report:?}");
        assert_eq!(values(db, &out("one")).await, ["a"]);
    }

    /// A breaker may stay open for longer than a stop lasts: the stream ends, and its event stays.
    async fn a_stop_ends_a_stream_whose_breaker_is_open(db) {
        let pipes = Pipes::keeping_ids();
        let mut limits = PeerLimits::default();
        limits.stream_failures = std::num::NonZeroUsize::MIN;
        limits.cool_down = (Duration::from_secs(3_600), Duration::from_secs(3_600));
        let peers = peers(db).peer(chat(&pipes).limits(limits)).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        pipe.answer(Answers::Fail);
        emit(db, &out("one"), "a").await;
        assert_eq!(pipe.next().await.as_deref(), Some("a\n"));
        let is_failing = || peers.health().problems.iter().any(|problem| problem.contains("cannot send"));
        eventually(SOON, async || is_failing()).await;
        let report = peers.stop(Duration::from_secs(4)).await;
        assert_eq!((report.complete, report.left, report.interrupted), (false, 1, 0), "{report:?}");
        assert_eq!(values(db, &out("one")).await, ["a"]);
        assert_eq!(db.count("eventbox_stream").await, 0, "its end is noted");
    }

    /// An event that no wake-up names, as one of another process whose notification was lost.
    async fn a_poll_finds_what_no_wake_up_names(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let mut pipe = pipes.connect("one");
        emit(db, &out("one"), "a").await;
        assert_eq!(pipe.next().await.as_deref(), Some("a\n"));
        is_empty(db, &out("one")).await;
        emit(db, &room("elsewhere"), "b").await;
        let shard = out("one").shard();
        db.run(format_args!("UPDATE eventbox_event SET shard = {shard}, recipient = 'peer.chat/one'")).await;
        assert_eq!(pipe.next().await.as_deref(), Some("b\n"));
        is_empty(db, &out("one")).await;
        assert!(peers.stop(STOP).await.complete);
    }
}

fn keeping() -> eventbox::peer::Mapping {
    eventbox::peer::Mapping::to("room/{stream}").unwrap().with_undelivered(eventbox::peer::Undelivered::Keep)
}
