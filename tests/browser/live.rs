//! The overview updates itself.

use eventbox::{Recipient, admin};

use crate::stage::{Play, on_stage};
use crate::support::on_every_engine;

on_every_engine! {
    async fn an_emit_is_seen_without_a_reload(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            let waiting = Recipient::new("shipment", "1").unwrap();
            browser.open("/").await;
            browser.see("#live-status[data-state=live]", "updates itself").await;
            browser.run("window.isTheSamePage = true").await;
            browser.run("document.querySelector('#kinds a').focus()").await;
            stage.emit(&waiting, "5").await;
            browser.see("#kinds", "shipment").await;
            browser.see("#kinds", "no workers").await;
            admin::purge_all(&db.pool, &waiting).await.unwrap();
            eventually_gone(browser).await;
            assert_eq!(browser.run("return window.isTheSamePage").await, true);
            assert_eq!(browser.run("return document.activeElement.closest('#kinds') !== null").await, true);
        })
        .await;
    }
}

async fn eventually_gone(browser: &crate::browser::Browser) {
    let is_gone = async || !browser.text("#kinds").await.contains("shipment");
    crate::support::eventually(crate::support::SOON, is_gone).await;
}
