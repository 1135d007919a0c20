//! The small connectors: null and bench.

use std::time::Duration;

use eventbox::Event;
use eventbox::peer::connectors::{Bench, BenchConfig, Null};
use eventbox::peer::{Mapping, Peer};

use super::{STOP, box_of, run, texts};
use crate::support::{SOON, eventually, on_every_engine};

on_every_engine! {
    async fn null_takes_everything_and_counts(db) {
        let null = Null::new();
        let counted = null.counted();
        let out = box_of("nowhere", "main");
        for value in ["one", "three"] {
            eventbox::emit(&db.pool, &out, Event::new(value)).await.unwrap();
        }
        let peers = run(&db.pool, Peer::new("nowhere", null)).await;
        eventually(SOON, async || texts(&db.pool, out.as_str()).await.is_empty()).await;
        peers.stop(STOP).await;
        assert_eq!((counted.events(), counted.bytes()), (2, 8));
    }

    /// The source sends to the box of its own stream, so that the sink sees every event.
    async fn bench_measures_its_own_events(db) {
        let mut config = BenchConfig::default();
        config.events = Some(250);
        let bench = Bench::new(config).unwrap();
        let meter = bench.meter();
        let peers = run(&db.pool, Peer::new("bench", bench).mapping(Mapping::to("peer.bench/{stream}").unwrap())).await;
        eventually(SOON, async || meter.report().arrived == 250).await;
        peers.stop(STOP).await;
        let report = meter.report();
        assert_eq!(report.made, 250);
        assert!(Duration::ZERO < report.p50 && report.p50 <= report.p99 && report.p99 <= report.longest, "{report}");
    }
}
