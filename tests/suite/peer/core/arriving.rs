//! What comes in on streams.

use eventbox::peer::{Arrival, EndReason, Mapping, Peer, StreamSignal};

use super::super::pipe::Pipes;
use super::super::{STOP, chat, names, peers, room, values};
use crate::support::{SOON, eventually, on_every_engine};

on_every_engine! {
    /// Case 11 of the acceptance cases: partial lines never mix, and the end flushes the rest.
    async fn lines_of_two_streams_never_mix(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let (mut one, two) = (pipes.connect("one"), pipes.connect("two"));
        for (pipe, part) in [(&one, "a"), (&two, "x"), (&one, "b\nc"), (&two, "y\n"), (&one, "d\ne")] {
            pipe.send(part.as_bytes().to_vec());
        }
        one.close();
        eventually(SOON, async || values(db, &room("one")).await == ["ab", "cd", "e"]).await;
        eventually(SOON, async || values(db, &room("two")).await == ["xy"]).await;
        assert_eq!(names(db, &room("one")).await, ["chat:one:1", "chat:one:2", "chat:one:3"]);
        assert!(peers.stop(STOP).await.complete);
    }

    async fn a_frame_that_is_sent_again_is_harmless(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let pipe = pipes.connect("one");
        for _ in 0..3 {
            pipe.send(Arrival::bytes("departed\n").id("flight 1545"));
        }
        pipe.send(Arrival::bytes("landed\n").id("flight 1546"));
        eventually(SOON, async || values(db, &room("one")).await == ["departed", "landed"]).await;
        assert_eq!(names(db, &room("one")).await[0], "chat:one:flight 1545");
        assert!(peers.stop(STOP).await.complete);
    }

    /// Case 12 of the acceptance cases: an error is one event on the *err* port, and the stream lives on.
    async fn what_cannot_be_decoded_goes_to_the_err_port(db) {
        let pipes = Pipes::new();
        let json = eventbox::peer::framing::CodecSpec::named("json").unwrap();
        let mapping = Mapping::to("room/{/room}").unwrap().with_errors("complaints/{stream}").unwrap();
        let peers = peers(db).peer(chat(&pipes).codec(json).mapping(mapping)).start().await.unwrap();
        let pipe = pipes.connect("one");
        for line in [r#"{"room":"a"}"#, "{", r#"{"room":[]}"#, r#"{"room":"b"}"#] {
            pipe.line(line);
        }
        eventually(SOON, async || values(db, &room("b")).await.len() == 1).await;
        assert_eq!(values(db, &room("a")).await.len(), 1);
        let complaints = values(db, &eventbox::Recipient::new("complaints", "one").unwrap()).await;
        assert_eq!(complaints.len(), 2, "{complaints:?}");
        assert!(complaints[0].contains("`json`") && complaints[1].contains("/room"), "{complaints:?}");
        assert!(peers.stop(STOP).await.complete);
    }

    async fn the_life_of_a_stream_reaches_observers_and_a_recipient(db) {
        let pipes = Pipes::new();
        let mapping = Mapping::to("room/all").unwrap().with_signals("session/{stream}").unwrap();
        let peers = peers(db).peer(chat(&pipes).mapping(mapping)).start().await.unwrap();
        let mut observed = peers.observe();
        let mut pipe = pipes.connect("one");
        pipe.line("hello");
        pipe.close();
        assert!(matches!(observed.recv().await, Ok(StreamSignal::Started { stream, .. }) if stream.as_str() == "one"));
        assert!(matches!(observed.recv().await, Ok(StreamSignal::Ended { reason: EndReason::Closed, .. })));
        let session = eventbox::Recipient::new("session", "one").unwrap();
        let signals = values(db, &session).await;
        assert_eq!(
            signals,
            [
                r#"{"signal":"stream_started","peer":"chat","stream":"one","facts":{"remote":"pipe"}}"#,
                r#"{"signal":"stream_ended","peer":"chat","stream":"one","reason":"closed"}"#,
            ]
        );
        assert_eq!(db.count("eventbox_stream").await, 0);
        assert!(peers.stop(STOP).await.complete);
    }

    async fn a_checkpoint_moves_with_its_events_and_by_one_reader(db) {
        let pipes = Pipes::keeping_ids();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let pipe = pipes.connect("file");
        pipe.send(Arrival::bytes("a\nb\n").id("0").checkpoint("4"));
        pipe.send(Arrival::bytes("c\n").id("4").checkpoint("6"));
        eventually(SOON, async || values(db, &room("file")).await == ["a", "b", "c"]).await;
        assert_eq!(db.texts("SELECT position FROM eventbox_checkpoint").await, ["6"]);
        db.run("UPDATE eventbox_checkpoint SET position = '9'").await;
        pipe.send(Arrival::bytes("d\n").id("6").checkpoint("8"));
        eventually(SOON, async || db.count("eventbox_stream").await == 0).await;
        assert_eq!(values(db, &room("file")).await, ["a", "b", "c"], "another process reads the file");
        assert!(peers.stop(STOP).await.complete);
    }

    async fn a_stream_is_open_once(db) {
        let pipes = Pipes::keeping_ids();
        let here = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let _pipe = pipes.connect("one");
        eventually(SOON, async || here.streams("chat") == 1).await;
        let elsewhere = Pipes::keeping_ids();
        let there = peers(db).peer(chat(&elsewhere)).start().await.unwrap();
        for pipes in [&pipes, &elsewhere] {
            assert_eq!(pipes.connect("one").next().await, None, "the second one is refused");
        }
        assert_eq!((here.streams("chat"), there.streams("chat")), (1, 0));
        assert!(here.stop(STOP).await.complete && there.stop(STOP).await.complete);
    }

    async fn wrong_declarations_are_refused_by_name(db) {
        let pipes = Pipes::new();
        let twice = peers(db).peer(chat(&pipes)).peer(chat(&pipes)).start().await.unwrap_err();
        assert!(twice.to_string().contains("chat") && twice.to_string().contains("twice"), "{twice}");
        for id in ["", "a/b", "a b", "ä"] {
            let error = peers(db).peer(Peer::new(id, pipes.clone())).start().await.unwrap_err();
            assert!(error.to_string().contains("its id"), "{error}");
        }
        let linked = peers(db).peer(chat(&pipes).linked_to("nobody")).start().await.unwrap_err();
        assert!(linked.to_string().contains("nobody"), "{linked}");
        assert!(peers(db).start().await.is_err());
    }
}
