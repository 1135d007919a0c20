//! `emit` and `emit_all`.

use ::eventbox::{
    Emitted, Error, Event, Misuse, Recipient, emit, emit_all,
    limits::{MAX_EMIT_BYTES, MAX_EMIT_EVENTS, MAX_KEY_BYTES, MAX_VALUE_BYTES},
};

use crate::support::{drain, on_every_engine};

fn aircraft() -> Recipient {
    Recipient::new("aircraft", "N14228").unwrap()
}

fn airport() -> Recipient {
    Recipient::new("airport", "EWR").unwrap()
}

fn values(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| str::from_utf8(event.value()).unwrap()).collect()
}

on_every_engine! {
    async fn an_event_comes_out_as_it_went_in(db) {
        assert_eq!(
            emit(&db.pool, &aircraft(), Event::new(vec![0, 255, 10]).named("it's ünïque")).await.unwrap(),
            Emitted::Added
        );
        let events = drain(&db.pool, &aircraft()).await;
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].value(), [0, 255, 10]);
        assert_eq!(events[0].name(), Some("it's ünïque"));
        assert!(events[0].id().emitted_at().elapsed().unwrap().as_secs() < 60);
        assert_eq!(drain(&db.pool, &aircraft()).await, []);
    }

    /// A name is accepted once per box while its event lives, and is refused as `Tombstoned` after that. The first
    /// value stays.
    async fn a_name_is_accepted_once_and_the_first_value_stays(db) {
        assert_eq!(emit(&db.pool, &aircraft(), Event::new("first").named("n")).await.unwrap(), Emitted::Added);
        assert_eq!(emit(&db.pool, &aircraft(), Event::new("second").named("n")).await.unwrap(), Emitted::Duplicate);
        assert_eq!(emit(&db.pool, &airport(), Event::new("elsewhere").named("n")).await.unwrap(), Emitted::Added);
        assert_eq!(values(&drain(&db.pool, &aircraft()).await), ["first"]);
        assert_eq!(emit(&db.pool, &aircraft(), Event::new("third").named("n")).await.unwrap(), Emitted::Tombstoned);
        assert_eq!(drain(&db.pool, &aircraft()).await, []);
    }

    async fn events_without_a_name_are_never_duplicates(db) {
        for _ in 0..3 {
            assert_eq!(emit(&db.pool, &aircraft(), Event::new("same")).await.unwrap(), Emitted::Added);
        }
        assert_eq!(drain(&db.pool, &aircraft()).await.len(), 3);
        assert_eq!(db.count("eventbox_tombstone").await, 0);
    }

    async fn an_empty_value_is_a_value(db) {
        assert_eq!(emit(&db.pool, &aircraft(), Event::new("")).await.unwrap(), Emitted::Added);
        let events = [(aircraft(), Event::new("").named("empty")), (aircraft(), Event::new(""))];
        assert_eq!(emit_all(&db.pool, &events).await.unwrap(), [Emitted::Added; 2]);
        assert_eq!(values(&drain(&db.pool, &aircraft()).await), ["", "", ""]);
    }

    /// Statements take fixed numbers of rows. At these limits no row is lost and no row is added.
    async fn lists_of_every_length_come_out_as_they_went_in(db) {
        const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        for count in [1, 9, 10, 11, 99, 100, 101, 499, 500, 501, 1_200] {
            let event = |n: usize| {
                let event = Event::new(if n == 3 { String::new() } else { n.to_string() });
                (aircraft(), if n.is_multiple_of(2) { event.traced(TRACE) } else { event })
            };
            let events: Vec<_> = (0..count).map(event).collect();
            let wanted: Vec<_> = events.iter().map(|(_, event)| (event.value(), event.traceparent())).collect();
            assert_eq!(emit_all(&db.pool, &events).await.unwrap(), vec![Emitted::Added; count]);
            let mut tx = ::eventbox::begin(&db.pool).await.unwrap();
            assert_eq!(emit_all(&mut *tx, &events).await.unwrap(), vec![Emitted::Added; count]);
            tx.commit().await.unwrap();
            let drained = drain(&db.pool, &aircraft()).await;
            let came: Vec<_> = drained.iter().map(|event| (event.value(), event.traceparent())).collect();
            assert_eq!(came, [wanted.as_slice(), wanted.as_slice()].concat(), "{count}");
        }
    }

    async fn no_events_are_nothing_to_do(db) {
        db.pool.close().await;
        assert_eq!(emit_all(&db.pool, &[]).await.unwrap(), []);
    }

    /// Many events to many recipients take one statement.
    async fn the_answers_are_in_the_order_of_the_events(db) {
        emit(&db.pool, &aircraft(), Event::new("").named("consumed")).await.unwrap();
        drain(&db.pool, &aircraft()).await;
        emit(&db.pool, &airport(), Event::new("").named("living")).await.unwrap();
        let events = [
            (airport(), Event::new("z").named("z")),
            (aircraft(), Event::new("b").named("b")),
            (aircraft(), Event::new("again").named("consumed")),
            (airport(), Event::new("again").named("living")),
            (aircraft(), Event::new("unnamed")),
            (aircraft(), Event::new("b again").named("b")),
            (airport(), Event::new("b elsewhere").named("b")),
            (airport(), Event::new("a").named("a")),
        ];
        let answers = emit_all(&db.pool, &events).await.unwrap();
        use Emitted::{Added, Duplicate, Tombstoned};
        assert_eq!(answers, [Added, Added, Tombstoned, Duplicate, Added, Duplicate, Added, Added]);
        assert_eq!(values(&drain(&db.pool, &aircraft()).await), ["b", "unnamed"]);
        assert_eq!(values(&drain(&db.pool, &airport()).await), ["", "z", "b elsewhere", "a"]);
    }

    /// Events are listed in the order of their emits: single emits, lists and emits in a transaction, with and without
    /// names.
    async fn events_are_listed_in_the_order_of_their_emit(db) {
        let event = |number: usize| match number % 3 {
            // The names sort in the opposite order of the emits.
            0 => Event::new(number.to_string()).named(format!("{:04}", 9999 - number)),
            _ => Event::new(number.to_string()),
        };
        for number in 0..10 {
            emit(&db.pool, &aircraft(), event(number)).await.unwrap();
        }
        let block: Vec<_> = (10..500).map(|number| (aircraft(), event(number))).collect();
        emit_all(&db.pool, &block).await.unwrap();
        let mut tx = ::eventbox::begin(&db.pool).await.unwrap();
        for number in 500..510 {
            emit(&mut *tx, &aircraft(), event(number)).await.unwrap();
        }
        tx.commit().await.unwrap();

        let wanted: Vec<String> = (0..510).map(|number| number.to_string()).collect();
        assert_eq!(values(&drain(&db.pool, &aircraft()).await), wanted);
    }

    /// Emits in a transaction of the caller commit or roll back with that transaction, their names too.
    async fn an_emit_shares_the_fate_of_the_callers_transaction(db) {
        let mut tx = ::eventbox::begin(&db.pool).await.unwrap();
        emit(&mut *tx, &aircraft(), Event::new("unnamed")).await.unwrap();
        emit(&mut *tx, &aircraft(), Event::new("named").named("n")).await.unwrap();
        emit_all(&mut *tx, &[(airport(), Event::new("m").named("m")), (airport(), Event::new(""))]).await.unwrap();
        tx.rollback().await.unwrap();
        assert_eq!(db.count("eventbox_event").await, 0);
        assert_eq!(db.count("eventbox_tombstone").await, 0);

        // The name was rolled back with its event, so it is free.
        let mut tx = ::eventbox::begin(&db.pool).await.unwrap();
        assert_eq!(emit(&mut *tx, &aircraft(), Event::new("named").named("n")).await.unwrap(), Emitted::Added);
        tx.commit().await.unwrap();
        assert_eq!(values(&drain(&db.pool, &aircraft()).await), ["named"]);
    }

    /// A limit is checked before any SQL, and its error names the limit.
    async fn limits_are_refused_before_any_sql(db) {
        // A closed pool returns its own error for every statement.
        db.pool.close().await;
        let long = "x".repeat(MAX_KEY_BYTES + 1);
        let heavy = vec![0; MAX_VALUE_BYTES + 1];
        for (event, wanted, limit) in [
            (Event::new("").named(""), "name is empty", ""),
            (Event::new("").named("a\0b"), "NUL", ""),
            (Event::new("").named(long), "name has 513 bytes", "512"),
            (Event::new(heavy), "value has 1048577 bytes", "1048576"),
        ] {
            let error = emit(&db.pool, &aircraft(), event.clone()).await.unwrap_err();
            let in_a_list =
                emit_all(&db.pool, &[(airport(), Event::new("good")), (aircraft(), event)]).await.unwrap_err();
            for error in [error, in_a_list] {
                assert!(matches!(error, Error::Misuse { .. }), "{error:?}");
                let text = error.to_string();
                for part in ["aircraft/N14228", wanted, limit] {
                    assert!(text.contains(part), "{part:?} is not in {text:?}");
                }
            }
        }
    }

    async fn a_list_has_limits_too(db) {
        let good = Event::new("x".repeat(MAX_KEY_BYTES)).named("n".repeat(MAX_KEY_BYTES));
        assert_eq!(emit(&db.pool, &aircraft(), good).await.unwrap(), Emitted::Added);
        let most: Vec<_> = (0..MAX_EMIT_EVENTS).map(|_| (aircraft(), Event::new(""))).collect();
        assert_eq!(emit_all(&db.pool, &most).await.unwrap().len(), MAX_EMIT_EVENTS);

        db.pool.close().await;
        let many: Vec<_> = most.into_iter().chain([(aircraft(), Event::new(""))]).collect();
        let error = emit_all(&db.pool, &many).await.unwrap_err();
        assert!(
            matches!(error, Error::Misuse { misuse: Misuse::TooMany { limit: MAX_EMIT_EVENTS, .. }, .. }),
            "{error:?}"
        );
        let heavy = Event::new(vec![0; MAX_VALUE_BYTES]);
        let heavy: Vec<_> = (0..=MAX_EMIT_BYTES / MAX_VALUE_BYTES).map(|_| (aircraft(), heavy.clone())).collect();
        let error = emit_all(&db.pool, &heavy).await.unwrap_err();
        assert!(
            matches!(error, Error::Misuse { misuse: Misuse::TooLong { limit: MAX_EMIT_BYTES, .. }, .. }),
            "{error:?}"
        );
    }
}
