//! The helpers of the client.

use std::time::Duration;

use eventbox::proto::consumer;
use eventbox::proto::consumer::apply_request::Change;
use eventbox::shard_api::ShardClientError;

use super::*;
use crate::support::on_every_engine;

fn upsert(id: usize, expect_mod_revision: i64) -> Change {
    Change { expect_mod_revision, upsert: Some(labelled(&format!("{id:03}"), "ramp")), ..Change::default() }
}

on_every_engine! {
    /// Case 12: batches of size k. A batch that fails leaves those before it applied.
    async fn changes_are_applied_in_batches(db) {
        let (_server, client) = open(Shards::new(db.pool.clone())).await;
        let all: Vec<Change> = (0..256).map(|id| upsert(id, -1)).collect();
        for size in [1_usize, 100, 1_000] {
            let listed = client.list(LabelSelector::default()).await.unwrap();
            let before = listed.iter().map(|shard| shard.mod_revision).max();
            client.clone().batch(size.try_into().unwrap()).apply(&all).await.unwrap();
            let listed = client.list(LabelSelector::default()).await.unwrap();
            let last = listed.iter().map(|shard| shard.mod_revision).max().unwrap();
            let batches = 256_usize.div_ceil(size.min(127));
            assert_eq!(last - before.unwrap(), i64::try_from(batches).unwrap(), "each batch has one revision");
        }
        let two = client.batch(2.try_into().unwrap());
        let changes = [upsert(1, -1), upsert(2, -1), upsert(3, -1), upsert(4, 0), upsert(5, -1)];
        let failed = two.apply(&changes).await.unwrap_err();
        assert_eq!(failed.status(), Some(consumer::Status::RevisionConflict));
        assert!(matches!(failed, ShardClientError::PartlyApplied { applied: 2, changes: 5, .. }), "{failed:?}");
        let first = two.apply(&changes[3..]).await.unwrap_err();
        assert!(matches!(first, ShardClientError::Refused { .. }), "{first:?}");
    }

    async fn a_client_waits_until_shards_are_ready(db) {
        let (_server, client) = open(Shards::new(db.pool.clone())).await;
        let late = client.wait_until_ready(including([label("id", "7"), label("id", "8")]), Duration::ZERO).await;
        let Err(ShardClientError::NotReady { shards, .. }) = &late else { panic!("{late:?}") };
        // Whether the first listing came in time or not.
        assert!(shards.is_empty() || *shards == ["007", "008"], "{shards:?}");
        let limit = Duration::from_millis(50);
        let late = client.wait_until_ready(LabelSelector::default(), limit).await;
        assert!(matches!(late, Err(ShardClientError::NotReady { .. })), "{late:?}");
        let waiting = client.wait_until_ready(LabelSelector::default(), SOON);
        let (ready, runtime) = tokio::join!(waiting, counting(db, None));
        ready.unwrap();
        let listed = client.list(LabelSelector::default()).await.unwrap();
        assert!(listed.iter().all(|shard| shard.summary.as_ref().unwrap().code == 300));
        runtime.stop(STOP).await;
    }

    /// No process will work on a disabled shard, so the wait ends long before its limit.
    async fn a_client_does_not_wait_for_a_disabled_shard(db) {
        let (_server, client) = open(Shards::new(db.pool.clone())).await;
        let disabled = ShardSpec { disable: true, ..labelled("007", "ramp") };
        let disable = Change { expect_mod_revision: 0, upsert: Some(disabled), ..Change::default() };
        client.apply(&[disable, upsert(8, 0)]).await.unwrap();
        let hour = Duration::from_secs(3_600);
        let late = client.wait_until_ready(including([label("team", "ramp")]), hour);
        let refused = tokio::time::timeout(SOON, late).await.expect("the wait ends at once").unwrap_err();
        let ShardClientError::Disabled { shards, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(shards, &["007"]);
        assert!(refused.to_string().contains("007: enable them"), "{refused}");
        let runtime = counting(db, None).await;
        let others = LabelSelector { include: None, exclude: set([label("id", "7")]) };
        client.wait_until_ready(others, SOON).await.unwrap();
        runtime.stop(STOP).await;
    }
}

#[tokio::test]
async fn an_address_that_nobody_listens_on_is_an_error() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let refused = ShardClient::connect(free.to_string()).await;
    assert!(matches!(refused, Err(ShardClientError::Setup { .. })), "{refused:?}");
}
