//! Answers: events that a turn emits find the stream of the event that caused them.

use eventbox::peer::answer_to;
use eventbox::runtime::Runtime;
use eventbox::{BoxError, Event, Outcome, Recipient, Reducer};

use super::super::pipe::Pipes;
use super::super::{STOP, chat, is_empty, out, peers, room, values};
use crate::support::{SOON, eventually, on_every_engine};

/// Passes lines on to the recipient `clerk/…`.
struct Room;

impl Reducer for Room {
    type State = ();

    fn reduce(&self, to: &Recipient, events: &[Event], (): ()) -> Result<Outcome<()>, BoxError> {
        let clerk = Recipient::new("clerk", to.key())?;
        let passed = events.iter().map(|event| (clerk.clone(), Event::new(event.value().to_vec())));
        Ok(Outcome::stay().consuming(events).emitting(passed))
    }
}

/// Answers each line on the streams from which it came.
struct Clerk;

impl Reducer for Clerk {
    type State = ();

    fn reduce(&self, _to: &Recipient, events: &[Event], (): ()) -> Result<Outcome<()>, BoxError> {
        let answers = events.iter().flat_map(|event| {
            let text = format!("{}!", String::from_utf8_lossy(event.value()));
            answer_to(event).into_iter().map(move |stream| (stream, Event::new(text.clone())))
        });
        Ok(Outcome::stay().consuming(events).emitting(answers))
    }
}

on_every_engine! {
    /// Case 10 of the acceptance cases: responses go each to its own connection, through several recipients.
    async fn answers_find_their_stream_by_their_origin(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let config = crate::support::running::config();
        let runtime = Runtime::builder(db.pool.clone()).reducer("room", Room).reducer("clerk", Clerk).config(config);
        let runtime = runtime.start().await.unwrap();
        let (mut one, mut two) = (pipes.connect("one"), pipes.connect("two"));
        for n in 0..20 {
            one.line(&format!("one {n}"));
            two.line(&format!("two {n}"));
        }
        for n in 0..20 {
            assert_eq!(one.next().await, Some(format!("one {n}!\n")));
            assert_eq!(two.next().await, Some(format!("two {n}!\n")));
        }
        is_empty(db, &out("one")).await;
        assert!(runtime.stop(STOP).await.complete && peers.stop(STOP).await.complete);
    }

    /// Case 3 of the acceptance cases, through the database: numbers count within the stream.
    async fn events_carry_the_number_of_their_stream(db) {
        let pipes = Pipes::new();
        let peers = peers(db).peer(chat(&pipes)).start().await.unwrap();
        let pipe = pipes.connect("one");
        pipe.send(b"a\nb\n".to_vec());
        eventually(SOON, async || values(db, &room("one")).await.len() == 2).await;
        let events = eventbox::admin::events(&db.pool, &room("one"), None, 10).await.unwrap();
        let origins: Vec<String> = events.iter().map(|event| event.origin().unwrap().to_string()).collect();
        assert_eq!(origins, ["chat:one:1", "chat:one:2"]);
        assert!(peers.stop(STOP).await.complete);
    }
}
