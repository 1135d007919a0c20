//! Shards are released, and moved to another member.

use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::admin;

use crate::stage::{HOST, Play, builder, on_stage};
use crate::support::{SOON, eventually, on_every_engine};

on_every_engine! {
    async fn a_shard_is_released_and_moved(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            browser.open("/shards").await;
            browser.see("#members", HOST).await;
            browser.see("#shard-legend", "256 shards (0–255)").await;
            let generation = async || db.number("SELECT generation FROM eventbox_lease WHERE shard = 17").await;
            let before = generation().await;
            browser.fill("#release-shard-number", "17").await;
            browser.act("#action-release-shard", "This frees shard 17", "The shard is released.").await;
            eventually(SOON, async || generation().await > before && stage.runtime.shards() == 256).await;
            let is_held = async || admin::shards(&db.pool).await.unwrap()[17].holder.is_some();
            eventually(SOON, is_held).await;
            let before = generation().await;
            browser.fill("#unassign-shard-number", "17").await;
            browser.act("#action-unassign-shard", "This takes shard 17 from its holder", "1 shard unassigned.").await;
            eventually(SOON, async || generation().await > before && stage.runtime.shards() == 256).await;

            let other = builder(db.open(4), "host-c:7000", NonZeroU32::MIN).start().await.unwrap();
            eventually(SOON, async || other.shards() == 128 && stage.runtime.shards() == 128).await;
            let holder = async |shard: u8| admin::shards(&db.pool).await.unwrap()[usize::from(shard)].holder;
            let leases = admin::shards(&db.pool).await.unwrap();
            let home = stage.runtime.worker();
            let shard = leases.iter().find(|lease| lease.holder == Some(home)).unwrap().shard;
            browser.open("/shards").await;
            browser.see("#members", "host-c:7000").await;
            browser.fill("#move-shard-number", &shard.to_string()).await;
            browser.choose("#move-shard-member", &other.worker().to_string()).await;
            let will = format!("This moves shard {shard} to the member {}", other.worker());
            browser.act("#action-move-shard", &will, "The shard is moved.").await;
            assert_eq!(holder(shard).await, Some(other.worker()));
            browser.click("#leases-details summary").await;
            browser.see("#leases", "host-c:7000").await;
            browser.fill("#release-shard-number", &shard.to_string()).await;
            browser.act("#action-release-shard", &format!("This frees shard {shard}"), "The shard is released.").await;
            eventually(SOON, async || holder(shard).await == Some(home)).await;
            assert!(other.stop(Duration::from_secs(20)).await.complete);
        })
        .await;
    }
}
