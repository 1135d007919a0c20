//! The terms of leases and members: some are renewed, and the others end.

use std::time::Duration;

use super::{STOP, config, leases, tallying};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// A term that is longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// Returns the end of the first lease, by the database's clock.
async fn first_end<B: TestEngine>(db: &TestDb<B>) -> i64 {
    db.number("SELECT min(expires_at_us) FROM eventbox_lease WHERE holder IS NOT NULL").await
}

/// Inserts a member with a heartbeat of that age.
async fn member_silent_for<B: TestEngine>(db: &TestDb<B>, address: &str, silent: Duration) {
    let (now, id) = match B::FOLDER {
        "postgres" => ("(extract(epoch FROM statement_timestamp()) * 1000000)::int8", "gen_random_uuid()"),
        _ => ("CAST(unixepoch('subsec') * 1000000 AS INTEGER)", "randomblob(16)"),
    };
    let silent_us = silent.as_micros();
    db.run(format_args!(
        "INSERT INTO eventbox_member (worker, address, shard_limit, exiting, heartbeat_at_us)
         VALUES ({id}, '{address}', 256, true, {now} - {silent_us})"
    ))
    .await;
}

on_every_engine! {
    /// The worker renews its leases long before they end.
    async fn leases_are_prolonged(db) {
        let runtime = tallying(db.open(4)).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let term_us = i64::try_from(leases().lease_ttl.as_micros()).unwrap();
        for _ in 0..2 {
            let end = first_end(db).await;
            eventually(SOON, async || first_end(db).await > end + term_us).await;
        }
        assert_eq!(runtime.shards(), 256);
        assert!(runtime.stop(STOP).await.complete);
    }

    /// A lease ends after the configured term, by the clock of the database.
    async fn a_lease_has_the_configured_term(db) {
        let mut config = config();
        let mut terms = leases();
        terms.lease_ttl = LONG;
        config.leases = Some(terms);
        let runtime = tallying(db.open(4)).config(config).start().await.unwrap();
        eventually(SOON, async || runtime.shards() == 256).await;
        let now = match Engine::FOLDER {
            "postgres" => "(extract(epoch FROM statement_timestamp()) * 1000000)::int8",
            _ => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
        };
        let left = db.number(format_args!("SELECT min(expires_at_us) - {now} FROM eventbox_lease")).await;
        let (least, most) = ((LONG - SOON).as_micros() as i64, LONG.as_micros() as i64);
        assert!((least..=most).contains(&left), "{left} µs");
        runtime.stop(STOP).await;
    }

    /// A member that has been silent for more than twenty terms is removed; one that has been silent for a shorter
    /// time stays.
    async fn silent_members_are_removed(db) {
        let mut config = config();
        let mut terms = leases();
        terms.lease_ttl = LONG;
        config.leases = Some(terms);
        member_silent_for(db, "dead", LONG * 21).await;
        member_silent_for(db, "silent", LONG * 19).await;
        let runtime = tallying(db.open(4)).config(config).start().await.unwrap();
        eventually(SOON, async || db.count("eventbox_member WHERE address = 'dead'").await == 0).await;
        eventually(SOON, async || runtime.shards() == 256).await;
        // After two more renewals the other member is still there.
        let end = first_end(db).await;
        eventually(SOON, async || first_end(db).await > end + 400_000).await;
        assert_eq!(db.texts("SELECT address FROM eventbox_member ORDER BY address").await, ["", "silent"]);
        runtime.stop(STOP).await;
    }
}
