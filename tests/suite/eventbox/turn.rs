//! A turn: the writes that commit together, the writes that roll back together, and decisions that are no turn.

use std::num::NonZeroU32;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use eventbox::{
    EVersion, Error, Event, Misuse, Mutation, PostProcess, Processor, Recipient, SideEffect, Transition, Turn,
};

use crate::support::{CellEngine, Cells, TestDb, create_cells, failing, noting, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn cell(key: u32) -> Recipient {
    Recipient::new("cell", key.to_string()).unwrap()
}

async fn emit<B: CellEngine>(db: &TestDb<B>, to: &Recipient, value: &'static str) {
    let mut tx = eventbox::begin(&db.pool).await.unwrap();
    B::emit(&mut tx, to, Event::new(value)).await.unwrap();
    tx.commit().await.unwrap();
}

async fn process<B: CellEngine>(db: &TestDb<B>, to: &Recipient, cells: &Cells<B>) -> eventbox::Result<Turn> {
    eventbox::process_batch(&db.pool, to, cells, MANY).await
}

/// Returns the values of the events in a box, oldest first.
async fn waiting<B: CellEngine>(db: &TestDb<B>, to: &Recipient) -> Vec<String> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let looker = Cells::<B>::deciding(move |_, events, _| {
        *sink.lock().unwrap() =
            events.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()).collect();
        Ok(Mutation::none())
    });
    let _ = process(db, to, &looker).await.unwrap();
    Arc::try_unwrap(seen).unwrap_or_else(|shared| Mutex::new(shared.lock().unwrap().clone())).into_inner().unwrap()
}

/// Returns the population and the version of a cell.
async fn state_of<B: CellEngine>(db: &TestDb<B>, to: &Recipient) -> (i64, i64) {
    B::load(&mut *db.pool.acquire().await.unwrap(), to.as_str()).await.unwrap()
}

/// Consumes all events, and adds their number to the population.
fn counting<B: CellEngine>() -> Cells<B> {
    Cells::deciding(|_, events, population| match events {
        [] => Ok(Mutation::none()),
        events => Ok(Transition::to(population + events.len() as i64).consuming(events).into()),
    })
}

/// Builds a cell. With `-` it shrinks, and with `+` it grows by 1 an event. Without events it grows by 3 from
/// population 1 or 2. An empty cell sends `-` to the next cell.
fn life<B: CellEngine>() -> Cells<B> {
    fn sending<B: CellEngine>(to: Recipient, sign: &'static str) -> SideEffect<B> {
        SideEffect::new(move |tx| Box::pin(async move { Ok(B::emit(tx, &to, Event::new(sign)).await?) }))
    }
    Cells::deciding(|to, events, population| {
        let key: u32 = to.key().parse()?;
        let (plus, minus): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| event.value() == b"+");
        if !minus.is_empty() {
            let back = (population > 1).then(|| sending(cell(key - 1), "+"));
            return Ok(Transition::to((population - 1).max(0)).consuming(minus).side_effect(back).into());
        }
        if let Some(first) = plus.first() {
            return Ok(Transition::to(population + 1).consuming([*first]).into());
        }
        Ok(match population {
            0 => Transition::stay().side_effect(sending(cell(key + 1), "-")).into(),
            1 | 2 => Transition::to(population + 3).into(),
            _ => Mutation::none(),
        })
    })
}

on_every_engine! {
    /// A turn consumes the event and saves the state. A turn without events may still save. A cell with nothing to do
    /// has no turn.
    async fn a_cell_takes_an_event_then_grows_then_rests(db) {
        create_cells(db).await;
        emit(db, &cell(65), "+").await;
        assert_eq!(waiting(db, &cell(65)).await, ["+"]);
        let turn = process(db, &cell(65), &life()).await.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.more_remain, turn.post_process.len()), (Some(1), 1, false, 0));
        assert_eq!(state_of(db, &cell(65)).await, (1, 1));
        let _ = process(db, &cell(65), &life()).await.unwrap();
        assert_eq!(state_of(db, &cell(65)).await, (4, 2));
        assert_eq!(process(db, &cell(65), &life()).await.unwrap().number, None);
        assert_eq!(state_of(db, &cell(65)).await, (4, 2));
    }

    /// A turn that keeps the state runs its side effect and raises the turn's number, but not the entity's version.
    async fn cells_send_to_each_other(db) {
        create_cells(db).await;
        emit(db, &cell(65), "+").await;
        for _ in 0..2 {
            let _ = process(db, &cell(65), &life()).await.unwrap();
        }
        for number in 1..=2 {
            assert_eq!(process(db, &cell(64), &life()).await.unwrap().number, Some(number));
        }
        assert_eq!(waiting(db, &cell(65)).await, ["-", "-"]);
        assert_eq!(state_of(db, &cell(64)).await, (0, 0));
        let _ = process(db, &cell(65), &life()).await.unwrap();
        assert_eq!((state_of(db, &cell(65)).await, waiting(db, &cell(65)).await.len()), ((3, 3), 0));
        assert_eq!(waiting(db, &cell(64)).await, ["+"]);
        let _ = process(db, &cell(64), &life()).await.unwrap();
        assert_eq!(state_of(db, &cell(64)).await, (1, 1));
        emit(db, &cell(64), "-").await;
        let _ = process(db, &cell(64), &life()).await.unwrap();
        assert_eq!(waiting(db, &cell(63)).await.len(), 0);
    }

    /// A batch needs several turns when a decision takes one `+` at a time.
    async fn a_crowded_cell_takes_one_thing_a_turn(db) {
        create_cells(db).await;
        for sign in ["+", "-", "+", "-", "+"] {
            emit(db, &cell(49), sign).await;
        }
        // The `-` events are consumed together with one `+`, as they come in one batch.
        let cells = Cells::<Engine>::deciding(|_, events, population| {
            let (plus, minus): (Vec<&Event>, Vec<&Event>) = events.iter().partition(|event| event.value() == b"+");
            let steps = Mutation::none();
            let steps = if minus.is_empty() {
                steps
            } else {
                steps.then(Transition::to((population - 1).max(0)).consuming(minus))
            };
            let Some(first) = plus.first() else { return Ok(steps) };
            Ok(steps.then(Transition::to(population + 1).consuming([*first])))
        });
        let _ = process(db, &cell(49), &cells).await.unwrap();
        assert_eq!((state_of(db, &cell(49)).await.1, waiting(db, &cell(49)).await), (1, vec!["+".to_owned(); 2]));
        for population in [2, 3] {
            let _ = process(db, &cell(49), &cells).await.unwrap();
            assert_eq!(state_of(db, &cell(49)).await.0, population);
        }
        assert_eq!(waiting(db, &cell(49)).await.len(), 0);
    }

    /// An error of the decision is permanent and names the recipient. The event stays, and no state is stored.
    async fn an_error_of_the_decision_leaves_the_events(db) {
        create_cells(db).await;
        emit(db, &cell(1), "x").await;
        let error = process(db, &cell(1), &Cells::deciding(|_, _, _| Err("cannot decide".into()))).await.unwrap_err();
        assert!(matches!(error, Error::Processor { .. }) && !error.is_transient(), "{error}");
        assert_eq!(error.to_string(), "prepare a mutation of cell/1: the processor failed");
        assert_eq!(waiting(db, &cell(1)).await, ["x"]);
        assert_eq!(db.count("eventbox_state").await, 0);
    }

    /// A version that another writer has changed is contention. The turn is retried `MAX_CONTENTION_RETRIES` times, and
    /// no side effect remains.
    async fn another_version_is_contention_and_no_side_effect_runs(db) {
        create_cells(db).await;
        emit(db, &cell(1), "x").await;
        assert!(matches!(process(db, &cell(1), &counting().failing_to_fetch()).await, Err(Error::Processor { .. })));

        let outsider = db.open(1);
        let overtaken =
            Cells::deciding(|_, events, _| Ok(Transition::to(1).consuming(events).side_effect(noting("ran")).into()))
                .before_deciding(move |attempt| {
                    let outsider = outsider.clone();
                    async move {
                        Engine::save(&mut *outsider.acquire().await.unwrap(), "cell/1", 70, attempt as i64)
                            .await
                            .unwrap();
                    }
                });
        let error = process(db, &cell(1), &overtaken).await.unwrap_err();
        assert!(error.is_contention() && error.is_transient(), "{error}");
        assert!(error.to_string().contains("eversion"), "{error}");
        assert_eq!(overtaken.loads.load(Ordering::SeqCst), 1 + eventbox::limits::MAX_CONTENTION_RETRIES);
        assert_eq!((db.count("effect").await, waiting(db, &cell(1)).await.len()), (0, 1));
    }

    /// An error of one side effect rolls back the side effect before it, the state and the removal of the events.
    async fn a_failing_side_effect_rolls_the_turn_back(db) {
        create_cells(db).await;
        emit(db, &cell(1), "a").await;
        emit(db, &cell(1), "b").await;
        let cells = Cells::deciding(|_, events, _| {
            Ok(Mutation::none()
                .then(Transition::to(1).consuming(&events[..1]).side_effect(noting("first")))
                .then(Transition::to(2).consuming(&events[1..]).side_effect(failing("second fails"))))
        });
        let error = process(db, &cell(1), &cells).await.unwrap_err();
        assert_eq!(error.to_string(), "run a side effect of cell/1: the processor failed");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "second fails");
        assert_eq!((db.count("effect").await, waiting(db, &cell(1)).await.len()), (0, 2));
        assert_eq!((state_of(db, &cell(1)).await, db.count("eventbox_state").await), ((0, 0), 0));
    }

    /// A failed save leaves no trace of the turn. The same decision with a save that works commits all of it.
    async fn a_failing_save_rolls_the_turn_back(db) {
        create_cells(db).await;
        emit(db, &cell(1), "x").await;
        let decide = || {
            Cells::deciding(|_, events, _| Ok(Transition::to(5).consuming(events).side_effect(noting("ran")).into()))
        };
        assert!(process(db, &cell(1), &decide().failing_to_save()).await.is_err());
        assert_eq!((db.count("effect").await, waiting(db, &cell(1)).await.len()), (0, 1));
        let working = decide();
        let _ = process(db, &cell(1), &working).await.unwrap();
        assert_eq!((db.count("effect").await, waiting(db, &cell(1)).await.len()), (1, 0));
        assert_eq!((state_of(db, &cell(1)).await, working.saves.load(Ordering::SeqCst)), ((5, 1), 1));
    }

    /// A decision that does nothing opens no transaction. Each part that a transition can have opens one.
    async fn nothing_to_do_is_no_turn(db) {
        create_cells(db).await;
        emit(db, &cell(1), "x").await;
        for nothing in [
            Cells::<Engine>::deciding(|_, _, _| Ok(Mutation::none())),
            Cells::deciding(|_, _, _| Ok(Transition::stay().into())),
            Cells::deciding(|_, _, _| {
                Ok(Mutation::none()
                    .then(Transition::stay())
                    .then(Transition::stay().side_effect(SideEffect::chain([None, None]))))
            }),
        ] {
            let turn = process(db, &cell(1), &nothing).await.unwrap();
            assert_eq!((turn.number, turn.post_process.len(), nothing.fetches.load(Ordering::SeqCst)), (None, 0, 0));
            assert!(!turn.more_remain, "a processor that waits for more is not asked again at once");
        }
        for something in [
            Cells::<Engine>::deciding(|_, _, population| Ok(Transition::to(population).into())),
            Cells::deciding(|_, events, _| Ok(Transition::stay().consuming(events).into())),
            Cells::deciding(|_, _, _| Ok(Transition::stay().side_effect(noting("ran")).into())),
            Cells::deciding(|_, _, _| {
                Ok(Transition::stay().post_process(PostProcess::new(|| async { Ok(()) })).into())
            }),
        ] {
            assert!(process(db, &cell(1), &something).await.unwrap().number.is_some());
            assert_eq!(something.fetches.load(Ordering::SeqCst), 1);
        }
    }

    /// Garbage is removed with the turn, also when the turn has nothing else. An error keeps the garbage in the box.
    async fn garbage_goes_with_the_turn(db) {
        create_cells(db).await;
        emit(db, &cell(1), "old").await;
        emit(db, &cell(1), "new").await;
        let only_garbage = Cells::deciding(|_, events, _| Ok(Mutation::none().garbage(&events[..1])));
        let turn = process(db, &cell(1), &only_garbage).await.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.garbage, turn.more_remain), (Some(1), 0, 1, true));
        assert_eq!(waiting(db, &cell(1)).await, ["new"]);

        let with_error = Cells::deciding(|_, events, _| {
            Ok(Mutation::from(Transition::stay().side_effect(failing("fails"))).garbage(events))
        });
        assert!(process(db, &cell(1), &with_error).await.is_err());
        assert_eq!(waiting(db, &cell(1)).await, ["new"]);
    }

    /// The turn returns the hooks in the order of the transitions, and runs none of them.
    async fn hooks_come_back_in_order(db) {
        create_cells(db).await;
        let ran = Arc::new(Mutex::new(Vec::new()));
        let hook = {
            let ran = Arc::clone(&ran);
            move |name: &'static str| {
                let ran = Arc::clone(&ran);
                PostProcess::new(move || async move {
                    ran.lock().unwrap().push(name);
                    Ok(())
                })
            }
        };
        let cells = Cells::deciding(move |_, _, _| {
            Ok(Mutation::none()
                .then(Transition::to(1).post_process(hook("first")))
                .then(Transition::to(2))
                .then(Transition::stay().post_process(hook("third"))))
        });
        let turn = process(db, &cell(1), &cells).await.unwrap();
        assert!(turn.hook_errors.is_none());
        assert_eq!(*ran.lock().unwrap(), ["first", "third"]);
        assert_eq!(state_of(db, &cell(1)).await, (2, 1));
    }

    /// A chain skips its empty places, runs the side effects in order, and stops at the first error.
    async fn chained_side_effects_run_in_order_until_one_fails(db) {
        create_cells(db).await;
        assert!(SideEffect::<Engine>::chain([None, None]).is_none());
        let cells = Cells::deciding(|_, _, population| {
            let fails = (population == 0).then(|| failing("stops the rest"));
            Ok(Transition::to(1)
                .side_effect(SideEffect::chain([
                    None,
                    Some(noting("f2")),
                    fails,
                    Some(noting("f1")),
                    None,
                    Some(noting("f2")),
                ]))
                .into())
        });
        assert!(process(db, &cell(1), &cells).await.is_err());
        assert_eq!(db.count("effect").await, 0);
        Engine::save(&mut *db.pool.acquire().await.unwrap(), "cell/1", 7, 1).await.unwrap();
        let _ = process(db, &cell(1), &cells).await.unwrap();
        assert_eq!(db.number("SELECT count(*) FROM effect WHERE text = 'f2'").await, 2);
        assert_eq!(db.number("SELECT count(*) FROM effect WHERE text = 'f1'").await, 1);
    }

    /// An event that was not listed, or that a decision names twice, is refused before any SQL. No event is lost.
    async fn a_wrong_decision_is_refused(db) {
        create_cells(db).await;
        emit(db, &cell(1), "x").await;
        emit(db, &cell(2), "foreign").await;
        let foreign = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&foreign);
        let _ = process(db, &cell(2), &Cells::deciding(move |_, events, _| {
            sink.lock().unwrap().extend_from_slice(events);
            Ok(Mutation::none())
        })).await.unwrap();
        let foreign = foreign.lock().unwrap().clone();

        let not_listed = Cells::deciding(move |_, _, _| Ok(Transition::stay().consuming(&foreign).into()));
        let twice =
            Cells::deciding(|_, events, _| Ok(Mutation::from(Transition::stay().consuming(events)).garbage(events)));
        for (cells, wanted) in [(not_listed, "not in its batch"), (twice, "twice")] {
            let error = process(db, &cell(1), &cells).await.unwrap_err();
            assert!(matches!(
                &error,
                Error::Misuse { misuse: Misuse::NotListed { .. } | Misuse::ConsumedTwice { .. }, .. }
            ));
            assert!(error.to_string().contains(wanted) && error.to_string().contains("cell/1"), "{error}");
            assert_eq!(cells.fetches.load(Ordering::SeqCst), 0);
        }
        assert_eq!((waiting(db, &cell(1)).await.len(), waiting(db, &cell(2)).await.len()), (1, 1));
    }

    /// A batch takes the oldest events and says that more remain.
    async fn a_batch_takes_the_oldest_and_tells_of_more(db) {
        create_cells(db).await;
        for value in ["1", "2", "3", "4", "5"] {
            emit(db, &cell(1), value).await;
        }
        let two = NonZeroU32::new(2).unwrap();
        let mut turns = Vec::new();
        loop {
            let turn = eventbox::process_batch(&db.pool, &cell(1), &counting(), two).await.unwrap();
            turns.push((turn.number, turn.consumed, turn.more_remain));
            if !turn.more_remain {
                break;
            }
        }
        assert_eq!(turns, [(Some(1), 2, true), (Some(2), 2, true), (Some(3), 1, false)]);
    }

    /// A message of a turn is in the outbox exactly if the turn commits. Its key is made from its place in the turn.
    async fn messages_commit_with_the_turn(db) {
        create_cells(db).await;
        let message =
            |text: &'static str| eventbox::CloudEvent::builder("cells", "cell.grown").payload(text).build().unwrap();
        let publishing = |fail: bool| {
            Cells::deciding(move |_, _, _| {
                let effect = fail.then(|| failing("fails"));
                Ok(Transition::to(1)
                    .side_effect(effect)
                    .publishing([message("same"), message("same"), message("other")])
                    .into())
            })
        };
        assert!(process(db, &cell(1), &publishing(true)).await.is_err());
        assert_eq!(db.count("eventbox_outbox").await, 0);
        let turn = process(db, &cell(1), &publishing(false)).await.unwrap();
        assert_eq!((turn.published.len(), db.count("eventbox_outbox").await), (3, 3));
        let mut keys: Vec<_> =
            turn.published.iter().map(|stored| stored.event().idempotency_key().unwrap().to_owned()).collect();
        let in_order = keys.clone();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 3, "equal messages at two places are two messages");
        db.run("DELETE FROM eventbox_state").await;
        db.run("DELETE FROM cell").await;
        let again = process(db, &cell(1), &publishing(false)).await.unwrap();
        let again: Vec<_> =
            again.published.iter().map(|stored| stored.event().idempotency_key().unwrap().to_owned()).collect();
        assert_eq!(again, in_order, "the same turn of the same recipient makes the same keys");
    }

    /// A processor may use a pool of one connection: the library holds no connection while the processor decides, and
    /// never two at once.
    async fn a_pool_of_one_is_enough(db) {
        create_cells(db).await;
        emit(db, &cell(1), "x").await;
        let one = db.open(1);
        let inner = one.clone();
        let cells = counting::<Engine>().before_deciding(move |_| {
            let inner = inner.clone();
            async move { drop(inner.acquire().await.unwrap()) }
        });
        let _ = eventbox::process_batch(&one, &cell(1), &cells, MANY).await.unwrap();
        assert_eq!(state_of(db, &cell(1)).await, (1, 1));
    }

    /// The version of an entity belongs to the user. The turn passes the loaded version plus one.
    async fn the_saved_version_is_the_loaded_one_plus_one(db) {
        create_cells(db).await;
        Engine::save(&mut *db.pool.acquire().await.unwrap(), "cell/1", 9, 41).await.unwrap();
        emit(db, &cell(1), "x").await;
        let _ = process(db, &cell(1), &counting()).await.unwrap();
        assert_eq!(state_of(db, &cell(1)).await, (10, 42));
        let fetched = <Cells<Engine> as Processor<Engine>>::fetch_eversion(
            &counting(),
            &mut *db.pool.acquire().await.unwrap(),
            &cell(1),
        )
        .await;
        assert_eq!(fetched.unwrap(), EVersion(42));
    }
}
