//! The picture of the README: the overview of a database with some work and some trouble.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::Ordering;

use eventbox::dashboard::DashboardOptions;
use eventbox::{Recipient, admin};
use sqlx::Postgres;

use crate::plants::{emit_many, message};
use crate::stage::{Play, builder, on_stage, order};
use crate::support::{TestDb, eventually, with_database};

/// Number of samples of the last hour that the picture shows, one every 10 s.
const SAMPLES: usize = 9;

/// Longest time for the samples.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(180);

/// Writes docs/dashboard.png: `cargo xtask browser --picture`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it writes a file of the project, and takes two minutes"]
async fn of_the_overview() {
    with_database("picture", async |db: &TestDb<Postgres>| {
        let options = DashboardOptions::default().with_title("orders, production");
        on_stage(db, Play { options, ..Play::default() }, async |stage| {
            let other = builder(db.open(4), "host-a:7000", NonZeroU32::MIN).start().await.unwrap();
            stage.mail_is_away.store(true, Ordering::SeqCst);
            for name in ["ada", "ben", "cleo"] {
                stage.emit(&Recipient::new("mail", name).unwrap(), "hello").await;
            }
            admin::pause_kind(&db.pool, "shipment").await.unwrap();
            for number in 0..40 {
                emit_many(db, &Recipient::new("shipment", format!("2026-{number}")).unwrap(), 20 + number).await;
            }
            admin::pause(&db.pool, &order("7")).await.unwrap();
            emit_many(db, &order("7"), 12).await;
            for number in 1..=17 {
                message(db, number, "order.totalled", "UNAVAILABLE").await;
            }
            let created = "(extract(epoch FROM clock_timestamp() - interval '12 minutes') * 1000000)::int8";
            db.run(format_args!("UPDATE eventbox_outbox SET source = 'orders', created_at_us = {created}")).await;
            let browser = &stage.browser;
            browser.show_as(1_200, false).await;
            browser.open("/").await;
            let points = "const line = document.querySelector('#kinds polyline');
                return line ? line.getAttribute('points').split(' ').length : 0";
            let mut seen = 0;
            eventually(PATIENCE, async || {
                let samples = browser.run(points).await.as_u64().unwrap() as usize;
                if samples > seen {
                    seen = samples;
                    // The age of the oldest order falls now and then.
                    if samples.is_multiple_of(3) {
                        admin::purge_all(&db.pool, &order("7")).await.unwrap();
                    }
                    emit_many(db, &order("7"), 3).await;
                }
                samples >= SAMPLES
            })
            .await;
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dashboard.png");
            let end =
                "return document.getElementById('shard-map').getBoundingClientRect().bottom + window.scrollY + 16";
            let end = browser.run(end).await.as_f64().unwrap();
            std::fs::write(file, browser.photo(end).await).unwrap();
            other.stop(PATIENCE).await;
        })
        .await;
    })
    .await;
}
