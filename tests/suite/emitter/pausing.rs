//! Destinations that an operator paused: nothing is sent to them, by any process, and everything after the resume.

use std::time::Duration;

use eventbox::admin::{Destination, Operator};
use eventbox::emitter::{Expiry, Handover, PAUSED_KEPT_DUE};

use super::support::{DEAD, Emits, Fake, OUTBOX, STOP, builder, emptied, leave, leave_in, of, payload, started};
use crate::support::{SOON, TestDb, TestEngine, eventually, on_every_engine};

/// Counts the messages with more attempts than the one that is their insert.
const TRIED_AGAIN: &str = "SELECT count(*) FROM eventbox_outbox WHERE attempts > 1";

fn ana<B: TestEngine>(db: &TestDb<B>) -> Operator<B> {
    Operator::new(db.pool.clone(), "ana")
}

fn shop() -> Destination {
    Destination::all().source("shop")
}

fn payloads(fake: &Fake) -> Vec<String> {
    let mut payloads: Vec<_> = fake.events().iter().map(payload).collect();
    payloads.sort();
    payloads
}

/// Waits until the host has claimed a message that it got after everything so far.
async fn swept<B: Emits>(db: &TestDb<B>, fake: &Fake, name: &str) {
    leave(db, of("free", "marker", name)).await;
    eventually(SOON, async || payloads(fake).iter().any(|payload| payload == name)).await;
}

on_every_engine! {
    /// Neither the memory path nor a claim sends a message of a paused source. Messages of others go on. After the
    /// resume everything is sent, with the attempts of before.
    async fn a_paused_destination_gets_nothing_and_the_others_go_on(db) {
        leave(db, of("shop", "paid", "left behind")).await;
        ana(db).pause_destination(&shop()).await.unwrap();
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |_| {}).await;
        emitter.publish(of("shop", "paid", "published")).await.unwrap();
        let stored = leave_in::<Engine>(db, of("shop", "sent", "delivered")).await;
        assert_eq!(emitter.deliver(stored), Handover::Paused);
        emitter.publish(of("hotel", "paid", "other")).await.unwrap();
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0 WHERE source = 'shop'").await;
        swept(db, &fake, "1").await;
        swept(db, &fake, "2").await;
        eventually(SOON, async || payloads(&fake) == ["1", "2", "other"]).await;
        eventually(SOON, async || db.count(OUTBOX).await == 3).await;
        assert_eq!(db.number(TRIED_AGAIN).await, 0);

        ana(db).resume_destination(&shop()).await.unwrap();
        emptied(db).await;
        assert_eq!(payloads(&fake), ["1", "2", "delivered", "left behind", "other", "published"]);
        eventually(SOON, async || emitter.publish(of("shop", "paid", "fresh")).await.is_ok()).await;
        emptied(db).await;
        emitter.stop(STOP).await;
    }

    /// A pause of a source and type, of a type, and of everything hold back what they name.
    async fn a_pause_may_be_narrow_or_wide(db) {
        let paid = |payload| of("shop", "paid", payload);
        for (destination, free) in [
            (shop().event_type("paid"), vec!["hotel paid", "shop sent"]),
            (Destination::all().event_type("paid"), vec!["shop sent"]),
            (Destination::all(), vec![]),
        ] {
            ana(db).pause_destination(&destination).await.unwrap();
            let fake = Fake::ok();
            let emitter = started(&db.pool, &fake, |_| {}).await;
            leave(db, paid("shop paid")).await;
            leave(db, of("hotel", "paid", "hotel paid")).await;
            leave(db, of("shop", "sent", "shop sent")).await;
            eventually(SOON, async || payloads(&fake) == free).await;
            ana(db).resume_destination(&destination).await.unwrap();
            emptied(db).await;
            assert_eq!(fake.events().len(), 3, "{destination}");
            emitter.stop(STOP).await;
        }
    }

    /// Emitters that run already, of several processes, honour a pause within their next poll.
    async fn a_second_process_honours_the_pause_too(db) {
        let (host, plugin) = (Fake::ok(), Fake::ok());
        let other = db.open(3);
        let one = started(&db.pool, &host, |_| {}).await;
        let two = builder(&other, &plugin).plugin().start().await.unwrap();
        ana(db).pause_destination(&shop()).await.unwrap();
        for emitter in [&one, &two] {
            eventually(SOON, async || {
                let stored = leave_in::<Engine>(db, of("shop", "paid", "x")).await;
                emitter.deliver(stored) == Handover::Paused
            })
            .await;
        }
        for emitter in [&one, &two] {
            emitter.publish(of("shop", "paid", "held")).await.unwrap();
        }
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0 WHERE source = 'shop'").await;
        swept(db, &host, "1").await;
        swept(db, &host, "2").await;
        assert!(!payloads(&host).iter().chain(&payloads(&plugin)).any(|payload| payload == "held"));
        ana(db).resume_destination(&shop()).await.unwrap();
        emptied(db).await;
        one.stop(STOP).await;
        two.stop(STOP).await;
    }

    /// Messages of a paused destination do not expire, and do not use up their attempts.
    async fn a_pause_makes_no_dead_letters(db) {
        leave(db, of("shop", "paid", "old")).await;
        leave(db, of("hotel", "paid", "old")).await;
        db.run("UPDATE eventbox_outbox SET created_at_us = 1").await;
        ana(db).pause_destination(&shop()).await.unwrap();
        let fake = Fake::failing(tonic::Code::Unavailable);
        let emitter = started(&db.pool, &fake, |config| {
            let ttl = Expiry::default().with_ttl(Duration::from_secs(60));
            config.expiry = Some(ttl.with_interval(Duration::from_millis(5)));
            config.max_attempts = std::num::NonZeroU32::new(1_000_000);
        })
        .await;
        eventually(SOON, async || db.count(DEAD).await == 1).await;
        assert_eq!(db.texts("SELECT source FROM eventbox_outbox").await, ["shop"]);
        assert_eq!(db.number(TRIED_AGAIN).await, 0);
        emitter.stop(STOP).await;
    }

    /// Of a long backlog the first messages stay due, and the others are set aside, so that no claim passes over all of
    /// them. Their attempts stay.
    async fn a_long_backlog_of_a_pause_is_set_aside(db) {
        ana(db).pause_destination(&shop()).await.unwrap();
        let mut tx = eventbox::begin(&db.pool).await.unwrap();
        for number in 0..PAUSED_KEPT_DUE + 250 {
            let _ = Engine::publish_in(&mut tx, of("shop", "paid", number)).await;
        }
        tx.commit().await.unwrap();
        db.run("UPDATE eventbox_outbox SET next_attempt_at_us = 0, shard = 7").await;
        let fake = Fake::ok();
        let emitter = started(&db.pool, &fake, |_| {}).await;
        let due = "SELECT count(*) FROM eventbox_outbox WHERE next_attempt_at_us = 0";
        eventually(SOON, async || db.number(due).await == PAUSED_KEPT_DUE).await;
        assert_eq!((fake.calls(), db.number(TRIED_AGAIN).await), (0, 0));
        // Those that stayed due are sent at once, and the others in time.
        ana(db).resume_destination(&shop()).await.unwrap();
        eventually(SOON, async || db.count(OUTBOX).await == 250).await;
        ana(db).retry_messages(&eventbox::admin::MessageFilter::new(), |_| ()).await.unwrap();
        emptied(db).await;
        assert_eq!(fake.events().len() as i64, PAUSED_KEPT_DUE + 250);
        emitter.stop(STOP).await;
    }
}
