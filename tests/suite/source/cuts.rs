//! A directory that is written and read in pieces, which are cut anywhere.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex};

use eventbox::Event;
use eventbox::source::{Directory, EventSource, Room, SourceReader};
use proptest::collection::vec;
use proptest::prelude::*;

use super::{config, room, to};

/// Cases of a run.
const CASES: u32 = 300;

/// What the writer and the reader of a directory do.
#[derive(Debug, Clone)]
enum Step {
    /// Appends bytes, wherever they end.
    Append(usize),
    /// Begins a file, after the line break of the last one.
    NextFile,
    /// Reads some pages.
    Read(usize),
    /// The reader dies. A new one begins at the last position that was kept, or at an earlier one.
    Restart { forgets: usize },
    /// Removes the files before the present one.
    Clean,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..40usize).prop_map(Step::Append),
        1 => Just(Step::NextFile),
        4 => (1..4usize).prop_map(Step::Read),
        2 => (0..3usize).prop_map(|forgets| Step::Restart { forgets }),
        1 => Just(Step::Clean),
    ];
    vec(step, 1..40)
}

/// A directory that is written and read by steps.
struct Case {
    directory: tempfile::TempDir,
    room: Room,
    /// Bytes that are still to be written.
    left: VecDeque<u8>,
    written: Vec<u8>,
    file: usize,
    /// Positions in their order, with the number of lines before each.
    kept: Vec<(Option<String>, usize)>,
    lines: Vec<Vec<u8>>,
    reader: Option<Box<dyn SourceReader>>,
    /// Lines of the page that is read now.
    page: Arc<Mutex<Vec<Vec<u8>>>>,
    source: Directory,
}

impl Case {
    fn append(&mut self, bytes: &[u8]) {
        let name = format!("{:03}", self.file);
        let file = std::fs::File::options().append(true).create(true).open(self.directory.path().join(name));
        file.unwrap().write_all(bytes).unwrap();
        self.written.extend(bytes);
    }

    /// Reads a page. Returns whether there may be more.
    async fn read(&mut self) -> bool {
        if self.reader.is_none() {
            let from = self.kept.last().and_then(|(position, _)| position.clone());
            self.reader = Some(self.source.open("all", from.as_deref()).await.unwrap());
        }
        self.page.lock().unwrap().clear();
        let page = self.reader.as_mut().unwrap().read(self.room).await.unwrap();
        let Some(position) = page.position() else {
            assert!(page.is_empty());
            return false;
        };
        self.lines.append(&mut self.page.lock().unwrap());
        self.kept.push((Some(position.to_owned()), self.lines.len()));
        true
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Append(bytes) => {
                let bytes: Vec<u8> = self.left.drain(..bytes.min(self.left.len())).collect();
                self.append(&bytes);
            }
            Step::NextFile => {
                if self.written.last().is_some_and(|byte| *byte != b'\n') {
                    self.append(b"\n");
                }
                self.file += 1;
            }
            Step::Read(pages) => {
                for _ in 0..pages {
                    self.read().await;
                }
            }
            Step::Restart { forgets } => {
                self.reader = None;
                self.kept.truncate(self.kept.len().saturating_sub(forgets).max(1));
                let lines = self.kept.last().map_or(0, |(_, lines)| *lines);
                self.lines.truncate(lines);
            }
            Step::Clean => {
                // The checkpoint is the last one from now on, and the files before it may go.
                self.kept.drain(..self.kept.len() - 1);
                let Some((Some(position), _)) = self.kept.last() else { return };
                let present = position.rsplit(' ').next().unwrap().to_owned();
                for entry in std::fs::read_dir(self.directory.path()).unwrap() {
                    let entry = entry.unwrap();
                    if entry.file_name().into_string().unwrap() < present {
                        std::fs::remove_file(entry.path()).unwrap();
                    }
                }
            }
        }
    }
}

/// However a text is cut into appends and files, and wherever readers die and begin anew: each line comes once behind
/// its position, in order, with its bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_line_comes_once_wherever_writers_and_readers_are_cut() {
    let mut config = config();
    config.max_events = 3.try_into().unwrap();
    let room = room(&config).await;
    let runtime = tokio::runtime::Handle::current();
    let texts = vec(prop_oneof![3 => any::<u8>(), 1 => Just(b'\n')], 0..400);
    tokio::task::block_in_place(|| {
        proptest!(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() },
            |(text in texts, steps in steps())| {
            let directory = tempfile::tempdir().unwrap();
            let page = Arc::new(Mutex::new(Vec::new()));
            let noted = Arc::clone(&page);
            let source = Directory::new(directory.path(), move |line| {
                noted.lock().unwrap().push(line.bytes.to_vec());
                Ok(vec![(to("all"), Event::new("x"))])
            });
            let (written, lines, kept) = (Vec::new(), Vec::new(), vec![(None, 0)]);
            let left = VecDeque::from(text);
            let mut case =
                Case { directory, room, left, written, file: 0, kept, lines, reader: None, page, source };
            runtime.block_on(async {
                for step in steps {
                    case.take(step).await;
                }
                while case.read().await {}
            });
            // An unfinished line at the end waits.
            let end = case.written.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let wanted: Vec<&[u8]> = case.written[..end]
                .split_inclusive(|byte| *byte == b'\n')
                .map(|line| line.strip_suffix(b"\n").unwrap())
                .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
                .collect();
            prop_assert_eq!(case.lines, wanted);
        });
    });
}
