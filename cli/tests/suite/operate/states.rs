//! States of recipients: get, set and forget.

use eventbox::{Event, Recipient, admin};
use serde_json::json;

use super::{emit, on, order};
use crate::support::{TestDb, TestEngine, on_every_engine};

async fn state_of<B: TestEngine>(db: &TestDb<B>, of: &Recipient) -> (i64, Option<Vec<u8>>) {
    let stored = admin::stored_state(&db.pool, of).await.unwrap();
    (stored.turn, stored.state.map(|state| state.to_vec()))
}

on_every_engine! {
    async fn a_state_is_read_and_replaced_by_compare_and_set(db) {
        let nothing = on(db, &["state", "get", "order/7"]).await;
        assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(1), ""), "{nothing:?}");
        admin::set_state(&db.pool, &order(), 0, Some(b"{\"items\":7}")).await.unwrap();
        assert_eq!(on(db, &["state", "get", "order/7"]).await.done(), "{\"items\":7}");
        let document = on(db, &["state", "get", "order/7", "--json"]).await.json();
        assert_eq!(document, json!({ "recipient": "order/7", "turn": 1, "size": 11, "json": { "items": 7 } }));

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "8").unwrap();
        let path = file.path().to_str().unwrap();
        let refused = on(db, &["state", "set", "order/7", path]).await;
        let wanted = "this replaces the state of order/7 at turn 1 (11 B) by 1 B";
        assert!(refused.refused().contains(wanted), "{refused:?}");
        let late = on(db, &["state", "set", "order/7", path, "--at-turn", "0", "--yes"]).await;
        assert!(late.refused().contains("order/7 is at turn 1 and not at turn 0"), "{late:?}");
        assert_eq!(state_of(db, &order()).await.1.as_deref(), Some(&b"{\"items\":7}"[..]));
        on(db, &["state", "set", "order/7", path, "--at-turn", "1", "--yes"]).await.done();
        assert_eq!(state_of(db, &order()).await, (2, Some(b"8".to_vec())));
        on(db, &["state", "set", "order/7", "--clear", "--yes"]).await.done();
        assert_eq!(state_of(db, &order()).await, (3, None));
    }

    async fn a_recipient_is_forgotten_only_when_it_is_gone(db) {
        emit(db, Event::new("x")).await;
        let refused = on(db, &["forget", "order/7", "--yes"]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stdout.contains("its box holds events"), "{refused:?}");
        admin::purge_all(&db.pool, &order()).await.unwrap();
        let recent = on(db, &["forget", "order/7", "--yes", "--json"]).await;
        assert_eq!(recent.code, Some(1), "{recent:?}");
        assert!(recent.stdout.contains("\"too_recent\""), "{recent:?}");
        db.run("UPDATE eventbox_state SET updated_at_us = 0").await;
        let refused = on(db, &["forget", "order/7"]).await;
        assert!(refused.refused().contains("deletes the turn, the state and the failures"), "{refused:?}");
        let dry = on(db, &["forget", "order/7", "--dry-run"]).await;
        assert_eq!(dry.done(), "This forgets order/7. Nothing was changed.");
        assert_eq!(db.count("eventbox_state").await, 1);
        assert_eq!(on(db, &["forget", "order/7", "--yes"]).await.done(), "Forgot order/7.");
        assert_eq!(db.count("eventbox_state").await, 0);
        assert_eq!(on(db, &["forget", "order/7", "--yes"]).await.done(), "Nothing is kept of order/7.");
    }
}
