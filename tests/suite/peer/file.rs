//! Files as sources and sinks: what a crash, a rotation and a full disk leave.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use eventbox::Event;
use eventbox::peer::connectors::{File, FileConfig, file::FileMode, file::Frames};
use eventbox::peer::framing::InterceptorSpec;
use eventbox::peer::{Mapping, Peer};

use super::{STOP, box_of, run, texts};
use crate::support::{SOON, eventually, on_every_engine};

fn source(config: FileConfig) -> Peer {
    let lines = InterceptorSpec::named("lines").unwrap();
    Peer::new("in", File::new(config).unwrap()).interceptors([lines]).mapping(Mapping::to("line/all").unwrap())
}

fn tail(path: &Path) -> Peer {
    let mut config = FileConfig::new(path, FileMode::Tail);
    config.poll_ms = 10;
    source(config)
}

fn sink(config: FileConfig) -> Peer {
    Peer::new("out", File::new(config).unwrap()).interceptors([InterceptorSpec::named("lines").unwrap()])
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

on_every_engine! {
    async fn files_of_a_directory_are_read_once(db) {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        std::fs::write(file("a.csv"), "a1\na2\nlast").unwrap();
        std::fs::write(file("b.csv"), "b1\n").unwrap();
        std::fs::write(file("c.txt"), "no\n").unwrap();
        let reader = || {
            let mut config = FileConfig::new(directory.path(), FileMode::Read);
            config.glob = Some("*.csv".to_owned());
            source(config)
        };
        let peers = run(&db.pool, reader()).await;
        eventually(SOON, async || texts(&db.pool, "line/all").await.len() == 4).await;
        peers.stop(STOP).await;
        assert_eq!(texts(&db.pool, "line/all").await, ["a1", "a2", "last", "b1"]);

        // Without the names, only the stored positions keep lines from coming again.
        db.run("DELETE FROM eventbox_tombstone").await;
        append(&file("b.csv"), "b2\n");
        let peers = run(&db.pool, reader()).await;
        eventually(SOON, async || texts(&db.pool, "line/all").await.len() >= 5).await;
        peers.stop(STOP).await;
        assert_eq!(texts(&db.pool, "line/all").await, ["a1", "a2", "last", "b1", "b2"]);
    }

    /// The process dies in the middle of the file again and again, and each line arrives once and in order.
    async fn a_reader_that_dies_repeats_and_loses_nothing(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        let wanted: Vec<String> = (0..4_000).map(|number| format!("line {number}")).collect();
        std::fs::write(&path, wanted.join("\n")).unwrap();
        let count = async || db.number("SELECT count(*) FROM eventbox_event WHERE recipient = 'line/all'").await;
        let mut before = 0;
        while before < 4_000 {
            let peers = run(&db.pool, source(FileConfig::new(&path, FileMode::Read))).await;
            eventually(SOON, async || count().await > before).await;
            drop(peers);
            // The tasks of a dropped peer end by themselves, perhaps after one more commit.
            eventually(SOON, async || db.count("eventbox_stream").await == 0 || count().await == 4_000).await;
            db.run("DELETE FROM eventbox_stream").await;
            db.run("DELETE FROM eventbox_tombstone").await;
            before = count().await;
        }
        let mut read = Vec::new();
        for event in eventbox::admin::events(&db.pool, &"line/all".parse().unwrap(), None, 1_000).await.unwrap() {
            read.push(String::from_utf8(event.value().to_vec()).unwrap());
        }
        assert_eq!(read, wanted[..read.len()]);
        assert_eq!(count().await, 4_000);
    }

    async fn a_followed_file_is_read_through_rotations(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, "one\ntw");
        let peers = run(&db.pool, tail(&path)).await;
        eventually(SOON, async || texts(&db.pool, "line/all").await == ["one"]).await;
        append(&path, "o\n");
        eventually(SOON, async || texts(&db.pool, "line/all").await == ["one", "two"]).await;

        // The writer has the old file open and goes on for a while.
        let old = directory.path().join("log.1");
        std::fs::rename(&path, &old).unwrap();
        append(&old, "three\nfour");
        append(&path, "one\n");
        let wanted = ["one", "two", "three", "four", "one"];
        eventually(SOON, async || texts(&db.pool, "line/all").await == wanted).await;

        std::fs::write(&path, "6\n").unwrap();
        eventually(SOON, async || texts(&db.pool, "line/all").await.len() == 6).await;
        peers.stop(STOP).await;
        assert_eq!(texts(&db.pool, "line/all").await[5], "6");
    }

    async fn a_file_that_was_rotated_meanwhile_is_read_to_its_end(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        append(&path, "one\n");
        let peers = run(&db.pool, tail(&path)).await;
        eventually(SOON, async || texts(&db.pool, "line/all").await == ["one"]).await;
        peers.stop(STOP).await;
        append(&path, "two\n");
        std::fs::rename(&path, directory.path().join("log.1")).unwrap();
        append(&path, "three\n");
        db.run("DELETE FROM eventbox_tombstone").await;
        let peers = run(&db.pool, tail(&path)).await;
        eventually(SOON, async || texts(&db.pool, "line/all").await.len() >= 3).await;
        peers.stop(STOP).await;
        assert_eq!(texts(&db.pool, "line/all").await, ["one", "two", "three"]);
    }

    async fn a_compressed_file_is_read_once(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.gz");
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(b"one\ntwo\nthree").unwrap();
        std::fs::write(&path, encoder.finish().unwrap()).unwrap();
        let reader = || {
            let mut config = FileConfig::new(&path, FileMode::Read);
            config.frames = Frames::Stream;
            let through = ["gzip", "lines"].map(|name| InterceptorSpec::named(name).unwrap());
            source(config).interceptors(through)
        };
        for _ in 0..2 {
            let peers = run(&db.pool, reader()).await;
            eventually(SOON, async || texts(&db.pool, "line/all").await.len() == 3).await;
            eventually(SOON, async || db.count("eventbox_stream").await == 0).await;
            peers.stop(STOP).await;
            assert_eq!(texts(&db.pool, "line/all").await, ["one", "two", "three"]);
            assert_eq!(db.texts("SELECT position FROM eventbox_checkpoint").await, ["finished"]);
            db.run("DELETE FROM eventbox_tombstone").await;
        }
    }

    async fn what_is_appended_is_acknowledged_and_a_torn_line_is_cut(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out-main.log");
        let writer = || sink(FileConfig::new(directory.path().join("out-{stream}.log"), FileMode::Append));
        let out = box_of("out", "main");
        eventbox::emit(&db.pool, &out, Event::new("one")).await.unwrap();
        let peers = run(&db.pool, writer()).await;
        eventbox::emit(&db.pool, &out, Event::new("two")).await.unwrap();
        eventually(SOON, async || texts(&db.pool, out.as_str()).await.is_empty()).await;
        peers.stop(STOP).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\n");

        append(&path, "thr");
        eventbox::emit(&db.pool, &out, Event::new("three")).await.unwrap();
        let peers = run(&db.pool, writer()).await;
        eventually(SOON, async || texts(&db.pool, out.as_str()).await.is_empty()).await;
        peers.stop(STOP).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nthree\n");
    }

    #[cfg(target_os = "linux")]
    async fn a_full_disk_loses_nothing(db) {
        let out = box_of("out", "main");
        eventbox::emit(&db.pool, &out, Event::new("one")).await.unwrap();
        let mut peer = Some(sink(FileConfig::new("/dev/full", FileMode::Append)));
        let peers = run(&db.pool, peer.take().unwrap()).await;
        let is_failing = async || peers.health().problems.iter().any(|problem| problem.to_string().contains("out"));
        eventually(SOON, is_failing).await;
        peers.stop(std::time::Duration::from_secs(1)).await;
        assert_eq!(texts(&db.pool, out.as_str()).await, ["one"]);
    }
}
