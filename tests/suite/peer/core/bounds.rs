//! What holds a stream back: its window, its start, its breaker, and the drain of all peers.

use std::num::NonZeroUsize;
use std::time::Duration;

use eventbox::peer::framing::InterceptorSpec;
use eventbox::peer::{Mapping, PeerLimits};
use eventbox::{Recipient, admin};

use super::super::pipe::{Answers, Pipes};
use super::super::{STOP, chat, emit, is_empty, out, peers, room, values};
use super::tap::Tap;
use crate::support::recorded::{Recording, recorded_on_every_engine};
use crate::support::{CellEngine, SOON, TestDb, TestEngine, eventually, on_every_engine};

/// The eventbox of the only stream of a client.
fn main_of(peer: &str) -> Recipient {
    Recipient::new(format!("peer.{peer}"), "main").unwrap()
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Waits until a look at closed streams has begun and ended, so that it has seen what was there before.
async fn a_sweep<B: CellEngine>(db: &TestDb<B>, unknown: &str) {
    emit(db, &out(unknown), "x").await;
    is_empty(db, &out(unknown)).await;
    let taken = async || admin::quarantined(&db.pool, &out(unknown), None, 10).await.unwrap().len();
    eventually(SOON, async || taken().await == 1).await;
}

on_every_engine! {
    /// Case 6 of the acceptance cases: a window of two never has three, the rest waits in the eventbox, and each
    /// acknowledgement lets one more go.
    async fn case_6_no_more_is_in_flight_than_the_window(db) {
        let tap = Tap::new();
        let peers = peers(db).peer(tap.peer("tap", 2)).start().await.unwrap();
        let to = main_of("tap");
        for number in numbers(0..40) {
            emit(db, &to, &number).await;
        }
        tap.takes(&["0", "1"]).await;
        assert_eq!(values(db, &to).await, numbers(0..40), "what is not acknowledged is in the box");
        tap.acknowledge(1);
        tap.takes(&["0", "1", "2"]).await;
        eventually(SOON, async || values(db, &to).await == numbers(1..40)).await;
        tap.acknowledge(39);
        is_empty(db, &to).await;
        let seen = tap.seen();
        assert_eq!((seen.taken, seen.most_held), (numbers(0..40), 2));
        assert!(peers.stop(STOP).await.complete);
    }

    /// Case 8 of the acceptance cases: a lost connection takes the state of its interceptors with it, and what was not
    /// acknowledged goes out again once there is a new one.
    async fn case_8_a_lost_connection_begins_anew_without_loss(db) {
        let tap = Tap::new();
        let lines = InterceptorSpec::named("lines").unwrap();
        let peer = tap.peer("tap", 10).interceptors([lines]).mapping(Mapping::to("room/all").unwrap());
        let peers = peers(db).peer(peer).start().await.unwrap();
        let (to, room) = (main_of("tap"), Recipient::new("room", "all").unwrap());
        tap.arrive("whole\nha");
        eventually(SOON, async || values(db, &room).await == ["whole"]).await;
        emit(db, &to, "a").await;
        emit(db, &to, "b").await;
        eventually(SOON, async || tap.seen().taken.len() == 2).await;
        tap.acknowledge(1);
        eventually(SOON, async || values(db, &to).await == ["b"]).await;
        tap.cut();
        tap.takes(&["a\n", "b\n", "b\n"]).await;
        tap.arrive("lf\n");
        eventually(SOON, async || values(db, &room).await.len() == 2).await;
        assert_eq!(values(db, &room).await, ["whole", "lf"], "the half line of the old connection is gone");
        tap.acknowledge(1);
        is_empty(db, &to).await;
        assert!(peers.stop(STOP).await.complete);
    }

    /// Case 9 of the acceptance cases: a linked client opens its stream before its first event, which waits until then.
    async fn case_9_nothing_is_sent_before_the_stream_is_open(db) {
        let (pipes, tap) = (Pipes::new(), Tap::shut());
        let (chat, linked) = (chat(&pipes).linked_to("tap"), tap.peer("tap", 10));
        let peers = peers(db).peer(chat).peer(linked).start().await.unwrap();
        let to = Recipient::new("peer.tap", "one").unwrap();
        let mut pipe = pipes.connect("one");
        emit(db, &to, "early").await;
        a_sweep(db, "first").await;
        a_sweep(db, "second").await;
        assert_eq!((tap.seen().taken.len(), peers.streams("tap")), (0, 0));
        assert_eq!(values(db, &to).await, ["early"], "it waits for its stream");
        tap.open();
        tap.takes(&["early"]).await;
        tap.acknowledge(1);
        is_empty(db, &to).await;
        pipe.close();
        eventually(SOON, async || tap.seen().ended == 1).await;
        assert!(peers.stop(STOP).await.complete);
    }

    /// Case 13 of the acceptance cases: a stop waits for every peer, and each stream ends when it has sent everything.
    async fn case_13_a_drain_waits_for_every_peer(db) {
        let (pipes, one, two) = (Pipes::new(), Tap::new(), Tap::new());
        let both = peers(db).peer(chat(&pipes)).peer(one.peer("one", 10)).peer(two.peer("two", 10));
        let running = both.start().await.unwrap();
        let pipe = pipes.connect("one");
        for (tap, peer) in [(&one, "one"), (&two, "two")] {
            for value in ["a", "b"] {
                emit(db, &main_of(peer), value).await;
            }
            tap.takes(&["a", "b"]).await;
        }
        pipe.line("read before the stop");
        eventually(SOON, async || values(db, &room("one")).await.len() == 1).await;
        let stop = tokio::spawn(async move { running.stop(STOP).await });
        one.acknowledge(2);
        eventually(SOON, async || one.seen().ended == 1).await;
        assert!(!stop.is_finished() && two.seen().ended == 0, "the other peer has not sent everything");
        two.acknowledge(2);
        assert!(stop.await.unwrap().complete);
        assert_eq!(two.seen().ended, 1);
        for peer in ["one", "two"] {
            assert!(values(db, &main_of(peer)).await.is_empty());
        }
        assert_eq!(db.count("eventbox_stream").await, 0);
        drop(pipe);
    }
}

recorded_on_every_engine! {
    case_15_failures_open_the_breaker_once_an_episode
    case_19_an_idle_peer_exports_its_gauges
}

/// Case 15 of the acceptance cases: an episode of failures opens the breaker of the stream once and closes it once,
/// whatever its probes do, and a success lets the count of failures begin anew.
async fn case_15_failures_open_the_breaker_once_an_episode<B: CellEngine + TestEngine>(
    db: &TestDb<B>,
    recording: &Recording,
) {
    let pipes = Pipes::new();
    let mut limits = PeerLimits::default();
    limits.stream_failures = NonZeroUsize::new(2).unwrap();
    limits.cool_down = (Duration::from_millis(1), Duration::from_millis(2));
    let peers = peers(db).peer(chat(&pipes).limits(limits)).start().await.unwrap();
    let mut pipe = pipes.connect("one");
    let transitions = |to| {
        let name = "eventbox_peer_breaker_transitions_total";
        recording.gauge(name, &[("peer", "chat"), ("scope", "stream"), ("to", to)]).unwrap_or_default()
    };
    for episode in 1..=3 {
        // One failure alone opens nothing.
        pipe.answer(Answers::Fail);
        emit(db, &out("one"), "a").await;
        for _ in 0..6 {
            assert_eq!(pipe.next().await.as_deref(), Some("a\n"));
        }
        pipe.answer(Answers::Acknowledge);
        is_empty(db, &out("one")).await;
        pipe.arrived();
        assert_eq!((transitions("open"), transitions("closed")), (f64::from(episode), f64::from(episode)));
    }
    assert!(peers.stop(STOP).await.complete);
}

/// Case 19 of the acceptance cases: the gauges follow streams on which nothing is sent or received.
async fn case_19_an_idle_peer_exports_its_gauges<B: CellEngine + TestEngine>(db: &TestDb<B>, recording: &Recording) {
    let pipes = Pipes::new();
    let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
    let streams = |wanted: f64| async move {
        let gauge = || recording.gauge("eventbox_peer_streams", &[("peer", "chat")]);
        eventually(SOON, async || gauge() == Some(wanted)).await;
    };
    streams(0.0).await;
    let (one, two) = (pipes.connect("one"), pipes.connect("two"));
    streams(2.0).await;
    assert_eq!(recording.gauge("eventbox_peer_connected", &[("peer", "chat")]), Some(1.0));
    assert_eq!(recording.gauge("eventbox_peer_breakers_open", &[("peer", "chat")]), Some(0.0));
    drop(one);
    streams(1.0).await;
    assert_eq!(recording.total("eventbox_peer_events_total"), 0.0, "nothing came and nothing went");
    drop(two);
    streams(0.0).await;
    assert!(peers.stop(STOP).await.complete);
}
