//! The decision of a reducer happens as a whole or not at all, in turns and in rounds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use eventbox::{BoxError, CloudEvent, Event, Next, Outcome, PostProcess, Recipient, Reducer};

use super::by_every_way;
use super::reducers::{Decided, Notes, Seen, reduce, remember, seen, text};
use super::ways::{Bounds, Way, emit, it, turn_of_it, waiting};
use crate::support::{CellEngine, TestDb, TestEngine};

fn other() -> Recipient {
    Recipient::new("other", "1").unwrap()
}

fn message(payload: &str) -> CloudEvent {
    CloudEvent::builder("cells", "cell.grown").payload(payload.as_bytes().to_vec()).build().unwrap()
}

/// Returns the messages in the outbox, in the order of their publication.
async fn published<B: TestEngine>(db: &TestDb<B>) -> Vec<CloudEvent> {
    let hex = if B::FOLDER == "postgres" { "encode(payload, 'hex')" } else { "hex(payload)" };
    let rows = db.texts(format_args!("SELECT {hex} FROM eventbox_outbox ORDER BY id")).await;
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    let decoded = |row: &String| CloudEvent::decode(&row.as_bytes().chunks(2).map(byte).collect::<Vec<_>>()).unwrap();
    rows.iter().map(decoded).collect()
}

/// Publishes these messages in one turn of a way. Returns their keys in order.
async fn keys_of<B: CellEngine>(db: &TestDb<B>, way: Way, payloads: &'static [&'static str]) -> Vec<String> {
    db.run("DELETE FROM eventbox_outbox").await;
    emit(db, ["go"]).await;
    let publishing = reduce(|events, _| {
        Ok(Outcome::stay().consuming(events).publishing(payloads.iter().map(|payload| message(payload))))
    });
    let worked = way.drain(db, publishing).await;
    assert_eq!((worked.contention, worked.failures), (0, 0), "{worked:?}");
    let published = published(db).await;
    let order: Vec<_> = published.iter().map(|message| String::from_utf8_lossy(message.payload())).collect();
    assert_eq!(order, payloads);
    published.iter().map(|message| message.idempotency_key().unwrap().to_owned()).collect()
}

type Decision = dyn Fn(&[Event]) -> Outcome<Seen> + Send + Sync;

by_every_way! {
    /// The state, the removal of the events, the messages, the emitted events and the hooks belong to one turn.
    async fn everything_of_a_decision_commits_together(db, way) {
        emit(db, ["a", "b", "old"]).await;
        let notes = Arc::new(Notes::default());
        let noted = Arc::clone(&notes);
        let whole = reduce(move |events, _| {
            let hook = |note: &'static str| {
                let notes = Arc::clone(&noted);
                PostProcess::new(move || async move {
                    notes.add(note);
                    Ok(())
                })
            };
            if events.len() < 3 {
                return Ok(Outcome::stay());
            }
            Ok(Outcome::to(vec!["decided".to_owned()])
                .consuming(&events[..2])
                .garbage([&events[2]])
                .publishing([message("1"), message("2")])
                .emitting([(other(), Event::new("hello").named("h")), (it(), Event::new("again"))])
                .emitting([(other(), Event::new("hello").named("h"))])
                .post_process(hook("first"))
                .post_process(hook("second")))
        });
        let worked = way.work(db, whole, Bounds::default(), async |worked| worked.garbage > 0).await;
        let mates = way.mates();
        assert_eq!((worked.turns, worked.consumed, worked.garbage), (1 + mates, 2 + mates, 1), "{worked:?}");
        assert_eq!((worked.contention, worked.failures), (0, 0), "{worked:?}");
        assert_eq!((seen(db).await, turn_of_it(db).await), (vec!["decided".to_owned()], 1));
        assert_eq!(notes.all(), ["first", "second"]);
        assert_eq!(published(db).await.len(), 2);
        assert_eq!(waiting(db).await, 1, "what it emitted to itself");
        assert_eq!(
            db.count("eventbox_event WHERE recipient = 'other/1'").await,
            1,
            "the second of one name is a duplicate"
        );
    }

    /// The recipient, the turn, the place in the turn and the content alone make the key of a message: all ways make
    /// the same keys.
    async fn the_keys_of_messages_are_made_of_their_place(db, way) {
        let payloads = &["same", "same", "other"];
        let first = keys_of(db, way, payloads).await;
        assert_eq!(
            first.iter().collect::<BTreeSet<_>>().len(),
            3,
            "equal messages at two places are two messages: {first:?}"
        );
        let second = keys_of(db, way, payloads).await;
        assert!(second.iter().all(|key| !first.contains(key)), "another turn makes other keys: {second:?}");
        db.run("DELETE FROM eventbox_state").await;
        assert_eq!(keys_of(db, Way::Turn, payloads).await, first, "a turn makes the keys that a round makes");
        db.run("DELETE FROM eventbox_state").await;
        let content = keys_of(db, way, &["same", "changed"]).await;
        assert_eq!((&content[0], content[1] == first[1]), (&first[0], false), "other content has another key");

        db.run("DELETE FROM eventbox_state").await;
        db.run("DELETE FROM eventbox_outbox").await;
        let neighbour = Recipient::new("cell", "neighbour").unwrap();
        eventbox::emit_all(&db.pool, &[(neighbour.clone(), Event::new("go"))]).await.unwrap();
        struct Publishing;
        impl Reducer for Publishing {
            type State = Seen;
            fn reduce(&self, _: &Recipient, events: &[Event], _: Seen) -> Decided {
                Ok(Outcome::stay().consuming(events).publishing([message("same")]))
            }
        }
        let _ = eventbox::reduce_batch(&db.pool, &neighbour, &Publishing, 10.try_into().unwrap()).await.unwrap();
        let keys: Vec<_> =
            published(db).await.iter().map(|message| message.idempotency_key().unwrap().to_owned()).collect();
        assert!(!first.contains(&keys[0]), "another recipient makes other keys");
    }

    /// A message that has a key keeps it.
    async fn a_key_of_ones_own_is_kept(db, way) {
        emit(db, ["go"]).await;
        let publishing = reduce(|events, _| {
            let own = CloudEvent::builder("cells", "cell.grown").idempotency_key("mine").build()?;
            Ok(Outcome::stay().consuming(events).publishing([own]))
        });
        way.drain(db, publishing).await;
        assert_eq!(published(db).await[0].idempotency_key(), Some("mine"));
    }

    /// When one part of a decision cannot be written, no part is written. A retry writes all of it once the cause is
    /// gone.
    async fn a_failure_of_one_part_is_one_of_all(db, way) {
        emit(db, ["a"]).await;
        db.run("ALTER TABLE eventbox_outbox RENAME TO elsewhere").await;
        let notes = Arc::new(Notes::default());
        let noted = Arc::clone(&notes);
        let tried = Arc::new(AtomicBool::new(false));
        let is_tried = Arc::clone(&tried);
        let whole = reduce(move |events, seen| {
            is_tried.store(true, Ordering::SeqCst);
            let notes = Arc::clone(&noted);
            let hook = PostProcess::new(move || async move {
                notes.add("ran");
                Ok(())
            });
            let outcome = remember(events, seen)?.publishing([message("1")]).emitting([(other(), Event::new("hello"))]);
            Ok(outcome.post_process(hook))
        });
        let mut is_back = false;
        let worked = way
            .work(db, whole, Bounds::default(), async |worked| {
                if worked.failures >= 2 && !is_back {
                    assert!(tried.load(Ordering::SeqCst));
                    assert_eq!((turn_of_it(db).await, waiting(db).await), (0, 1));
                    assert_eq!(db.count("eventbox_event WHERE recipient = 'other/1'").await, 0);
                    assert!(notes.all().is_empty());
                    db.run("ALTER TABLE elsewhere RENAME TO eventbox_outbox").await;
                    is_back = true;
                }
                is_back && waiting(db).await == 0
            })
            .await;
        assert_eq!(
            (seen(db).await, turn_of_it(db).await, notes.all().len()),
            (vec!["a".to_owned()], 1, 1),
            "{worked:?}"
        );
        assert_eq!((published(db).await.len(), db.count("eventbox_event WHERE recipient = 'other/1'").await), (1, 1));
    }

    /// A turn removes garbage, also when it consumes nothing.
    async fn garbage_goes_with_the_turn(db, way) {
        emit(db, ["old", "new"]).await;
        let only_garbage =
            reduce(|events, _| Ok(Outcome::stay().garbage(events.iter().filter(|event| event.value() == b"old"))));
        let worked = way.work(db, only_garbage, Bounds::default(), async |worked| worked.garbage > 0).await;
        assert_eq!((worked.garbage, turn_of_it(db).await, waiting(db).await), (1, 1, 1), "{worked:?}");
        way.drain(db, reduce(remember)).await;
        assert_eq!((seen(db).await, turn_of_it(db).await), (vec!["new".to_owned()], 2));
    }

    /// A decision without effects is no turn, and the events stay.
    async fn nothing_decided_is_no_turn(db, way) {
        emit(db, ["a"]).await;
        let worked =
            way.work(db, reduce(|_, _| Ok(Outcome::stay())), Bounds::default(), async |worked| worked.rounds > 0).await;
        assert_eq!((worked.turns, worked.failures), (way.mates(), 0), "{worked:?}");
        assert_eq!((turn_of_it(db).await, waiting(db).await), (0, 1));
    }

    /// A decision that names an event that it was not given, or one event twice, is refused before any SQL, and loses
    /// nothing.
    async fn a_wrong_decision_is_refused(db, way) {
        let foreign = eventbox::emit(&db.pool, &other(), Event::new("foreign")).await.unwrap().id().unwrap();
        emit(db, ["a"]).await;
        let twice = |events: &[Event]| Outcome::stay().consuming(events).consuming(events);
        let both = |events: &[Event]| Outcome::stay().consuming(events).garbage(events);
        let decisions: [Box<Decision>; 3] =
            [Box::new(twice), Box::new(both), Box::new(move |_| Outcome::stay().consuming([foreign]))];
        for decision in decisions {
            let wrong = reduce(move |events, _| Ok(decision(events)));
            let worked = way.work(db, wrong, Bounds::default(), async |worked| worked.failures > 0).await;
            assert_eq!((worked.consumed, worked.turns), (way.mates(), way.mates()), "{worked:?}");
            assert_eq!((turn_of_it(db).await, waiting(db).await, db.count("eventbox_event").await), (0, 1, 2));
            db.run("DELETE FROM eventbox_failure").await;
        }
    }

    /// A panic or an error of the reducer is a failure, and changes nothing.
    async fn a_panic_or_an_error_changes_nothing(db, way) {
        emit(db, ["a"]).await;
        let decisions: [fn(&[Event], Seen) -> Decided; 2] =
            [|_, _| panic!("cannot decide"), |_, _| Err("cannot decide".into())];
        for decision in decisions {
            let worked = way.work(db, reduce(decision), Bounds::default(), async |worked| worked.failures > 0).await;
            assert_eq!(worked.turns, way.mates(), "{worked:?}");
            assert_eq!((turn_of_it(db).await, waiting(db).await), (0, 1));
            db.run("DELETE FROM eventbox_failure").await;
        }
        way.drain(db, reduce(remember)).await;
        assert_eq!(seen(db).await, ["a"]);
    }

    /// A batch has the oldest events, and the next batches have the others, to the last one.
    async fn a_batch_takes_the_oldest(db, way) {
        emit(db, ["1", "2", "3", "4", "5"]).await;
        let batches = Arc::new(Notes::default());
        let noted = Arc::clone(&batches);
        let remembering = reduce(move |events, seen| {
            noted.add(events.iter().map(text).collect::<Vec<_>>().concat());
            remember(events, seen)
        });
        let worked = way.drain_with(db, remembering, Bounds::of_events(2)).await;
        let batches: Vec<_> = batches.all().into_iter().filter(|batch| !batch.is_empty()).collect();
        assert_eq!(
            (batches, turn_of_it(db).await),
            (vec!["12".to_owned(), "34".to_owned(), "5".to_owned()], 3),
            "{worked:?}"
        );
        assert_eq!(seen(db).await, ["1", "2", "3", "4", "5"]);
    }

    /// Events that a reducer leaves for later do not hide those behind them.
    async fn events_left_for_later_hide_nothing(db, way) {
        emit(db, vec!["later"; 25].into_iter().chain(["now"])).await;
        let picky = reduce(|events, mut seen: Seen| {
            let now: Vec<_> = events.iter().filter(|event| event.value() == b"now").collect();
            if now.is_empty() {
                return Ok(Outcome::stay());
            }
            seen.extend(now.iter().map(|event| text(event)));
            Ok(Outcome::to(seen).consuming(now))
        });
        let worked = way.work(db, picky, Bounds::of_events(10), async |_| waiting(db).await == 25).await;
        assert_eq!((seen(db).await, turn_of_it(db).await, worked.contention), (vec!["now".to_owned()], 1, 0));
    }

    /// The state stays, is replaced, or is removed, and its turns keep counting.
    async fn a_state_stays_changes_and_goes(db, way) {
        struct Doing;
        impl Reducer for Doing {
            type State = Seen;
            fn reduce(&self, _: &Recipient, events: &[Event], mut seen: Seen) -> Decided {
                let Some(event) = events.first() else { return Ok(Outcome::stay()) };
                let next = match text(event).as_str() {
                    "stay" => {
                        seen.clear();
                        Next::Stay
                    }
                    "gone" => Next::Gone,
                    value => {
                        seen.push(value.to_owned());
                        Next::To(seen)
                    }
                };
                let outcome = match next {
                    Next::Stay => Outcome::stay(),
                    Next::To(seen) => Outcome::to(seen),
                    Next::Gone => Outcome::gone(),
                };
                Ok(outcome.consuming([event]))
            }
        }
        let steps: [(&str, &[&str]); 6] =
            [("a", &["a"]), ("stay", &["a"]), ("b", &["a", "b"]), ("gone", &[]), ("gone", &[]), ("c", &["c"])];
        for (turn, (value, wanted)) in (1..).zip(steps) {
            emit(db, [value]).await;
            way.drain(db, Doing).await;
            assert_eq!(
                (seen(db).await, turn_of_it(db).await),
                (wanted.iter().map(ToString::to_string).collect(), turn),
                "{value}"
            );
            let stored = db.count("eventbox_state WHERE recipient = 'cell/it' AND state IS NOT NULL").await;
            assert_eq!(stored, i64::from(!wanted.is_empty()), "{value}");
        }
    }

    /// A state over its limit is a failure and loses nothing.
    async fn a_state_over_its_limit_is_refused(db, way) {
        struct Small(usize);
        impl Reducer for Small {
            type State = String;
            fn reduce(&self, _: &Recipient, events: &[Event], state: String) -> Result<Outcome<String>, BoxError> {
                Ok(Outcome::to(state + &events.iter().map(text).collect::<String>()).consuming(events))
            }
            fn max_state_bytes(&self) -> usize {
                self.0
            }
        }
        emit(db, ["123456789"]).await;
        let worked = way.work(db, Small(10), Bounds::default(), async |worked| worked.failures > 0).await;
        assert_eq!((turn_of_it(db).await, waiting(db).await), (0, 1), "{worked:?}");
        db.run("DELETE FROM eventbox_failure").await;
        way.drain(db, Small(11)).await;
        let at = eventbox::state::<String>(&db.pool, &it()).await.unwrap().unwrap();
        assert_eq!((at.turn, at.state.as_deref()), (1, Some("123456789")));
    }

    /// An emitted event that is over its limit is a failure of the whole decision.
    async fn a_limit_of_what_is_emitted_is_one_of_the_decision(db, way) {
        emit(db, ["a"]).await;
        let too_long = reduce(|events, seen| {
            let too_long = Event::new(vec![0; eventbox::limits::MAX_VALUE_BYTES + 1]);
            Ok(remember(events, seen)?.emitting([(other(), too_long)]))
        });
        let worked = way.work(db, too_long, Bounds::default(), async |worked| worked.failures > 0).await;
        assert_eq!(
            (turn_of_it(db).await, waiting(db).await, db.count("eventbox_event").await),
            (0, 1, 1),
            "{worked:?}"
        );
    }

    /// Messages that are over the limit of a turn are a failure of the whole decision.
    async fn a_limit_of_what_is_published_is_one_of_the_decision(db, way) {
        emit(db, ["a"]).await;
        let too_much = |messages: usize| {
            reduce(move |events, seen| {
                let message = || {
                    let payload = vec![0_u8; eventbox::outbox::MAX_PUBLISHED_BYTES / 8];
                    CloudEvent::builder("cells", "cell.grown").payload(payload).build().unwrap()
                };
                Ok(remember(events, seen)?.publishing((0..messages).map(|_| message())))
            })
        };
        let worked = way.work(db, too_much(8), Bounds::default(), async |worked| worked.failures > 0).await;
        let stored = db.count("eventbox_outbox").await;
        assert_eq!((turn_of_it(db).await, waiting(db).await, stored), (0, 1, 0), "{worked:?}");
        db.run("DELETE FROM eventbox_failure").await;
        way.drain(db, too_much(1)).await;
        assert!(db.count("eventbox_outbox").await >= 1);
    }
}
