//! The examples run and print their results. They assert the rest themselves.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::support::source::{root, source_files};

/// Longest time of an example, including its build.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs an example as a reader would. Uses the program that `cargo test` has built if it is current.
async fn run(name: &str) -> String {
    let built = std::env::current_exe().unwrap();
    let built = built.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let built = built.with_extension(std::env::consts::EXE_EXTENSION);
    let mut command = if is_current(&built, name) {
        Command::new(built)
    } else {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["run", "--quiet", "--all-features", "--example", name]);
        if cfg!(not(debug_assertions)) {
            cargo.arg("--release");
        }
        cargo
    };
    command.current_dir(root());
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("the example ends").unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {}\n{stdout}\n{stderr}", output.status);
    assert_eq!(stdout.lines().last(), Some("done"), "{name}: {stdout}");
    stdout.into_owned()
}

/// Returns whether a program is newer than its sources.
fn is_current(built: &Path, name: &str) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let Some(built) = changed(built) else { return false };
    let sources = source_files().into_iter().map(|file| root().join("src").join(file.path));
    let example = root().join("examples").join(name).with_extension("rs");
    sources.chain([example, root().join("Cargo.toml")]).all(|path| changed(&path).is_some_and(|source| source < built))
}

#[track_caller]
fn assert_says(stdout: &str, lines: &[&str]) {
    for line in lines {
        assert!(stdout.lines().any(|said| said.trim() == *line), "{line:?} is not in\n{stdout}");
    }
}

#[tokio::test]
async fn hello_entity() {
    let said = run("hello_entity").await;
    assert_says(&said, &[r#"greeter/grace has seen {"hello from greeter/ada": 1}"#]);
    assert_says(&said, &[r#"greeter/ada has seen {"hello back from greeter/grace": 1}"#]);
}

#[tokio::test]
async fn axum_handler() {
    let said = run("axum_handler").await;
    assert_says(&said, &["POST /customers/ada/orders: HTTP/1.1 201 Created", "1 order stored, 1 event consumed"]);
}

#[tokio::test]
async fn chat_over_tcp() {
    let said = run("chat_over_tcp").await;
    assert_says(&said, &["grace reads: * grace is here", "ada reads: * grace has left"]);
}

#[tokio::test]
async fn http_request_and_answer() {
    let said = run("http_request_and_answer").await;
    let conflict = r#"POST /orders click-2: 409 Conflict: {"answer":"only 4 left of pencil"}"#;
    assert_says(&said, &[conflict, "POST /orders click-4: 400 Bad Request"]);
}

#[tokio::test]
async fn seconds() {
    let said = run("seconds").await;
    assert!(said.starts_with("200 readings of 20 sensors, 8550 in all, became "), "{said}");
}

#[tokio::test]
async fn aggregate() {
    let said = run("aggregate").await;
    assert!(said.starts_with("200 readings of 20 sensors, 8550 in all, became "), "{said}");
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn postgres_processor() {
    let said = run("postgres_processor").await;
    assert_says(&said, &["3 payments booked, 3 lines in the journal, balance 755 at version 2"]);
}

#[tokio::test]
async fn reducer_with_tests() {
    let said = run("reducer_with_tests").await;
    assert_says(&said, &["Sold(4): Shelf { stock: 1, asked_for_more: true }"]);
}

#[tokio::test]
async fn edge_to_hub() {
    let said = run("edge_to_hub").await;
    assert_says(&said, &["offline, 3 reports wait", "order/7: picked up", "order/7: delivered", "order/8: picked up"]);
}

#[tokio::test]
async fn files_as_source() {
    let said = run("files_as_source").await;
    assert_says(
        &said,
        &["first process: 3 lines", "second process: 2 lines", "sensor/cellar: 3 readings, 12.5 at last"],
    );
}
