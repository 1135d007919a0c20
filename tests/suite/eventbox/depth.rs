//! `emit_with`: the depth of the box, and boxes that are full.

use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use ::eventbox::testing::Clock;
use ::eventbox::{
    DepthClass, EmitOptions, Emitted, Error, Event, Misuse, Recipient, begin, emit, emit_all, emit_with,
    limits::{MANY_WAITING, MAX_MAX_WAITING},
    timer,
};
use futures_util::future::join_all;

use crate::support::{drain, on_every_engine};

fn aircraft() -> Recipient {
    Recipient::new("aircraft", "N14228").unwrap()
}

fn at_most(events: u32) -> EmitOptions {
    EmitOptions::new().max_waiting(NonZeroU32::new(events).unwrap())
}

fn is_full<T>(emitted: &Result<T, Error>, bound: u32) -> bool {
    matches!(emitted, Err(Error::Full { max_waiting, .. }) if *max_waiting == bound)
}

on_every_engine! {
    /// The class has documented bounds, and the age is that of the oldest event of this box. The event itself does not
    /// count.
    async fn an_emit_tells_how_deep_the_box_is(db) {
        let clock = Clock::at(SystemTime::now() - Duration::from_secs(3_600));
        clock.scope(async {
            let other = Recipient::new("aircraft", "N14228x").unwrap();
            emit(&db.pool, &other, Event::new("elsewhere")).await.unwrap();
            let later = Event::new("a timer").due_in(Duration::from_secs(3_600));
            emit(&db.pool, &aircraft(), later).await.unwrap();
            clock.advance(Duration::from_secs(60));
            let mut seen = Vec::new();
            for n in 0..3 {
                let event = Event::new(n.to_string());
                let event = if n == 1 { event.named("n") } else { event };
                let (receipt, depth) = emit_with(&db.pool, &aircraft(), event, EmitOptions::new()).await.unwrap();
                assert_eq!(receipt, Emitted::Added);
                seen.push((depth.class, depth.oldest_age.as_secs()));
                clock.advance(Duration::from_secs(10));
            }
            assert_eq!(seen, [(DepthClass::Empty, 0), (DepthClass::Few, 10), (DepthClass::Few, 20)]);
        }).await;

        let waiting = MANY_WAITING as usize - 1;
        let more: Vec<_> = (3..waiting).map(|n| (aircraft(), Event::new(n.to_string()))).collect();
        emit_all(&db.pool, &more).await.unwrap();
        for class in [DepthClass::Few, DepthClass::Many, DepthClass::Many] {
            let (_, depth) = emit_with(&db.pool, &aircraft(), Event::new("x"), EmitOptions::new()).await.unwrap();
            assert_eq!(depth.class, class);
            assert!(depth.oldest_age > Duration::from_secs(3_000), "{depth:?}");
        }
        assert_eq!(drain(&db.pool, &aircraft()).await.len(), waiting + 3);
        let (_, depth) = emit_with(&db.pool, &aircraft(), Event::new("x"), EmitOptions::new()).await.unwrap();
        assert_eq!((depth.class, depth.oldest_age), (DepthClass::Empty, Duration::ZERO));
    }

    /// A measured emit puts in what a plain one does, in the order of the emits.
    async fn a_measured_event_comes_out_as_it_went_in(db) {
        const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        emit(&db.pool, &aircraft(), Event::new("first")).await.unwrap();
        let event = Event::new(vec![0, 255, 10]).named("it's ünïque").traced(TRACE);
        let (receipt, _) = emit_with(&db.pool, &aircraft(), event, EmitOptions::new()).await.unwrap();
        emit_with(&db.pool, &aircraft(), Event::new(""), at_most(10)).await.unwrap();
        emit(&db.pool, &aircraft(), Event::new("last")).await.unwrap();
        let events = drain(&db.pool, &aircraft()).await;
        let values: Vec<_> = events.iter().map(Event::value).collect();
        assert_eq!(values, [b"first".as_slice(), &[0, 255, 10], b"", b"last"]);
        assert_eq!((events[1].name(), events[1].traceparent()), (Some("it's ünïque"), Some(TRACE)));
        assert_eq!(receipt.id(), Some(events[1].id()));
    }

    /// A full box refuses an event and its name. The error names the recipient and the bound, and says what to do.
    async fn a_full_box_refuses_events(db) {
        for n in 0..3 {
            emit_with(&db.pool, &aircraft(), Event::new(n.to_string()), at_most(3)).await.unwrap();
        }
        for event in [Event::new("too much"), Event::new("too much").named("n")] {
            let refused = emit_with(&db.pool, &aircraft(), event, at_most(3)).await;
            assert!(is_full(&refused, 3), "{refused:?}");
            let error = refused.unwrap_err();
            assert!(error.is_transient() && !error.is_contention());
            let text = error.to_string();
            assert!(text.starts_with("emit to aircraft/N14228: the eventbox is full: 3 events or more"), "{text}");
            assert!(text.contains("emit again later"), "{text}");
        }
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_tombstone").await), (3, 0));
        let elsewhere = Recipient::new("aircraft", "N24211").unwrap();
        emit_with(&db.pool, &elsewhere, Event::new("x"), at_most(3)).await.unwrap();
        emit_with(&db.pool, &aircraft(), Event::new("x"), at_most(4)).await.unwrap();
        drain(&db.pool, &aircraft()).await;
        let (receipt, _) = emit_with(&db.pool, &aircraft(), Event::new("y").named("n"), at_most(3)).await.unwrap();
        assert_eq!(receipt, Emitted::Added);
    }

    /// A name that the recipient has, or had within the delay, is no reason to refuse. Nothing would be added.
    async fn a_full_box_refuses_no_duplicate(db) {
        emit(&db.pool, &aircraft(), Event::new("x").named("consumed")).await.unwrap();
        drain(&db.pool, &aircraft()).await;
        emit(&db.pool, &aircraft(), Event::new("x").named("living")).await.unwrap();
        for (name, became) in [("consumed", Emitted::Tombstoned), ("living", Emitted::Duplicate)] {
            for bound in [1, 2] {
                let again = Event::new("again").named(name);
                let (receipt, depth) = emit_with(&db.pool, &aircraft(), again, at_most(bound)).await.unwrap();
                assert_eq!((receipt.emitted(), depth.class), (became, DepthClass::Few));
            }
        }
        assert_eq!(db.count("eventbox_event").await, 1);
    }

    /// An event that is due later does not wait in the box yet.
    async fn a_full_box_refuses_no_timer(db) {
        emit(&db.pool, &aircraft(), Event::new("x")).await.unwrap();
        let hour = Duration::from_secs(3_600);
        for later in [
            Event::new("x").due_in(hour),
            Event::new("x").due_in(hour).named("n"),
            Event::new("x").due_at(SystemTime::now() + hour),
        ] {
            let (receipt, depth) = emit_with(&db.pool, &aircraft(), later, at_most(1)).await.unwrap();
            assert_eq!((receipt.emitted(), depth.class), (Emitted::Added, DepthClass::Few));
        }
        let again = Event::new("x").due_in(hour).named("n");
        let (receipt, _) = emit_with(&db.pool, &aircraft(), again, at_most(1)).await.unwrap();
        assert_eq!(receipt, Emitted::Duplicate);
        assert_eq!(timer::timers(&db.pool, &aircraft(), None, 10).await.unwrap().len(), 3);
        assert_eq!(db.count("eventbox_event").await, 1);
    }

    /// In a transaction its own events count, a refusal leaves the transaction usable, and all of it shares its fate.
    async fn a_bound_holds_in_the_callers_transaction(db) {
        let mut tx = begin(&db.pool).await.unwrap();
        emit_with(&mut *tx, &aircraft(), Event::new("1"), at_most(2)).await.unwrap();
        let (_, depth) = emit_with(&mut *tx, &aircraft(), Event::new("2").named("n"), at_most(2)).await.unwrap();
        assert_eq!(depth.class, DepthClass::Few);
        assert!(is_full(&emit_with(&mut *tx, &aircraft(), Event::new("3"), at_most(2)).await, 2));
        let (receipt, _) = emit_with(&mut *tx, &aircraft(), Event::new("2").named("n"), at_most(2)).await.unwrap();
        assert_eq!(receipt, Emitted::Duplicate);
        emit(&mut *tx, &aircraft(), Event::new("3")).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_tombstone").await), (0, 0));

        let mut tx = begin(&db.pool).await.unwrap();
        emit_with(&mut *tx, &aircraft(), Event::new("1"), at_most(1)).await.unwrap();
        assert!(is_full(&emit_with(&mut *tx, &aircraft(), Event::new("2"), at_most(1)).await, 1));
        tx.commit().await.unwrap();
        assert_eq!(drain(&db.pool, &aircraft()).await.len(), 1);
    }

    /// Emits at the same time pass the bound by as many as they are, and not by more. None is added without an answer.
    async fn racing_emits_pass_the_bound_by_their_number_at_most(db) {
        const SENDERS: usize = 8;
        let pool = db.open(4);
        let sender = |sender: usize| {
            let pool = &pool;
            async move {
                let mut added = 0;
                for n in 0..20 {
                    let event = Event::new("x");
                    let event = if n % 2 == 0 { event.named(format!("{sender}-{n}")) } else { event };
                    match emit_with(pool, &aircraft(), event, at_most(10)).await {
                        Ok((receipt, _)) => {
                            assert_eq!(receipt, Emitted::Added);
                            added += 1;
                        }
                        refused => assert!(is_full(&refused, 10), "{refused:?}"),
                    }
                }
                added
            }
        };
        let added: usize = join_all((0..SENDERS).map(sender)).await.into_iter().sum();
        assert!((10..10 + SENDERS).contains(&added), "{added}");
        assert_eq!(drain(&db.pool, &aircraft()).await.len(), added);
    }

    /// Of many senders of one name one adds it, also into a box that has room for one. The others hear of the copy.
    async fn racing_senders_of_a_name_add_it_once(db) {
        let (pool, to) = (db.open(4), aircraft());
        let send = |_| emit_with(&pool, &to, Event::new("x").named("n"), at_most(1));
        let answers = join_all((0..8).map(send)).await;
        let mut answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().0.emitted()).collect();
        answers.sort_by_key(|emitted| *emitted != Emitted::Added);
        assert_eq!(answers[0], Emitted::Added);
        assert_eq!(answers[1..], [Emitted::Duplicate; 7]);
        assert_eq!(db.count("eventbox_event").await, 1);
    }

    async fn a_wrong_bound_is_refused_before_any_sql(db) {
        db.pool.close().await;
        let wrong = emit_with(&db.pool, &aircraft(), Event::new("x"), at_most(MAX_MAX_WAITING + 1)).await;
        let misuse = Misuse::BoundTooLarge { what: "max_waiting", bound: MAX_MAX_WAITING + 1, limit: MAX_MAX_WAITING };
        assert!(matches!(&wrong, Err(Error::Misuse { misuse: found, .. }) if *found == misuse), "{wrong:?}");
        let nameless = emit_with(&db.pool, &aircraft(), Event::new("x").named(""), EmitOptions::new()).await;
        assert!(matches!(nameless, Err(Error::Misuse { .. })));
    }
}
