//! Results and refusals of the administrative calls.

use eventbox::{Error, Event, EventId, Misuse, Recipient, admin};

use super::{cell, emit, turn, values};
use crate::support::{drain, on_every_engine};

on_every_engine! {
    async fn a_box_is_listed_page_by_page(db) {
        let events: Vec<_> = (0..25).map(|n| (cell(), Event::new(format!("{n:02}")))).collect();
        eventbox::emit_all(&db.pool, &events).await.unwrap();
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = admin::events(&db.pool, &cell(), after, 10).await.unwrap();
            let Some(last) = page.last() else { break };
            assert!(page.len() <= 10);
            (after, pages) = (Some(last.id()), pages + 1);
            seen.extend(page.iter().map(|event| String::from_utf8_lossy(event.value()).into_owned()));
        }
        assert_eq!((seen, pages), ((0..25).map(|n| format!("{n:02}")).collect(), 3));
        assert_eq!(turn(db).await, 0, "reading moves no turn");
        let written_down: EventId = (*after.unwrap().as_uuid()).into();
        assert_eq!(written_down, after.unwrap());
    }

    async fn a_purge_forgets_no_names(db) {
        let ids = emit(db, &["a", "b", "c"]).await;
        assert_eq!(admin::purge(&db.pool, &cell(), &[ids[2], ids[0], ids[0]]).await.unwrap(), 2);
        assert_eq!((values(db).await, turn(db).await), (vec!["b".to_owned()], 1));
        assert_eq!(admin::purge(&db.pool, &cell(), &ids[..1]).await.unwrap(), 0);
        assert_eq!(admin::purge(&db.pool, &cell(), &[]).await.unwrap(), 0);
        assert_eq!(turn(db).await, 1, "a call that changes nothing moves no turn");
        let again = eventbox::emit_all(&db.pool, &[(cell(), Event::new("a").named("a"))]).await.unwrap();
        assert_eq!(again, [eventbox::Emitted::Tombstoned]);
    }

    async fn purge_all_works_in_slices_and_leaves_other_recipients_alone(db) {
        let other = Recipient::new("cell", "2").unwrap();
        eventbox::emit(&db.pool, &other, Event::new("stays")).await.unwrap();
        let events: Vec<_> = (0..admin::PURGE_SLICE).map(|_| (cell(), Event::new(""))).collect();
        eventbox::emit_all(&db.pool, &events).await.unwrap();
        eventbox::emit_all(&db.pool, &events[..5]).await.unwrap();
        assert_eq!(admin::purge_all(&db.pool, &cell()).await.unwrap(), u64::from(admin::PURGE_SLICE) + 5);
        assert_eq!((turn(db).await, db.count("eventbox_event").await), (2, 1));
        assert_eq!((admin::purge_all(&db.pool, &cell()).await.unwrap(), turn(db).await), (0, 2));
    }

    /// A slice that is full of timers leaves no room for events, which are deleted by the next.
    async fn purge_all_goes_on_behind_a_slice_of_timers(db) {
        let timer = |_| (cell(), Event::new("").due_in(std::time::Duration::from_secs(3_600)));
        eventbox::emit_all(&db.pool, &(0..admin::PURGE_SLICE).map(timer).collect::<Vec<_>>()).await.unwrap();
        emit(db, &["a", "b"]).await;
        assert_eq!(admin::purge_all(&db.pool, &cell()).await.unwrap(), u64::from(admin::PURGE_SLICE) + 2);
        assert_eq!((db.count("eventbox_timer").await, db.count("eventbox_event").await, turn(db).await), (0, 0, 2));
    }

    async fn the_standing_tells_a_paused_kind_from_a_paused_recipient(db) {
        let paused = async || {
            let standing = admin::standing(&db.pool, &cell()).await.unwrap();
            (standing.paused, standing.kind_paused)
        };
        admin::pause_kind(&db.pool, "cell").await.unwrap();
        assert_eq!(paused().await, (false, true));
        admin::pause(&db.pool, &cell()).await.unwrap();
        assert_eq!(paused().await, (true, true));
        admin::resume_kind(&db.pool, "cell").await.unwrap();
        assert_eq!(paused().await, (true, false));
    }

    async fn a_recipient_has_a_standing_before_it_exists(db) {
        let nothing = admin::standing(&db.pool, &cell()).await.unwrap();
        assert_eq!((nothing.turn, nothing.updated_at, nothing.paused, nothing.attempts), (0, None, false, 0));
        assert!(!admin::resume(&db.pool, &cell()).await.unwrap());
        assert_eq!(db.count("eventbox_state").await, 0);
        assert!(admin::pause(&db.pool, &cell()).await.unwrap());
        assert!(!admin::pause(&db.pool, &cell()).await.unwrap());
        let paused = admin::standing(&db.pool, &cell()).await.unwrap();
        assert_eq!((paused.turn, paused.paused, paused.next_attempt_at), (1, true, None));
        assert!(paused.updated_at.unwrap().elapsed().unwrap().as_secs() < 60);
        eventbox::emit(&db.pool, &cell(), Event::new("waits")).await.unwrap();
        assert!(admin::resume(&db.pool, &cell()).await.unwrap());
        assert_eq!((turn(db).await, db.count("eventbox_failure").await), (2, 0));
        assert_eq!(drain(&db.pool, &cell()).await.len(), 1);
    }

    async fn failures_are_shown(db) {
        let shard = cell().shard();
        db.run(format_args!(
            "INSERT INTO eventbox_failure (shard, recipient, attempts, next_attempt_at_us, error)
             VALUES ({shard}, 'cell/1', 3, 5000000, 'why')"
        ))
        .await;
        let failing = admin::standing(&db.pool, &cell()).await.unwrap();
        let since = failing.next_attempt_at.unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(
            (failing.attempts, since.as_secs(), failing.error.as_deref(), failing.paused),
            (3, 5, Some("why"), false)
        );
        assert!(admin::pause(&db.pool, &cell()).await.unwrap());
        let paused = admin::standing(&db.pool, &cell()).await.unwrap();
        assert_eq!((paused.attempts, paused.paused), (3, true), "pausing forgets no failures");
    }

    async fn a_state_is_set_at_its_turn_only(db) {
        let to = cell();
        let stored = admin::stored_state(&db.pool, &to).await.unwrap();
        assert_eq!((stored.turn, stored.state), (0, None));
        assert!(admin::set_state(&db.pool, &to, 3, Some(b"x")).await.unwrap_err().is_contention());
        assert_eq!(db.count("eventbox_state").await, 0);
        assert_eq!(admin::set_state(&db.pool, &to, 0, Some(b"7")).await.unwrap(), 1);
        assert_eq!(eventbox::state::<u64>(&db.pool, &to).await.unwrap().unwrap().state, Some(7));
        assert!(admin::set_state(&db.pool, &to, 0, None).await.unwrap_err().is_contention());
        assert_eq!(admin::set_state(&db.pool, &to, 1, None).await.unwrap(), 2);
        let cleared = admin::stored_state(&db.pool, &to).await.unwrap();
        assert_eq!((cleared.turn, cleared.state), (2, None));
    }

    async fn limits_are_refused_before_any_sql(db) {
        db.pool.close().await;
        let refused = |error: Error| match error {
            Error::Misuse { attempt, misuse, .. } => {
                assert!(attempt.contains("cell/1"), "{attempt}");
                misuse
            }
            other => panic!("{other:?}"),
        };
        let (pool, to) = (&db.pool, cell());
        let ids = vec![EventId::from(uuid::Uuid::nil()); admin::MAX_IDS + 1];
        let too_many = Misuse::TooMany { count: admin::MAX_IDS + 1, limit: admin::MAX_IDS };
        assert_eq!(refused(admin::purge(pool, &to, &ids).await.unwrap_err()), too_many);
        assert_eq!(refused(admin::replay(pool, &to, &ids).await.unwrap_err()), too_many);
        assert_eq!(refused(admin::discard(pool, &to, &ids).await.unwrap_err()), too_many);
        assert_eq!(refused(admin::quarantine(pool, &to, &ids, "why").await.unwrap_err()), too_many);
        assert_eq!(refused(admin::quarantine(pool, &to, &[], "").await.unwrap_err()), Misuse::Empty { what: "reason" });
        assert_eq!(
            refused(admin::quarantine(pool, &to, &[], "a\0b").await.unwrap_err()),
            Misuse::Nul { what: "reason" }
        );
        let long = "x".repeat(admin::MAX_REASON_BYTES + 1);
        assert!(matches!(refused(admin::quarantine(pool, &to, &[], &long).await.unwrap_err()), Misuse::TooLong { .. }));
        let heavy = vec![0; admin::MAX_EDIT_BYTES + 1];
        assert!(matches!(
            refused(admin::set_state(pool, &to, 0, Some(&heavy)).await.unwrap_err()),
            Misuse::TooLong { .. }
        ));
        assert!(admin::events(pool, &to, None, 1).await.unwrap_err().is_transient());
    }
}
