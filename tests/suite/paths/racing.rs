//! Races: the second writer has no effect, in turns and in rounds, and all ways at the same time do each thing once.

use std::num::NonZeroU32;

use eventbox::{CloudEvent, Emitted, Event, Outcome, Recipient, Reducer, ReducerAsProcessor};
use futures_util::future::join_all;

use super::by_every_way;
use super::reducers::{Decided, Seen, meddled, reduce, remember, seen, text};
use super::ways::{Bounds, Way, Worked, emit, it, turn_of_it, waiting};
use crate::support::on_every_engine;

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn other() -> Recipient {
    Recipient::new("other", "1").unwrap()
}

/// Remembers everything, publishes it, and emits it to another recipient.
fn telling(events: &[Event], seen: Seen) -> Decided {
    let message = |event: &Event| CloudEvent::builder("cells", "seen").payload(event.value().to_vec()).build();
    let messages = events.iter().map(message).collect::<Result<Vec<_>, _>>()?;
    let told = events.iter().map(|event| (other(), Event::new(event.value().to_vec())));
    Ok(remember(events, seen)?.publishing(messages).emitting(told))
}

/// Sets this state.
struct Setting(Seen);

impl Reducer for Setting {
    type State = Seen;

    fn reduce(&self, _to: &Recipient, _events: &[Event], _seen: Seen) -> Decided {
        Ok(Outcome::to(self.0.clone()))
    }
}

/// Consumes the event with this value, and declares all others garbage.
struct Keeping(&'static str);

impl Reducer for Keeping {
    type State = Seen;

    fn reduce(&self, _to: &Recipient, events: &[Event], mut seen: Seen) -> Decided {
        let (keep, garbage): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| text(event) == self.0);
        if keep.is_empty() {
            return Ok(Outcome::stay());
        }
        seen.push(self.0.to_owned());
        Ok(Outcome::to(seen).consuming(keep).garbage(garbage))
    }
}

by_every_way! {
    /// Another writer consumes the same events between the listing and the commit: the decision on them does not
    /// happen.
    async fn the_decision_of_a_loser_does_not_happen(db, way) {
        emit(db, ["once"]).await;
        let rival = db.open(1);
        let loser = meddled(reduce(telling), move |decision| {
            let rival = rival.clone();
            async move {
                if decision == 1 {
                    let turn = eventbox::reduce_batch(&rival, &it(), &reduce(telling), MANY).await.unwrap();
                    assert_eq!((turn.number, turn.consumed), (Some(1), 1));
                }
            }
        });
        let worked = way.work(db, loser, Bounds::default(), async |worked| worked.contention > 0).await;
        assert_eq!((seen(db).await, turn_of_it(db).await), (vec!["once".to_owned()], 1), "{worked:?}");
        assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_event").await), (1, 1));
    }

    /// Another writer takes a part of the listed events, at the first turn and at a later one. The decision on the rest
    /// uses the other writer's state.
    async fn a_state_never_has_an_event_twice(db, way) {
        for (turns, before) in [(0, vec![]), (3, vec!["1", "2", "3"])] {
            db.run("DELETE FROM eventbox_state").await;
            for value in &before {
                emit(db, [*value]).await;
                way.drain(db, reduce(remember)).await;
            }
            assert_eq!(turn_of_it(db).await, turns);
            emit(db, ["a", "b"]).await;
            let rival = db.open(1);
            let ours = meddled(reduce(remember), move |decision| {
                let rival = rival.clone();
                async move {
                    if decision == 1 {
                        let one = NonZeroU32::MIN;
                        let _ = eventbox::reduce_batch(&rival, &it(), &reduce(remember), one).await.unwrap();
                        eventbox::emit(&rival, &it(), Event::new("later")).await.unwrap();
                    }
                }
            });
            let worked = way.drain(db, ours).await;
            let wanted: Vec<_> = before.into_iter().chain(["a", "b", "later"]).collect();
            assert_eq!(seen(db).await, wanted, "{worked:?}");
            assert!(worked.contention >= 1, "{worked:?}");
        }
    }

    /// From A to B and back to A is a change: the decision on the first A is made again.
    async fn a_state_that_comes_back_is_another_one(db, way) {
        emit(db, ["a"]).await;
        way.drain(db, reduce(remember)).await;
        emit(db, ["b"]).await;
        let rival = db.open(1);
        let racing = meddled(reduce(remember), move |decision| {
            let rival = rival.clone();
            async move {
                if decision == 1 {
                    for next in [vec![], vec!["a".to_owned()]] {
                        assert!(
                            eventbox::reduce_batch(&rival, &it(), &Setting(next), MANY).await.unwrap().number.is_some()
                        );
                    }
                }
            }
        });
        let worked = way.drain(db, racing).await;
        assert_eq!((seen(db).await, turn_of_it(db).await), (vec!["a".to_owned(), "b".to_owned()], 4));
        assert!(worked.contention >= 1, "{worked:?}");
    }

    /// Each of two writers declares the other's event garbage: one of them commits that.
    async fn two_that_disagree_about_garbage_do_not_lose_both(db, way) {
        emit(db, ["A", "B"]).await;
        let rival = db.open(1);
        let ours = meddled(Keeping("A"), move |decision| {
            let rival = rival.clone();
            async move {
                if decision == 1 {
                    let _ = eventbox::reduce_batch(&rival, &it(), &Keeping("B"), MANY).await.unwrap();
                }
            }
        });
        way.work(db, ours, Bounds::default(), async |worked| worked.contention > 0).await;
        assert_eq!((seen(db).await, waiting(db).await), (vec!["B".to_owned()], 0));
    }

    /// A re-send of a name meets the decision on its event, and the time after the turn. The first value stays.
    async fn a_name_that_is_sent_again_changes_nothing(db, way) {
        let again = |value: &'static str| Event::new(value).named("order-7");
        assert_eq!(eventbox::emit(&db.pool, &it(), again("first")).await.unwrap(), Emitted::Added);
        let sender = db.open(1);
        let ours = meddled(reduce(remember), move |_| {
            let sender = sender.clone();
            async move {
                assert_ne!(
                    eventbox::emit(&sender, &it(), Event::new("second").named("order-7")).await.unwrap(),
                    Emitted::Added
                );
            }
        });
        way.drain(db, ours).await;
        assert_eq!(eventbox::emit(&db.pool, &it(), again("third")).await.unwrap(), Emitted::Tombstoned);
        assert_eq!((seen(db).await, waiting(db).await), (vec!["first".to_owned()], 0));
    }
}

on_every_engine! {
    /// Turns and rounds of one and of many recipients, and of a processor, race for one box: each event is consumed once, in the order of
    /// the emits.
    async fn all_ways_at_once_do_each_thing_once(db) {
        const EVENTS: i64 = 300;
        emit(db, (0..EVENTS / 2).map(|n| format!("{n:03}"))).await;
        let few = NonZeroU32::new(7).unwrap();
        let pool = db.open(2);
        let turns = async {
            while turn_of_it(db).await == 0 || waiting(db).await > 0 {
                match eventbox::process_batch(&pool, &it(), &ReducerAsProcessor::<_>::new(&reduce(telling)), few).await
                {
                    Ok(_) => {}
                    Err(error) => assert!(error.is_contention(), "{error:?}"),
                }
            }
        };
        let rounds = [Way::RoundOfOne, Way::RoundOfMany, Way::RoundOfProcessor].map(async |way| {
            let done = async |_: &Worked| seen(db).await.len() as i64 == EVENTS;
            way.work(db, reduce(telling), Bounds::of_events(11), done).await
        });
        let sending = emit(db, (EVENTS / 2..EVENTS).map(|n| format!("{n:03}")));
        tokio::join!(turns, join_all(rounds), sending);
        let wanted: Vec<_> = (0..EVENTS).map(|n| format!("{n:03}")).collect();
        assert_eq!(seen(db).await, wanted);
        assert_eq!(db.count("eventbox_outbox").await, EVENTS);
        assert_eq!(db.count("eventbox_event WHERE recipient = 'other/1'").await, EVENTS);
    }
}
