//! Faults and declarations of user code: panics, endless waits, failing hooks, independent transitions.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use eventbox::{Error, Event, Mutation, PostProcess, Recipient, SideEffect, Transition, TurnOptions};

use crate::support::{Cells, create_cells, drain, failing, noting, on_every_engine};

const MANY: NonZeroU32 = NonZeroU32::new(1_000).unwrap();

fn cell() -> Recipient {
    Recipient::new("cell", "1").unwrap()
}

on_every_engine! {
    /// A panic at any step is an error of this recipient. The turn rolls back, no event is lost, and the pool stays
    /// usable.
    async fn a_panic_is_an_error(db) {
        create_cells(db).await;
        eventbox::emit(&db.pool, &cell(), Event::new("x")).await.unwrap();
        let one = db.open(1);
        let deciding = Cells::<Engine>::deciding(|_, _, _| panic!("cannot decide"));
        let in_effect = Cells::<Engine>::deciding(|_, events, _| {
            let boom = SideEffect::new(|_tx| Box::pin(async { panic!("cannot do it") }));
            Ok(Transition::to(1)
                .consuming(events)
                .side_effect(SideEffect::chain([Some(noting("ran")), Some(boom)]))
                .into())
        });
        for (cells, wanted) in [(deciding, "it panicked: cannot decide"), (in_effect, "it panicked: cannot do it")] {
            let error = eventbox::process_batch(&one, &cell(), &cells, MANY).await.unwrap_err();
            assert!(matches!(error, Error::Processor { .. }), "{error}");
            assert_eq!(std::error::Error::source(&error).unwrap().to_string(), wanted);
        }
        assert_eq!((db.count("effect").await, db.count("eventbox_state").await), (0, 0));
        assert_eq!(drain(&one, &cell()).await.len(), 1);
    }

    /// The deadline ends code that never returns, before the transaction and inside it. Nothing of the turn is stored.
    async fn code_that_never_returns_is_given_up(db) {
        create_cells(db).await;
        eventbox::emit(&db.pool, &cell(), Event::new("x")).await.unwrap();
        let one = db.open(1);
        let deciding = Cells::<Engine>::deciding(|_, events, _| Ok(Transition::to(1).consuming(events).into()))
            .before_deciding(|_| std::future::pending());
        let in_effect = Cells::<Engine>::deciding(|_, events, _| {
            let endless = SideEffect::new(|_tx| Box::pin(std::future::pending()));
            Ok(Transition::to(1)
                .consuming(events)
                .side_effect(SideEffect::chain([Some(noting("ran")), Some(endless)]))
                .into())
        });
        let options = TurnOptions::new(MANY).deadline(Duration::from_millis(300));
        for cells in [deciding, in_effect] {
            let error = eventbox::process_batch_with(&one, &cell(), &cells, &options).await.unwrap_err();
            assert!(matches!(error, Error::Deadline { .. }) && !error.is_transient(), "{error}");
            assert!(error.to_string().contains("cell/1") && error.to_string().contains("300ms"), "{error}");
        }
        assert_eq!((db.count("effect").await, db.count("eventbox_state").await), (0, 0));
        assert_eq!(drain(&one, &cell()).await.len(), 1);
    }

    /// All hooks run, also those behind a hook that fails or panics. Their errors come back together.
    async fn all_hooks_run_and_their_errors_are_joined(db) {
        create_cells(db).await;
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let cells = Cells::<Engine>::deciding(move |_, _, _| {
            let hook = |what: Option<&'static str>| {
                let count = Arc::clone(&count);
                PostProcess::new(move || async move {
                    count.fetch_add(1, Ordering::SeqCst);
                    match what {
                        Some("panics") => panic!("third panics"),
                        Some(error) => Err(error.into()),
                        None => Ok(()),
                    }
                })
            };
            Ok([Some("first fails"), None, Some("panics"), None]
                .into_iter()
                .fold(Mutation::none(), |mutation, what| mutation.then(Transition::stay().post_process(hook(what)))))
        });
        let said = "2 hooks failed; first fails; it panicked: third panics";
        let turn = eventbox::process_batch(&db.pool, &cell(), &cells, MANY).await.unwrap();
        assert_eq!((ran.load(Ordering::SeqCst), turn.post_process.len()), (4, 0));
        assert_eq!(turn.hook_errors.unwrap().to_string(), said);

        let options = TurnOptions::new(MANY).return_hooks();
        let mut turn = eventbox::process_batch_with(&db.pool, &cell(), &cells, &options).await.unwrap();
        assert_eq!((ran.load(Ordering::SeqCst), turn.post_process.len()), (4, 4));
        assert!(turn.hook_errors.is_none());
        assert_eq!(turn.run_hooks().await.unwrap_err().to_string(), said);
        assert_eq!(ran.load(Ordering::SeqCst), 8);
        turn.run_hooks().await.unwrap();
    }

    async fn hooks_that_take_too_long_are_given_up_and_the_turn_stands(db) {
        create_cells(db).await;
        let ran = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ran);
        let cells = Cells::<Engine>::deciding(move |_, _, _| {
            let count = Arc::clone(&count);
            let endless = PostProcess::new(std::future::pending);
            let counting = PostProcess::new(move || async move {
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            });
            let transition = Transition::stay().post_process(endless);
            Ok(Mutation::none().then(transition).then(Transition::stay().post_process(counting)))
        });
        let limit = Duration::from_millis(20);
        let options = TurnOptions::new(MANY).hook_deadline(limit);
        let turn = eventbox::process_batch_with(&db.pool, &cell(), &cells, &options).await.unwrap();
        assert_eq!(turn.number, Some(1));
        assert_eq!(
            turn.hook_errors.unwrap().to_string(),
            "1 hook failed; not done within 20ms: the hooks behind it did not run"
        );
        assert_eq!(ran.load(Ordering::SeqCst), 0);

        // The caller who runs them may give up one and go on with the others.
        let options = TurnOptions::new(MANY).return_hooks();
        let mut turn = eventbox::process_batch_with(&db.pool, &cell(), &cells, &options).await.unwrap();
        tokio::time::timeout(limit, turn.run_hooks()).await.unwrap_err();
        turn.run_hooks().await.unwrap();
        assert_eq!(ran.load(Ordering::SeqCst), 1);
    }

    /// An independent transition fails alone: its events stay, and the other transitions commit.
    async fn an_independent_transition_fails_alone(db) {
        create_cells(db).await;
        for value in ["good", "bad", "better"] {
            eventbox::emit(&db.pool, &cell(), Event::new(value)).await.unwrap();
        }
        let cells = || Cells::<Engine>::deciding(|_, events, population| {
            Ok(events.iter().fold(Mutation::none(), |mutation, event| {
                let value = String::from_utf8_lossy(event.value()).into_owned();
                let fails = (value == "bad").then(|| failing("bad event"));
                let effect = SideEffect::chain([Some(noting(value)), fails]);
                mutation.then(Transition::to(population + 1).consuming([event]).side_effect(effect).independent())
            }))
        });
        let turn = eventbox::process_batch(&db.pool, &cell(), &cells(), MANY).await.unwrap();
        assert_eq!((turn.number, turn.consumed, turn.failures.len(), turn.more_remain), (Some(1), 2, 1, false));
        assert_eq!((turn.failures[0].events.len(), turn.failures[0].error.to_string().as_str()), (1, "bad event"));
        assert_eq!(db.number("SELECT count(*) FROM effect WHERE text = 'bad'").await, 0);
        assert_eq!((db.count("effect").await, db.count("eventbox_event").await), (2, 1));
        assert_eq!(db.number("SELECT population FROM cell").await, 1);
    }

    /// When every transition of a turn fails, the turn does not commit and returns the failure.
    async fn independent_failures_alone_are_no_turn(db) {
        create_cells(db).await;
        eventbox::emit(&db.pool, &cell(), Event::new("bad")).await.unwrap();
        let cells = Cells::<Engine>::deciding(|_, events, _| {
            Ok(Transition::stay().consuming(events).side_effect(failing("bad event")).independent().into())
        });
        let error = eventbox::process_batch(&db.pool, &cell(), &cells, MANY).await.unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "bad event");
        assert_eq!((db.count("eventbox_state").await, db.count("eventbox_event").await), (0, 1));
    }
}
