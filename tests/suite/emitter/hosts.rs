//! Several emitters on one table.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use super::support::{Emits, Fake, STOP, builder, event, payload, started};
use crate::support::{SOON, eventually, on_every_engine};

on_every_engine! {
    /// Two hosts on one table send each row once. Both use one fake endpoint, which would see a second copy.
    async fn two_hosts_share_a_table(db) {
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        for name in 0..1_000 {
            let _ = Engine::publish_in(&mut tx, event(name)).await;
        }
        tx.commit().await.unwrap();
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0").await;
        let fake = Fake::ok();
        let page =
            |config: &mut eventbox::emitter::Config| config.retransmit_batch_size = NonZeroUsize::new(50).unwrap();
        let (one, two) = (db.open(3), db.open(3));
        let (one, two) = tokio::join!(started(&one, &fake, page), started(&two, &fake, page));
        eventually(SOON, async || db.count("eventbox_outbox").await == 0).await;
        let mut seen = BTreeMap::<String, usize>::new();
        fake.events().iter().for_each(|event| *seen.entry(payload(event)).or_default() += 1);
        assert_eq!((seen.len(), seen.values().max()), (1_000, Some(&1)));
        let (first, second) = (one.stats().sent_again, two.stats().sent_again);
        assert_eq!(first + second, 1_000);
        one.stop(STOP).await;
        two.stop(STOP).await;
    }

    /// The host sends the rows that a plugin could not send.
    async fn a_host_picks_up_the_work_that_a_plugin_leaves(db) {
        let broken = Fake::failing(tonic::Code::Unavailable);
        // Long claims, because on a slow machine a claim could end before its send, and then the plugin settles no row.
        let plugin = builder(&db.pool, &broken).configure(|config| config.claim_ttl = Duration::from_secs(60));
        let plugin = plugin.plugin().start().await.unwrap();
        for name in 0..5 {
            plugin.publish(event(name)).await.unwrap();
        }
        eventually(SOON, async || plugin.stats().rescheduled == 5).await;
        let fake = Fake::ok();
        let host = started(&db.pool, &fake, |_| {}).await;
        assert!(host.flush(SOON).await.unwrap());
        assert_eq!((fake.events().len(), host.stats().sent_again), (5, 5));
        plugin.stop(STOP).await;
        host.stop(STOP).await;
    }

    /// A backlog in one shard does not delay the other shards. Every row is sent, though each claim takes few rows.
    async fn a_hot_shard_does_not_starve_the_others(db) {
        for name in 0..300 {
            let _ = Engine::publish_in(&mut *db.pool.acquire().await.unwrap(), event(name)).await;
        }
        db.run(
            "UPDATE eventbox_outbox SET next_attempt_at_us = 0, shard = CASE WHEN shard < 250 THEN 0 ELSE shard END",
        )
        .await;
        let fake = Fake::ok();
        let emitter =
            started(&db.pool, &fake, |config| config.retransmit_batch_size = NonZeroUsize::new(20).unwrap()).await;
        assert!(emitter.flush(SOON).await.unwrap());
        assert_eq!(fake.events().len(), 300);
        emitter.stop(STOP).await;
    }
}
