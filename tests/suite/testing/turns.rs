//! `drain`, and rehearsals, which are turns that are rolled back.

use std::num::NonZeroU32;

use eventbox::testing::{DrainError, drain, events_of, rehearse, rehearse_reducer};
use eventbox::{
    BoxError, CloudEvent, Error, Event, Mutation, Next, Outcome, PostProcess, Recipient, Reducer, ReducerAsProcessor,
    StateError, Transition,
};

use crate::support::{CellEngine, Cells, Decider, TestDb, TestEngine, create_cells, failing, noting, on_every_engine};

const FEW: NonZeroU32 = NonZeroU32::new(2).unwrap();
const MANY: NonZeroU32 = NonZeroU32::new(100).unwrap();

fn airport() -> Recipient {
    Recipient::new("airport", "JFK").unwrap()
}

/// A reducer that counts, and emits an event to itself as often as the event says.
struct Echo;

impl Reducer for Echo {
    type State = i64;

    fn reduce(&self, to: &Recipient, events: &[Event], count: i64) -> Result<Outcome<i64>, BoxError> {
        let mut outcome = Outcome::to(count + events.len() as i64).consuming(events);
        for event in events {
            let left: u32 = event.json()?;
            if let Some(left) = left.checked_sub(1) {
                outcome = outcome.emitting([(to.clone(), Event::from_json(&left)?)]);
            }
            if left == 13 {
                outcome = Outcome::gone();
            }
        }
        Ok(outcome)
    }
}

async fn rows<B: TestEngine>(db: &TestDb<B>) -> Vec<i64> {
    let mut counts = Vec::new();
    for table in ["eventbox_event", "eventbox_state", "eventbox_outbox", "eventbox_tombstone"] {
        counts.push(db.count(table).await);
    }
    counts
}

on_every_engine! {
    async fn a_recipient_is_drained_until_it_is_idle(db) {
        for left in ["3", "0"] {
            eventbox::emit(&db.pool, &airport(), Event::new(left)).await.unwrap();
        }
        let echo = ReducerAsProcessor::new(&Echo);
        let drained = drain(&db.pool, &airport(), &echo, FEW, MANY).await.unwrap();
        assert_eq!((drained.turns, drained.consumed, drained.garbage), (4, 5, 0));
        assert_eq!(eventbox::state::<i64>(&db.pool, &airport()).await.unwrap().unwrap().state, Some(5));
        assert_eq!(drain(&db.pool, &airport(), &echo, FEW, MANY).await.unwrap().turns, 0);
    }

    /// The bound of turns is exact: the needed number is enough, and one less is an error.
    async fn a_recipient_that_is_never_idle_is_an_error(db) {
        let echo = ReducerAsProcessor::new(&Echo);
        let turns = |count: u32| NonZeroU32::new(count).unwrap();
        eventbox::emit(&db.pool, &airport(), Event::new("4")).await.unwrap();
        let error = drain(&db.pool, &airport(), &echo, FEW, turns(2)).await.unwrap_err();
        assert!(matches!(error, DrainError::NeverIdle { turns: 2, .. }), "{error:?}");
        assert_eq!(drain(&db.pool, &airport(), &echo, FEW, turns(3)).await.unwrap().turns, 3);
    }

    /// `drain` runs the hooks and returns the published messages. A failing hook is an error.
    async fn a_drain_runs_the_hooks(db) {
        eventbox::emit(&db.pool, &airport(), Event::new("x")).await.unwrap();
        let publishing = Decider(|events: &[Event]| {
            if events.is_empty() {
                return Mutation::none();
            }
            let message = CloudEvent::builder("flights", "flight.delayed").build().unwrap();
            let hook = PostProcess::new(|| async { Err("the cache is gone".into()) });
            Transition::<Engine, ()>::stay().consuming(events).publishing([message]).post_process(hook).into()
        });
        let error = drain(&db.pool, &airport(), &publishing, FEW, MANY).await.unwrap_err();
        assert!(matches!(&error, DrainError::Hook { turn: 1, .. }), "{error:?}");
        assert_eq!(error.to_string(), "run the hooks of turn 1 of airport/JFK");
        assert_eq!(drain(&db.pool, &airport(), &publishing, FEW, MANY).await.unwrap().published.len(), 0);
    }

    /// A rehearsal reports everything that the turn would do, and changes nothing.
    async fn a_rehearsed_turn_leaves_nothing(db) {
        create_cells(db).await;
        let to = Recipient::new("cell", "65").unwrap();
        let other = Recipient::new("cell", "66").unwrap();
        for (to, value) in [(&to, "a"), (&to, "b"), (&to, "old"), (&other, "not of this turn")] {
            eventbox::emit(&db.pool, to, Event::new(value)).await.unwrap();
        }
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            let Some((old, events)) = events.split_last() else { return Ok(Mutation::none()) };
            let emitting = ["-", "+"].map(|sign| {
                let to = Recipient::new("cell", "66").unwrap();
                Some(eventbox::SideEffect::new(move |tx| {
                    Box::pin(
                        async move { Ok(<Engine as CellEngine>::emit(tx, &to, Event::new(sign).named(sign)).await?) },
                    )
                }))
            });
            let message = CloudEvent::builder("cells", "cell.grown").subject("65").build()?;
            let effects = eventbox::SideEffect::chain(emitting.into_iter().chain([Some(noting("an effect"))]));
            let hook = PostProcess::new(|| async { panic!("a rehearsal runs no hook") });
            let grown = Transition::to(population + events.len() as i64).consuming(events).side_effect(effects);
            Ok(Mutation::from(grown.publishing([message]).post_process(hook)).then(Transition::stay()).garbage([old]))
        });
        let before = rows(db).await;
        let waiting = events_of(&db.pool, &to).await.unwrap();
        for _ in 0..2 {
            let rehearsal = rehearse(&db.pool, &to, &cells, MANY).await.unwrap().expect("a turn");
            assert_eq!((rehearsal.next, rehearsal.hooks), (Next::To(2), 1));
            assert_eq!(rehearsal.consumed, [waiting[0].id(), waiting[1].id()]);
            assert_eq!(rehearsal.garbage, [waiting[2].id()]);
            let emitted: Vec<_> =
                rehearsal.emitted.iter().map(|(to, event)| (to.as_str(), event.value(), event.name())).collect();
            assert_eq!(emitted, [("cell/66", &b"-"[..], Some("-")), ("cell/66", b"+", Some("+"))]);
            assert_eq!(rehearsal.published.len(), 1);
            assert_eq!(rehearsal.published[0].subject(), Some("65"));
            assert!(rehearsal.published[0].idempotency_key().is_some());
        }
        assert_eq!(rows(db).await, before);
        assert_eq!((db.count("cell").await, db.count("effect").await), (0, 0));
        let turn = eventbox::process_batch(&db.pool, &to, &cells, MANY).await.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.garbage), (Some(1), 2, 1));
        assert!(rehearse(&db.pool, &to, &cells, MANY).await.unwrap().is_none(), "nothing is left to do");
    }

    /// A rehearsal covers a turn without a state, a turn with garbage only, and a wrong decision.
    async fn every_kind_of_turn_can_be_rehearsed(db) {
        eventbox::emit(&db.pool, &airport(), Event::new("x")).await.unwrap();
        let staying = Decider(|events: &[Event]| Mutation::<Engine, ()>::from(Transition::stay().consuming(events)));
        let rehearsal = rehearse(&db.pool, &airport(), &staying, MANY).await.unwrap().unwrap();
        assert_eq!((rehearsal.next, rehearsal.consumed.len()), (Next::Stay, 1));
        let dropping = Decider(|events: &[Event]| Mutation::<Engine, ()>::none().garbage(events));
        let rehearsal = rehearse(&db.pool, &airport(), &dropping, MANY).await.unwrap().unwrap();
        assert_eq!((rehearsal.next, rehearsal.garbage.len()), (Next::Stay, 1));
        let greedy = Decider(|events: &[Event]| {
            Mutation::<Engine, ()>::from(Transition::stay().consuming(events)).garbage(events)
        });
        let error = rehearse(&db.pool, &airport(), &greedy, MANY).await.unwrap_err();
        assert!(matches!(error, Error::Misuse { .. }), "{error:?}");
        let nothing = Decider(|_: &[Event]| Mutation::<Engine, ()>::from(Transition::stay()));
        assert!(rehearse(&db.pool, &airport(), &nothing, MANY).await.unwrap().is_none());
        assert_eq!(rows(db).await, [1, 0, 0, 0]);
    }

    /// A rehearsal does not report the events of a failed independent transition as consumed.
    async fn an_independent_failure_is_rehearsed(db) {
        create_cells(db).await;
        for value in ["good", "bad"] {
            eventbox::emit(&db.pool, &airport(), Event::new(value)).await.unwrap();
        }
        let cells = Cells::<Engine>::deciding(|_, events, _| {
            let each = events.iter().map(|event| {
                let effect = if event.value() == b"bad" { failing("a bad one") } else { noting("a good one") };
                Transition::to(1).consuming([event]).side_effect(effect).independent()
            });
            Ok(each.fold(Mutation::none(), Mutation::then))
        });
        let rehearsal = rehearse(&db.pool, &airport(), &cells, MANY).await.unwrap().unwrap();
        let good = events_of(&db.pool, &airport()).await.unwrap()[0].id();
        assert_eq!((rehearsal.next, rehearsal.consumed), (Next::To(1), vec![good]));
        let error = drain(&db.pool, &airport(), &cells, MANY, MANY).await.unwrap_err();
        assert!(matches!(error, DrainError::Turn(Error::Processor { .. })), "the second turn is gone: {error:?}");
        assert_eq!(events_of(&db.pool, &airport()).await.unwrap().len(), 1);
    }

    async fn a_reducer_is_rehearsed(db) {
        eventbox::emit(&db.pool, &airport(), Event::new("1")).await.unwrap();
        let rehearsal = rehearse_reducer(&db.pool, &airport(), &Echo, MANY).await.unwrap().unwrap();
        assert_eq!((rehearsal.next, rehearsal.emitted[0].0.clone()), (Next::To(1), airport()));
        assert_eq!(rehearsal.emitted[0].1.json::<u32>().unwrap(), 0);
        assert_eq!(rows(db).await, [1, 0, 0, 0]);

        drain(&db.pool, &airport(), &ReducerAsProcessor::new(&Echo), MANY, MANY).await.unwrap();
        eventbox::emit(&db.pool, &airport(), Event::new("13")).await.unwrap();
        let rehearsal = rehearse_reducer(&db.pool, &airport(), &Echo, MANY).await.unwrap().unwrap();
        assert_eq!(rehearsal.next, Next::Gone);

        db.run(if Engine::FOLDER == "postgres" {
            "UPDATE eventbox_state SET state = '\\x21'"
        } else {
            "UPDATE eventbox_state SET state = x'21'"
        })
        .await;
        let error = rehearse_reducer(&db.pool, &airport(), &Echo, MANY).await.unwrap_err();
        assert!(matches!(error, Error::State { source: StateError::Decode { .. }, .. }), "{error:?}");
    }
}
