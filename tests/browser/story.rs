//! A night with five faults, which an operator finds and mends by clicking only.

use std::net::TcpListener;
use std::num::NonZeroU32;
use std::time::Duration;

use eventbox::admin;
use eventbox::emitter::{Backoff, DurableEmitter};
use eventbox::ingress::Ingress;
use eventbox::limits::POISON_CODE;
use sqlx::Pool;

use crate::plants::ghost;
use crate::stage::{Play, Stage, on_stage, order};
use crate::support::{CellEngine, SOON, eventually, on_every_engine};

/// Row of the kind on the overview.
const ORDERS: &str = "#kinds tr:has(a[href='/recipients?kind=order'])";

/// Pause of a message that was not delivered: longer than the test.
const LONG: Duration = Duration::from_secs(600);

on_every_engine! {
    async fn five_faults_are_found_and_mended_by_clicking(db) {
        // The receiver's address is known, and nobody listens there.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let emitter = Some(emitter(db.open(4), &address).await);
        let play = Play { emitter, patience: NonZeroU32::MIN, ..Play::default() };
        on_stage(db, play, async |stage| {
            stage.emit(&order("works"), "1").await;
            stage.totals("works", 1).await;
            a_paused_kind(stage).await;
            a_poison_event(stage).await;
            an_unreadable_state(stage).await;
            a_dead_member(stage).await;
            a_receiver_that_is_away(stage, &address).await;
        })
        .await;
    }
}

/// Returns the selector of a cell of the kind on the overview.
fn cell(heading: &str) -> String {
    format!("{ORDERS} td[data-label='{heading}']")
}

/// Returns an emitter that tries each message once, unless somebody makes it due.
async fn emitter<B: CellEngine>(pool: Pool<B>, address: &str) -> DurableEmitter<B> {
    let builder = DurableEmitter::builder(pool, address).configure(|config| {
        config.retransmit_interval = Duration::from_millis(100);
        (config.backoff, config.slow_backoff) = (Backoff::new(LONG, LONG), Backoff::new(LONG, LONG));
    });
    builder.start().await.unwrap()
}

/// 1. Somebody paused the kind after a bad release, and went home.
async fn a_paused_kind<B: CellEngine>(stage: &Stage<'_, B>) {
    let browser = &stage.browser;
    admin::Operator::new(stage.db.pool.clone(), "ben").because("release 17").pause_kind("order").await.unwrap();
    stage.emit_to_paused_kind(&order("paused"), "5").await;
    browser.open("/").await;
    browser.see(ORDERS, "paused").await;
    browser.follow("#kinds", "order").await;
    browser.follow("#recipients", "order/paused").await;
    browser.see("#why-sentence", "The kind order is paused by an operator;").await;
    browser.click("#nav-operations").await;
    browser.see("#operations", "release 17").await;
    browser.click("#nav-overview").await;
    browser.follow("#kinds", "order").await;
    browser.act("#resume-kind", "This resumes the kind order", "The kind is resumed.").await;
    stage.totals("paused", 5).await;
}

/// 2. A sender wrote an event that is no number.
async fn a_poison_event<B: CellEngine>(stage: &Stage<'_, B>) {
    let browser = &stage.browser;
    stage.emit(&order("poisoned"), "seven").await;
    stage.emit(&order("poisoned"), "7").await;
    stage.totals("poisoned", 7).await;
    browser.open("/").await;
    browser.see(&cell("Quarantined"), "1").await;
    browser.click(&format!("{} a", cell("Quarantined"))).await;
    browser.see("#dead", POISON_CODE).await;
    browser.follow("#dead", "Show the payload").await;
    browser.see("#payload", "seven").await;
    browser.act("#dead form[id^=delete-]", "for good", "1 dead letter deleted.").await;
    stage.emit(&order("poisoned"), "70").await;
    stage.totals("poisoned", 77).await;
}

/// 3. A state was written that the reducer cannot read. No event is to blame, so the recipient waits.
async fn an_unreadable_state<B: CellEngine>(stage: &Stage<'_, B>) {
    let browser = &stage.browser;
    admin::set_state(&stage.db.pool, &order("broken"), 0, Some(br#""twelve""#)).await.unwrap();
    stage.emit(&order("broken"), "3").await;
    browser.open("/").await;
    browser.see(&cell("Waiting"), "1").await;
    browser.follow(ORDERS, "order").await;
    browser.follow("#recipients", "order/broken").await;
    browser.see_by_reloads("#why-sentence", "The last turn of order/broken failed at").await;
    browser.see("#why-sentence", "1 event waits. The error:").await;
    browser.see("#state", "twelve").await;
    browser.fill("#state-text", "12").await;
    browser.act("#action-set-state", "This replaces the state of order/broken", "The state is replaced.").await;
    stage.totals("broken", 15).await;
}

/// 4. A process was killed, and its leases are long.
async fn a_dead_member<B: CellEngine>(stage: &Stage<'_, B>) {
    let browser = &stage.browser;
    let dead = ghost(stage.db, "host-a:7000").await;
    let is_dead = async |key: &str| {
        let leases = admin::shards(&stage.db.pool).await.unwrap();
        leases[usize::from(order(key).shard())].holder == Some(dead)
    };
    eventually(SOON, async || stage.runtime.shards() == 128).await;
    let mut key = String::new();
    for number in 0.. {
        key = format!("orphan-{number}");
        if is_dead(&key).await {
            break;
        }
    }
    stage.emit(&order(&key), "4").await;
    browser.open("/").await;
    browser.see("#overview-members", "host-a:7000").await;
    browser.see(&cell("Waiting"), "1").await;
    browser.follow("#kinds", "order").await;
    browser.follow("#recipients", &key).await;
    browser.see_by_reloads("#why-sentence", "has not processed order/orphan").await;
    browser.see("#why-sentence", "host-a:7000").await;
    browser.see("#standing", "host-a:7000").await;
    let shard = order(&key).shard().to_string();
    browser.click("#nav-shards").await;
    browser.see("#members", "host-a:7000").await;
    browser.fill("#move-shard-number", &shard).await;
    browser.choose("#move-shard-member", &stage.runtime.worker().to_string()).await;
    browser.act("#action-move-shard", &format!("This moves shard {shard}"), "The shard is moved.").await;
    stage.totals(&key, 4).await;
}

/// 5. The receiver was away all night.
async fn a_receiver_that_is_away<B: CellEngine>(stage: &Stage<'_, B>, address: &str) {
    let browser = &stage.browser;
    let messages = stage.db.count("eventbox_outbox").await;
    browser.open("/").await;
    browser.see_by_reloads("#overview-groups", "orders").await;
    browser.follow("#outbox-facts", &messages.to_string()).await;
    browser.see_by_reloads("#groups td[data-label='Last error']", "connect").await;
    let files = tempfile::tempdir().unwrap();
    let file = files.path().join("received.sqlite3");
    let receiver = Ingress::builder().store_file(file).serve(address).await.unwrap();
    let will = format!("This makes {messages} messages of the outbox due at once");
    browser.act("#retry-all", &will, &format!("{messages} messages due at once.")).await;
    browser.click("#nav-overview").await;
    browser.see("#overview-groups", "No message waits in the outbox.").await;
    assert_eq!(receiver.log().counts().await.unwrap().kept, u64::try_from(messages).unwrap());
    assert_eq!((stage.db.count("eventbox_event").await, stage.db.count("eventbox_dead_letter").await), (0, 0));
    browser.open("/recipients").await;
    browser.fill("#field-r", "order/works").await;
    browser.click("#open button").await;
    browser.see("#why-sentence", "Nothing is wrong: everything for order/works was processed").await;
    receiver.stop(LONG).await;
}
