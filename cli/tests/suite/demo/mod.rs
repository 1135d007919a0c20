//! The demo as a real process.

mod bad_input;
mod kill;
mod processes;
mod whole;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

/// Starts the demo as a process that dies with the test. Its files go into a directory that `cargo clean` removes.
fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbox"));
    command.env("TMPDIR", env!("CARGO_TARGET_TMPDIR"));
    command
        .arg("demo")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// The result of a finished process.
struct Finished {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn finish(args: &[&str]) -> Finished {
    let output = demo(args).output().await.unwrap();
    Finished {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Finished {
    /// Returns the JSON object of a verified run.
    #[track_caller]
    fn verified(&self) -> serde_json::Value {
        assert_eq!(self.code, Some(0), "{}\n{}", self.stdout, self.stderr);
        let report: serde_json::Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(report["verified"], true, "{report}");
        report
    }
}

/// Writes a file with the first `rows` flights of the real input.
fn some_flights(directory: &Path, rows: usize) -> PathBuf {
    let packed =
        std::fs::File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("data/flights-2013-01.csv.gz")).unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
    let path = directory.join("flights.csv");
    let mut file = std::fs::File::create(&path).unwrap();
    for line in text.lines().take(rows + 1) {
        writeln!(file, "{line}").unwrap();
    }
    path
}
