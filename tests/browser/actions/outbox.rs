//! Messages of the outbox.

use crate::browser::REASON;
use crate::plants::message;
use crate::stage::{Play, on_stage};
use crate::support::on_every_engine;

const DUE: &str = "SELECT count(*) FROM eventbox_outbox WHERE next_attempt_at_us < 3000000000000000";

on_every_engine! {
    async fn messages_are_retried_and_buried(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            message(db, 1, "departed", "UNAVAILABLE").await;
            message(db, 2, "departed", "UNAVAILABLE").await;
            message(db, 3, "arrived", "INTERNAL").await;
            browser.open("/outbox").await;
            browser.see("#outbox-facts", "3").await;
            browser.see("#groups", "connection refused").await;
            // The link of a group chooses its messages.
            browser.fill("#field-type", "departed").await;
            browser.click("#filter button").await;
            assert_eq!(browser.count("#messages tbody tr").await, 2);
            assert_eq!(db.number(DUE).await, 0);
            let done = "2 messages due at once.";
            browser.act("#retry-all", "This makes 2 messages of the outbox due at once", done).await;
            assert_eq!(db.number(DUE).await, 2);
            browser.follow("#groups", "flights").await;
            browser.see("#messages", "departed").await;
            browser.open("/outbox?code=INTERNAL").await;
            let done = "1 message moved to the dead letters.";
            browser.act("#bury-all", "This moves 1 message of the outbox to the dead letters", done).await;
            assert_eq!((db.count("eventbox_outbox").await, db.count("eventbox_dead_letter").await), (2, 1));
            browser.click("#nav-dead").await;
            browser.see("#dead", REASON).await;
        })
        .await;
    }

    async fn a_destination_is_paused_and_resumed(db) {
        on_stage(db, Play::default(), async |stage| {
            let browser = &stage.browser;
            message(db, 1, "departed", "UNAVAILABLE").await;
            browser.open("/outbox").await;
            browser.see("#destinations", "departed").await;
            let will = "This pauses the delivery of messages with source=flights type=departed";
            browser.act("#pause-destination-0", will, "The delivery is paused.").await;
            browser.see("#destinations", "paused").await;
            browser.see("#paused-destinations", REASON).await;
            let will = "This resumes the delivery of messages with source=flights type=departed";
            browser.act("#resume-destination-0", will, "The delivery is resumed.").await;
            browser.see("#paused-destinations", "No destination is paused.").await;
        })
        .await;
    }
}
