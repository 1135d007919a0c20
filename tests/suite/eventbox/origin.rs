//! The origin of an event, from its emit through everything that the event causes.
//!
//! The value of each event is the text of the origin that it must have, or `-`.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use eventbox::admin::{self, InspectOptions, MessageFilter, Operator};
use eventbox::runtime::Runtime;
use eventbox::{
    BoxError, CloudEvent, Event, Mutation, Origin, Outcome, Recipient, Reducer, Sender, SideEffect, Transition,
    TurnOptions, outbox, timer,
};

use crate::support::running::{STOP, config};
use crate::support::{Decider, SOON, TestDb, TestEngine, drain, eventually, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn cell(key: u32) -> Recipient {
    Recipient::new("cell", key.to_string()).unwrap()
}

fn collector() -> Recipient {
    Recipient::new("collector", "1").unwrap()
}

/// Returns an event of a stream.
fn from(stream: &str, event: u64) -> Event {
    let origin = Origin::new("chat", stream, event).unwrap();
    Event::new(origin.to_string()).with_origin(origin)
}

fn inside() -> Event {
    Event::new("-")
}

fn text(origin: Option<&Origin>) -> String {
    origin.map_or_else(|| "-".to_owned(), Origin::to_string)
}

/// Checks that each event has the origin that its value says.
#[track_caller]
fn check(events: &[Event], count: usize) {
    let found: Vec<_> = events.iter().map(|event| text(event.origin())).collect();
    let wanted: Vec<_> = events.iter().map(|event| String::from_utf8_lossy(event.value())).collect();
    assert_eq!((found.len(), found), (count, wanted.iter().map(ToString::to_string).collect()));
}

async fn listed<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> Vec<Event> {
    admin::events(&db.pool, of, None, 1_000).await.unwrap()
}

/// Returns the types and origins of the messages of the outbox, sorted.
async fn messages<B: TestEngine>(db: &TestDb<B>) -> Vec<(String, String)> {
    let messages = admin::messages(&db.pool, &MessageFilter::new(), None, 1_000).await.unwrap();
    let pair = |message: &admin::MessageView| (message.event_type.clone(), text(message.origin.as_ref()));
    let mut messages: Vec<_> = messages.iter().map(pair).collect();
    messages.sort();
    messages
}

fn message(event_type: &str) -> CloudEvent {
    CloudEvent::builder("tests", event_type).build().unwrap()
}

fn pairs<const N: usize>(wanted: [(&str, &str); N]) -> Vec<(String, String)> {
    wanted.map(|(left, right)| (left.to_owned(), right.to_owned())).to_vec()
}

/// Consumes everything but events named `garbage`, which it declares superseded. Answers the collector once.
struct Answering;

impl Reducer for Answering {
    type State = u64;

    fn reduce(&self, to: &Recipient, events: &[Event], count: u64) -> Result<Outcome<u64>, BoxError> {
        let (garbage, consumed): (Vec<&Event>, Vec<&Event>) =
            events.iter().partition(|event| event.name() == Some("garbage"));
        // The value says what the origin must be, because the sender of the first event knows it.
        let answer = Event::new(events[0].value().to_vec());
        let outcome = Outcome::to(count + 1).consuming(consumed).garbage(garbage);
        Ok(outcome.emitting([(collector(), answer)]).publishing([message(to.key())]))
    }
}

on_every_engine! {
    /// Every way to emit stores the origin, in lists of every size.
    async fn every_emit_keeps_the_origin(db) {
        eventbox::emit(&db.pool, &cell(1), from("s1", 1)).await.unwrap();
        eventbox::emit(&db.pool, &cell(1), from("s1", u64::MAX).named("a")).await.unwrap();
        eventbox::emit(&db.pool, &cell(1), inside()).await.unwrap();
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        eventbox::emit(&mut *tx, &cell(1), from("\"s 2\"", 3)).await.unwrap();
        tx.commit().await.unwrap();
        let mixed =
            [(cell(1), from("s1", 4)), (cell(1), from("s3", 5).named("b")), (cell(1), inside().named("c"))];
        eventbox::emit_all(&db.pool, &mixed).await.unwrap();
        let sender = Sender::new(db.pool.clone());
        for event in [from("s1", 6), from("s1", 7).named("d"), inside()] {
            sender.emit(&cell(1), event).await.unwrap();
        }
        check(&listed(db, &cell(1)).await, 10);
        check(&drain(&db.pool, &cell(1)).await, 10);

        for size in [3_u32, 50, 400, 600] {
            let event = |n: u32| if n.is_multiple_of(3) { inside() } else { from("s1", n.into()) };
            let events: Vec<_> = (0..size).map(|n| (cell(size), event(n))).collect();
            eventbox::emit_all(&db.pool, &events).await.unwrap();
            check(&listed(db, &cell(size)).await, size as usize);
        }
    }

    /// A timer keeps its origin, and so does its event. An inspection shows both.
    async fn a_timer_keeps_the_origin(db) {
        let due = SystemTime::UNIX_EPOCH;
        eventbox::emit(&db.pool, &cell(1), from("s1", 1).due_at(due)).await.unwrap();
        let more = [(cell(1), from("s2", 2).named("a").due_at(due)), (cell(1), inside().due_at(due))];
        eventbox::emit_all(&db.pool, &more).await.unwrap();
        eventbox::emit(&db.pool, &cell(1), from("s1", 9).due_in(Duration::from_secs(3_600))).await.unwrap();
        check(&timer::timers(&db.pool, &cell(1), None, 10).await.unwrap(), 4);
        timer::move_due(&db.pool, &[cell(1).shard()], MANY).await.unwrap();
        check(&listed(db, &cell(1)).await, 3);
        let detail = admin::inspect(&db.pool, &cell(1), &InspectOptions::default()).await.unwrap();
        let shown: Vec<_> = detail.events.iter().map(|event| text(event.origin.as_ref())).collect();
        assert_eq!(shown, ["chat:s1:1", "chat:s2:2", "-"]);
        assert_eq!(text(detail.timers[0].origin.as_ref()), "chat:s1:9");
        check(&drain(&db.pool, &cell(1)).await, 3);
    }

    /// The quarantine, a replay and the journal keep the origin, and the views of an operator show it.
    async fn the_quarantine_and_the_journal_keep_the_origin(db) {
        db.run("INSERT INTO eventbox_journal_kind (kind, keep_us) VALUES ('cell', 3600000000)").await;
        let mut ids = Vec::new();
        for event in [from("s1", 1), from("s1", 2).named("a"), inside(), from("s2", 3), from("s2", 4)] {
            ids.extend(eventbox::emit(&db.pool, &cell(1), event).await.unwrap().id());
        }
        admin::quarantine(&db.pool, &cell(1), &ids[..3], "to see them come back").await.unwrap();
        let taken = admin::quarantined(&db.pool, &cell(1), None, 10).await.unwrap();
        check(&taken.into_iter().map(|taken| taken.event).collect::<Vec<_>>(), 3);
        let dead = admin::dead(&db.pool, &admin::DeadFilter::new(), None, 10).await.unwrap();
        let shown: Vec<_> = dead.iter().map(|letter| text(letter.origin.as_ref())).collect();
        assert_eq!(shown, ["chat:s1:1", "chat:s1:2", "-"]);
        let detail = admin::inspect(&db.pool, &cell(1), &InspectOptions::default()).await.unwrap();
        assert_eq!(text(detail.quarantined[1].origin.as_ref()), "chat:s1:2");
        admin::replay(&db.pool, &cell(1), &ids[..2]).await.unwrap();
        check(&listed(db, &cell(1)).await, 4);
        // One from the box, and one from the quarantine.
        admin::purge(&db.pool, &cell(1), &ids[3..4]).await.unwrap();
        admin::discard(&db.pool, &cell(1), &ids[2..3]).await.unwrap();
        let all = Decider(|events: &[Event]| Transition::stay().consuming(events).into());
        let options = TurnOptions::new(MANY).journaled();
        assert_eq!(eventbox::process_batch_with(&db.pool, &cell(1), &all, &options).await.unwrap().consumed, 3);
        let history = admin::history(&db.pool, &cell(1), None, 10).await.unwrap();
        let noted: Vec<_> = history.iter().rev().map(|entry| text(entry.origin.as_ref())).collect();
        assert_eq!(noted, ["chat:s1:1", "chat:s1:2", "-", "chat:s2:3", "chat:s2:4"]);
    }

    /// What a step emits and publishes, also in its side effect, has the origin of the events that the step consumes:
    /// each number of each stream. An event that has an origin keeps it. A step that consumes nothing has the origin of
    /// the turn.
    async fn what_a_step_causes_has_the_origin_of_its_events(db) {
        let emitted = [("s1", 1), ("s1", 4), ("s2", 9)].map(|(stream, number)| (cell(1), from(stream, number)));
        eventbox::emit_all(&db.pool, &emitted).await.unwrap();
        eventbox::emit(&db.pool, &cell(1), inside()).await.unwrap();
        let deciding = Decider(|events: &[Event]| {
            let effect = SideEffect::<Engine>::new(|tx| {
                Box::pin(async move {
                    eventbox::emit(&mut *tx, &collector(), Event::new("chat:s1:1, chat:s1:4")).await?;
                    eventbox::emit(&mut *tx, &collector(), from("own", 7).named("a")).await?;
                    let later = Event::new("chat:s1:1, chat:s1:4").due_in(Duration::from_secs(3_600));
                    eventbox::emit_all(&mut *tx, &[(collector(), later)]).await?;
                    drop(outbox::publish_in(&mut *tx, message("effect")).await?);
                    Ok(())
                })
            });
            let to_collector = |value: &'static str| [(collector(), Event::new(value))];
            let first = Transition::stay().consuming(&events[..2]).side_effect(effect);
            let first = first.emitting(to_collector("chat:s1:1, chat:s1:4")).publishing([message("first")]);
            let alone = Transition::stay().consuming(&events[2..3]).emitting(to_collector("chat:s2:9"));
            let alone = alone.publishing([message("alone")]).independent();
            let without = Transition::stay().consuming(&events[3..]).emitting(to_collector("-"));
            let without = without.publishing([message("without")]);
            let nothing = Transition::stay().emitting(to_collector("chat:s1:1, chat:s1:4, chat:s2:9"));
            Mutation::none().then(first).then(alone).then(without).then(nothing)
        });
        let turn = eventbox::process_batch(&db.pool, &cell(1), &deciding, MANY).await.unwrap();
        assert_eq!((turn.consumed, turn.failures.len()), (4, 0));
        check(&listed(db, &collector()).await, 6);
        check(&timer::timers(&db.pool, &collector(), None, 10).await.unwrap(), 1);
        let both = "chat:s1:1, chat:s1:4";
        let wanted = [("alone", "chat:s2:9"), ("effect", both), ("first", both), ("without", "-")];
        assert_eq!(messages(db).await, pairs(wanted));
        // The next event that comes from inside has none.
        eventbox::emit(&db.pool, &collector(), inside()).await.unwrap();
        check(&listed(db, &collector()).await, 7);
    }

    /// A turn of a reducer gives what it emits and publishes the merged origin of the events that it consumes and of
    /// the garbage. Messages keep it as dead letters, and when they are replayed.
    async fn what_a_reducer_causes_has_the_origin_of_its_events(db) {
        let asked = [("s2", 5, "consumed"), ("s1", 2, "garbage"), ("s2", 7, "b")]
            .map(|(stream, number, name)| (Recipient::new("cell", "told").unwrap(), from(stream, number).named(name)));
        let value = "chat:s1:2, chat:s2:5, chat:s2:7";
        let first = (asked[0].0.clone(), Event::new(value).caused_by(&asked[0].1));
        eventbox::emit_all(&db.pool, &[first, asked[1].clone(), asked[2].clone()]).await.unwrap();
        let turn = eventbox::reduce_batch(&db.pool, &asked[0].0, &Answering, MANY).await.unwrap();
        assert_eq!((turn.consumed, turn.garbage), (2, 1));
        check(&listed(db, &collector()).await, 1);
        assert_eq!(messages(db).await, pairs([("told", value)]));

        let operator = Operator::new(db.pool.clone(), "somebody");
        operator.bury_messages(&MessageFilter::new(), "to see them come back", |_| {}).await.unwrap();
        let dead = outbox::dead_letters(&db.pool, None, 10).await.unwrap();
        assert_eq!(text(dead[0].origin.as_ref()), value);
        outbox::replay_dead_letters(&db.pool, &[dead[0].id]).await.unwrap();
        assert_eq!(messages(db).await, pairs([("told", value)]));
    }

    /// In a round each recipient has the origin of its own events.
    async fn a_round_keeps_the_origins_of_its_recipients_apart(db) {
        let asking = |n: u64| {
            let event = if n.is_multiple_of(4) { inside() } else { from(&format!("s{n}"), n) };
            (Recipient::new("relay", format!("r{n}")).unwrap(), event)
        };
        let asked: Vec<_> = (0..40).map(asking).collect();
        eventbox::emit_all(&db.pool, &asked).await.unwrap();
        let runtime =
            Runtime::builder(db.pool.clone()).reducer("relay", Answering).config(config()).start().await.unwrap();
        eventually(SOON, async || listed(db, &collector()).await.len() == asked.len()).await;
        assert!(runtime.stop(STOP).await.complete);
        check(&listed(db, &collector()).await, asked.len());
        let wanted = asked.iter().map(|(to, event)| (to.key().to_owned(), text(event.origin())));
        let mut wanted: Vec<_> = wanted.collect();
        wanted.sort();
        assert_eq!(messages(db).await, wanted);
    }

    /// An origin that another program has spoilt does not keep its event from being processed.
    async fn an_unreadable_origin_is_left_out(db) {
        eventbox::emit(&db.pool, &cell(1), from("s1", 1)).await.unwrap();
        db.run("UPDATE eventbox_event SET origin = 'no origin'").await;
        let events = drain(&db.pool, &cell(1)).await;
        assert_eq!((events.len(), events[0].origin()), (1, None));
    }
}
