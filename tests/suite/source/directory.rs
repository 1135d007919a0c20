//! Files of a directory as a source.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use eventbox::source::{Directory, EventSource, SourceConfig, SourceError, Sources, drain};
use eventbox::{BoxError, Event, Recipient};

use super::{assert_emitted, causes, config, room, to, values};
use crate::support::running::{STOP, idle_runtime};
use crate::support::{SOON, eventually, on_every_engine};

/// Makes an event of each line: its value is the line, and its recipient the number of the line modulo 3.
fn numbers(path: &Path) -> Directory {
    Directory::new(path, |line| {
        let number: usize = line.json()?;
        Ok(vec![(to(number % 3), Event::new(number.to_string()))])
    })
}

fn append(directory: &Path, file: &str, text: &str) {
    let mut file = OpenOptions::new().append(true).create(true).open(directory.join(file)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|number| format!("{number}\n")).collect()
}

fn cause(error: &SourceError) -> String {
    let SourceError::Read { source, .. } = error else { panic!("{error:?}") };
    causes(&**source)
}

on_every_engine! {
    /// Files come in the order of their names, and grow. An unfinished last line waits.
    async fn files_are_read_in_the_order_of_their_names_and_followed(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        append(path, "b.jsonl", &lines(5..10));
        append(path, "a.jsonl", &lines(0..5));
        append(path, ".hidden.jsonl", "nonsense\n");
        append(path, "c.txt", "nonsense\n");
        std::fs::create_dir(path.join("d.jsonl")).unwrap();
        let source = numbers(path).suffix(".jsonl");
        let read = async || drain(&db.pool, "files", &source, &config()).await.unwrap().events;
        assert_eq!(read().await, 10);
        append(path, "b.jsonl", "10\n1");
        assert_eq!(read().await, 1, "the last line is not finished");
        append(path, "b.jsonl", "1\r\n");
        assert_eq!(read().await, 1);
        append(path, "e.jsonl", "");
        assert_eq!(read().await, 0);
        append(path, "e.jsonl", &lines(12..14));
        append(path, "f.jsonl", &lines(14..15));
        assert_eq!(read().await, 3);
        assert_emitted(db, 15).await;
        std::fs::remove_file(path.join("a.jsonl")).unwrap();
        std::fs::remove_file(path.join("e.jsonl")).unwrap();
        assert_eq!(read().await, 0, "finished files may go");
    }

    async fn a_running_source_follows_new_lines_and_new_files(db) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let runtime = idle_runtime(db).await;
        let sources = Sources::builder(&runtime).source_with("files", numbers(path), config()).start().unwrap();
        for file in 0..5 {
            for line in 0..4 {
                let first = file * 40 + line * 10;
                append(path, &format!("{file}.jsonl"), &lines(first..first + 10));
                eventually(SOON, async || db.count("eventbox_event").await == first as i64 + 10).await;
            }
        }
        eventually(SOON, async || sources.status()[0].lag == Some(0)).await;
        sources.stop(STOP).await;
        runtime.stop(STOP).await;
        assert_emitted(db, 200).await;
    }

    /// A line that the program cannot use stops the directory before it, until the program can.
    async fn a_bad_line_stops_the_directory_before_it(db) {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path(), "a", "0\n1\nnonsense\n2\n");
        let error = drain(&db.pool, "files", &numbers(directory.path()), &config()).await.unwrap_err();
        assert!(cause(&error).contains("a: the line at byte 4 cannot be used: expected"), "{}", cause(&error));
        assert_emitted(db, 2).await;
        let skipping = Directory::new(directory.path(), |line| match line.json::<usize>() {
            Ok(number) => Ok(vec![(to(number % 3), Event::new(number.to_string()))]),
            Err(_) => Ok(Vec::new()),
        });
        drain(&db.pool, "files", &skipping, &config()).await.unwrap();
        assert_emitted(db, 3).await;
    }

    /// An event that breaks a limit is a bad line, too, and so is a line that is too long.
    async fn lines_and_events_over_a_limit_name_their_place(db) {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path(), "a", &format!("x\n{}\n", "y".repeat(200_000)));
        let source = Directory::new(directory.path(), |line| {
            let name = String::from_utf8_lossy(line.bytes).into_owned();
            Ok(vec![(to(0), Event::new("v").named(name))])
        });
        let error = drain(&db.pool, "files", &source, &config()).await.unwrap_err();
        assert!(cause(&error).contains("a: the line at byte 2 cannot be used") && cause(&error).contains("name"));
        assert_eq!(values(db, &to(0)).await, ["v"]);
        let error = drain(&db.pool, "short", &source.max_line_bytes(100_000), &config()).await.unwrap_err();
        assert!(cause(&error).contains("a: the line at byte 2 cannot be used: the line has"), "{}", cause(&error));
        append(directory.path(), "b", &"z".repeat(200_000));
        let unended = Directory::new(directory.path(), |_| Ok(Vec::new())).max_line_bytes(1_000);
        std::fs::remove_file(directory.path().join("a")).unwrap();
        let error = drain(&db.pool, "unended", &unended, &config()).await.unwrap_err();
        assert!(cause(&error).contains("b: the line at byte 0"), "{}", cause(&error));
    }

    /// Files that lost or changed what was read are errors that name them. Nothing is emitted from them.
    async fn a_truncated_or_replaced_file_is_an_error_that_names_it(db) {
        type Change = fn(&Path);
        let changes: [(&str, Change); 4] = [
            ("truncated", |file| std::fs::write(file, "0\n").unwrap()),
            ("rewritten", |file| std::fs::write(file, "9\n9\n9\n9\n9\n").unwrap()),
            ("removed", |file| std::fs::remove_file(file).unwrap()),
            ("replaced", |file| {
                std::fs::remove_file(file).unwrap();
                std::fs::write(file, "9\n9\n9\n9\n").unwrap();
            }),
        ];
        for (name, change) in changes {
            let directory = tempfile::tempdir().unwrap();
            append(directory.path(), "data", &lines(0..4));
            let source = numbers(directory.path());
            assert_eq!(drain(&db.pool, name, &source, &config()).await.unwrap().events, 4);
            // Of a reader that is open, and of a new one.
            let mut reader = source.open("all", None).await.unwrap();
            let room = room(&SourceConfig::default()).await;
            reader.read(room).await.unwrap();
            change(&directory.path().join("data"));
            let open = reader.read(room).await.unwrap_err().to_string();
            assert!(open.contains("data"), "{name}: {open}");
            let error = drain(&db.pool, name, &source, &config()).await.unwrap_err();
            assert!(cause(&error).contains("data"), "{name}: {}", cause(&error));
        }
        assert_eq!(db.count("eventbox_event").await, 16);
    }

    async fn an_unfinished_line_before_a_later_file_is_an_error_until_it_is_finished(db) {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path(), "a", "0\n1");
        append(directory.path(), "b", "2\n");
        let source = numbers(directory.path());
        let error = drain(&db.pool, "files", &source, &config()).await.unwrap_err();
        assert!(cause(&error).contains("a: the last line, at byte 2, is not finished"), "{}", cause(&error));
        assert_emitted(db, 1).await;
        append(directory.path(), "a", "\n");
        drain(&db.pool, "files", &source, &config()).await.unwrap();
        assert_emitted(db, 3).await;
    }

    async fn positions_of_something_else_are_refused(db) {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path(), "a", "0\n");
        let operator = eventbox::admin::Operator::new(db.pool.clone(), "ana");
        operator.move_checkpoint("files", "all", Some("0/16B3748")).await.unwrap();
        let error = drain(&db.pool, "files", &numbers(directory.path()), &config()).await.unwrap_err();
        assert!(cause(&error).contains("is no position of a directory"), "{}", cause(&error));
        let nowhere = numbers(Path::new("/no/such/directory"));
        let error = drain(&db.pool, "nowhere", &nowhere, &config()).await.unwrap_err();
        assert!(cause(&error).contains("/no/such/directory"), "{}", cause(&error));
    }
}

/// A page has no more than its room, also of a large file, and lines without events end it, too.
#[tokio::test]
async fn a_large_file_is_read_in_bounded_pages() {
    let directory = tempfile::tempdir().unwrap();
    let line = format!("{}\n", "x".repeat(9_999));
    std::fs::write(directory.path().join("a"), line.repeat(3_000)).unwrap();
    for emits in [true, false] {
        let source = Directory::new(directory.path(), move |line| {
            let event = || Ok::<_, BoxError>((Recipient::new("line", "all")?, Event::new(line.bytes.to_vec())));
            if emits { Ok(vec![event()?]) } else { Ok(Vec::new()) }
        });
        let room = room(&SourceConfig::default()).await;
        let mut reader = source.open("all", None).await.unwrap();
        let mut pages = 0;
        loop {
            let page = tokio::time::timeout(Duration::from_secs(30), reader.read(room)).await.unwrap().unwrap();
            assert!(page.len() <= room.events && page.len() * 9_999 <= room.bytes + 9_999);
            if page.position().is_none() {
                break;
            }
            pages += 1;
        }
        assert!((7..=9).contains(&pages), "{pages} pages of 30 MB");
    }
}
