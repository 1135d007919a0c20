//! Directories that are large or wrong. These tests need no database: they read as the core does.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};

use eventbox::source::{Directory, EventSource, MAX_POSITION_BYTES, Page, Room, SourceConfig};
use eventbox::{BoxError, Event};
use tokio::time::timeout;

use super::{causes, room, to};
use crate::support::SOON;

/// Makes an event of each line, with its bytes.
fn raw(path: &Path) -> Directory {
    Directory::new(path, |line| Ok(vec![(to("all"), Event::new(line.bytes.to_vec()))]))
}

/// The lines that come as values, and the place of the reader.
#[derive(Default)]
struct Seen {
    /// Gets the value of each line, also of one that is repeated.
    lines: Arc<Mutex<Vec<Vec<u8>>>>,
    position: Option<String>,
}

impl Seen {
    /// Returns a source that notes its lines here.
    fn source(&self, path: &Path) -> Directory {
        let lines = Arc::clone(&self.lines);
        Directory::new(path, move |line| {
            lines.lock().unwrap().push(line.bytes.to_vec());
            Ok(vec![(to("all"), Event::new("x"))])
        })
    }

    fn notes(&mut self, page: &Page) {
        self.position = page.position().map(str::to_owned).or(self.position.take());
    }

    /// Reads to the present end.
    async fn read(&mut self, source: &Directory, room: Room) -> Result<usize, BoxError> {
        let (mut reader, mut events) = (source.open("all", self.position.as_deref()).await?, 0);
        loop {
            let page = reader.read(room).await?;
            self.notes(&page);
            events += page.len();
            if page.position().is_none() {
                return Ok(events);
            }
        }
    }
}

async fn default_room() -> Room {
    room(&SourceConfig::default()).await
}

/// Ten thousand files are listed once and not once for each file.
#[tokio::test]
async fn ten_thousand_files_are_read_in_order() {
    const FILES: usize = 10_000;
    let directory = tempfile::tempdir().unwrap();
    for number in 0..FILES {
        std::fs::write(directory.path().join(format!("{number:05}")), format!("{number}\n")).unwrap();
    }
    let mut seen = Seen::default();
    let source = seen.source(directory.path());
    let read = timeout(SOON, seen.read(&source, default_room().await)).await.expect("it ends soon").unwrap();
    assert_eq!(read, FILES);
    let wanted: Vec<Vec<u8>> = (0..FILES).map(|number| number.to_string().into_bytes()).collect();
    assert!(*seen.lines.lock().unwrap() == wanted);
    std::fs::write(directory.path().join("a"), "more\n").unwrap();
    assert_eq!(seen.read(&source, default_room().await).await.unwrap(), 1, "a later file is found");
}

/// What cannot be looked at is an error that names it: files that come behind it must not go first. A link to a file is
/// that file.
#[cfg(unix)]
#[tokio::test]
async fn a_file_that_cannot_be_looked_at_is_not_passed_over() {
    use std::os::unix::fs::symlink;

    let directory = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (directory.path(), tempfile::tempdir().unwrap());
    let room = default_room().await;
    std::fs::write(path.join("a"), "1\n").unwrap();
    symlink(elsewhere.path().join("target"), path.join("b")).unwrap();
    std::fs::write(path.join("c"), "3\n").unwrap();
    let mut seen = Seen::default();
    let source = seen.source(path);
    let said = causes(&*seen.read(&source, room).await.unwrap_err());
    assert!(said.contains(&path.join("b").display().to_string()), "{said}");
    assert_eq!(*seen.lines.lock().unwrap(), [b"1"], "what comes before it is read");
    std::fs::write(path.join("a"), "1\n1\n").unwrap();
    assert!(seen.read(&source, room).await.is_err());
    assert_eq!(*seen.lines.lock().unwrap(), [b"1", b"1"], "also what was written since");
    std::fs::write(elsewhere.path().join("target"), "2\n").unwrap();
    assert_eq!(seen.read(&source, room).await.unwrap(), 2);
    assert_eq!(*seen.lines.lock().unwrap(), [b"1", b"1", b"2", b"3"]);

    symlink(path.join("d"), path.join("d")).unwrap();
    std::fs::write(path.join("e"), "5\n").unwrap();
    let said = causes(&*seen.read(&source, room).await.unwrap_err());
    assert!(said.contains(&path.join("d").display().to_string()), "a link to itself: {said}");
    std::fs::remove_file(path.join("d")).unwrap();
    assert_eq!(seen.read(&source, room).await.unwrap(), 1);

    assert_eq!(seen.lines.lock().unwrap().last().unwrap(), b"5");
}

/// A link that leads to another file than the one that was read is a replaced file.
#[cfg(unix)]
#[tokio::test]
async fn a_link_that_was_changed_is_an_error_of_an_open_reader() {
    use std::os::unix::fs::symlink;

    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let link = directory.path().join("link");
    for target in ["one", "other"] {
        std::fs::write(elsewhere.path().join(target), "1\n2\n").unwrap();
    }
    symlink(elsewhere.path().join("one"), &link).unwrap();
    let mut reader = raw(directory.path()).open("all", None).await.unwrap();
    assert_eq!(reader.read(default_room().await).await.unwrap().len(), 2);
    std::fs::remove_file(&link).unwrap();
    symlink(elsewhere.path().join("other"), &link).unwrap();
    let said = causes(&*reader.read(default_room().await).await.unwrap_err());
    assert!(said.contains("link: the file was truncated, replaced or removed"), "{said}");
}

/// A pipe is no file, also when a checkpoint names it. Its opening would wait for a writer.
#[cfg(unix)]
#[tokio::test]
async fn pipes_and_directories_are_no_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let made = std::process::Command::new("mkfifo").arg(path.join("a")).status().unwrap();
    assert!(made.success());
    std::fs::create_dir(path.join("b")).unwrap();
    std::fs::write(path.join("c"), "1\n").unwrap();
    let mut seen = Seen::default();
    let source = seen.source(path);
    let read = timeout(SOON, seen.read(&source, default_room().await)).await.expect("it waits for no writer").unwrap();
    assert_eq!(read, 1);
    for wrong in ["a", "b", ".."] {
        let at = format!("0 e3b0c44298fc1c14 {wrong}");
        let opened = timeout(SOON, source.open("all", Some(&at))).await.expect("it waits for no writer");
        let Err(error) = opened else { panic!("{wrong} was opened") };
        assert!(causes(&*error).contains("it is no file"), "{}", causes(&*error));
    }
}

/// Lines may have any bytes. What is no UTF-8 is a bad line for a function that wants JSON.
#[tokio::test]
async fn lines_of_any_bytes_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let text = b"\xff\xfe\0\n\n\r\n\xc3(\rx\n";
    std::fs::write(directory.path().join("a"), text).unwrap();
    let mut seen = Seen::default();
    let source = seen.source(directory.path());
    assert_eq!(seen.read(&source, default_room().await).await.unwrap(), 4);
    assert_eq!(*seen.lines.lock().unwrap(), [&b"\xff\xfe\0"[..], b"", b"", b"\xc3(\rx"]);
    let json = Directory::new(directory.path(), |line| {
        let _: serde_json::Value = line.json()?;
        Ok(Vec::new())
    });
    let mut reader = json.open("all", None).await.unwrap();
    let said = causes(&*reader.read(default_room().await).await.unwrap_err());
    assert!(said.starts_with("a: the line at byte 0 cannot be used"), "{said}");
}

/// The line break does not count for the limit of a line, wherever a read from the file ends.
#[tokio::test]
async fn a_line_of_exactly_the_limit_is_read() {
    let room = default_room().await;
    for limit in [65_534, 65_535, 65_536] {
        for line_break in ["\n", "\r\n"] {
            for over in [0, 1] {
                let directory = tempfile::tempdir().unwrap();
                let line = "x".repeat(limit + over);
                std::fs::write(directory.path().join("a"), format!("{line}{line_break}")).unwrap();
                let read = Seen::default().read(&raw(directory.path()).max_line_bytes(limit), room).await;
                assert_eq!(read.ok(), (over == 0).then_some(1), "{limit} {line_break:?} {over}");
            }
        }
    }
}

/// A log that is rotated by its name, or truncated in place, is an error of an open reader and of a new one.
#[tokio::test]
async fn rotated_logs_are_errors() {
    type Rotate = fn(&Path);
    let rotations: [Rotate; 3] = [
        |log| std::fs::rename(log, log.with_extension("1")).unwrap(),
        |log| std::fs::File::options().write(true).open(log).unwrap().set_len(0).unwrap(),
        |log| {
            std::fs::rename(log, log.with_extension("1")).unwrap();
            std::fs::write(log, "8\n9\n").unwrap();
        },
    ];
    let room = default_room().await;
    for rotate in rotations {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("app.log");
        std::fs::write(&log, "0\n1\n").unwrap();
        let source = raw(directory.path()).suffix(".log");
        let mut reader = source.open("all", None).await.unwrap();
        let at = reader.read(room).await.unwrap().position().unwrap().to_owned();
        rotate(&log);
        for said in [
            causes(&*reader.read(room).await.unwrap_err()),
            source.open("all", Some(&at)).await.err().map(|error| causes(&*error)).unwrap_or_default(),
        ] {
            assert!(said.contains("app.log: the file was truncated, replaced or removed"), "{said}");
        }
    }
}

/// The longest name of a file fits a position.
#[tokio::test]
async fn the_longest_name_of_a_file_fits_a_position() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("n".repeat(255)), "1\n").unwrap();
    let mut seen = Seen::default();
    let source = seen.source(directory.path());
    seen.read(&source, default_room().await).await.unwrap();
    assert!(seen.position.unwrap().len() <= MAX_POSITION_BYTES);
}

/// A file system that does not answer keeps one thread, whatever number of readers was dropped meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_thread_at_a_time_works_on_a_directory() {
    const READERS: usize = 8;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "1\n").unwrap();
    let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (entered, mut has_entered) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let (now, top) = (Arc::clone(&inside), Arc::clone(&most));
    let source = Directory::new(directory.path(), move |_| {
        top.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        entered.send(()).unwrap();
        // The test ends the wait by its drop of the sender.
        let _ = released.lock().unwrap().recv();
        now.fetch_sub(1, Ordering::SeqCst);
        Ok(Vec::new())
    });
    let room = default_room().await;
    // All of them are open before the first one reads.
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(source.open("all", None).await.unwrap());
    }
    let reading =
        readers.into_iter().map(|mut reader| tokio::spawn(async move { reader.read(room).await.map(|_| ()) }));
    let reading: Vec<_> = reading.collect();
    timeout(SOON, has_entered.recv()).await.unwrap().unwrap();
    // The waiting ones are dropped. The one that reads cannot be.
    for task in reading {
        task.abort();
        let _ = task.await;
    }
    let mut late = source.open("all", None);
    assert!(late.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it waits for its turn");
    drop(release);
    timeout(SOON, late).await.unwrap().unwrap();
    assert_eq!((inside.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, 1));
}
