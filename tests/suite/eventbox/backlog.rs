//! The number of waiting events of each kind, beyond the bound of the count.

use eventbox::{Event, Precision, Recipient, limits::MAX_COUNTED_EVENTS};

use crate::support::{TestEngine, on_every_engine};

/// Number of events of the large kind: more than one call counts.
const EVENTS: u64 = 150_000;

on_every_engine! {
    /// A large kind is an estimate on Postgres and a lower bound on SQLite. A small kind next to it stays exact.
    async fn a_backlog_beyond_the_bound_says_how_it_is_known(db) {
        let (id, value) = match Engine::FOLDER {
            "postgres" => ("gen_random_uuid()", "''"),
            _ => ("randomblob(16)", "x''"),
        };
        db.run(format!(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {EVENTS})
             INSERT INTO eventbox_event (shard, recipient, id, value)
             SELECT CAST(i % 256 AS SMALLINT), 'order/' || (i % 5000), {id}, {value} FROM n"
        ))
        .await;
        eventbox::emit(&db.pool, &Recipient::new("run", "1").unwrap(), Event::new("x")).await.unwrap();

        let backlog = eventbox::backlog(&db.pool, &["run", "order"]).await.unwrap();
        assert_eq!((backlog[0].events, backlog[0].precision), (1, Precision::Exact));
        let large = &backlog[1];
        assert!(large.oldest.is_some());
        if Engine::FOLDER == "postgres" {
            assert_eq!(large.precision, Precision::Estimate);
            assert!((EVENTS / 2..EVENTS * 2).contains(&large.events), "{}", large.events);
        } else {
            // Two kinds share the count.
            assert_eq!((large.events, large.precision), (u64::from(MAX_COUNTED_EVENTS / 2) + 1, Precision::AtLeast));
        }
    }
}
