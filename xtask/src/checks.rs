//! What must hold beside the tests.

use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Result, bail};

use crate::postgres;
use crate::run::{cargo, exit_code, status_of, words_of};

/// Features that must build by themselves.
const FEATURES: [&str; 5] = ["postgres", "sqlite", "sqlite,emitter", "sqlite,runtime", "postgres,testing"];

/// Runs all checks, the quick ones first, and stops at the first that fails.
pub(crate) fn run() -> Result<ExitCode> {
    let started = Instant::now();
    let mut doc = cargo(["doc", "--workspace", "--all-features", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-Dwarnings");
    let mut checks = vec![
        cargo(["fmt", "--all", "--check"]),
        cargo(["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"]),
        doc,
    ];
    for features in FEATURES {
        // Clippy and not check, so that warnings are errors without building the dependencies anew.
        checks.push(cargo([
            "clippy",
            "--no-default-features",
            "--features",
            features,
            "--lib",
            "--",
            "-D",
            "warnings",
        ]));
    }
    for check in &mut checks {
        announce(check);
        let status = status_of(check)?;
        if !status.success() {
            eprintln!("xtask: failed: {}", words_of(check));
            return exit_code(status);
        }
    }

    let server = postgres::server()?;
    // With the features and in the profile of the tests, whose build is there.
    demo(cargo(["run", "--all-features", "--", "demo", "--json"]))?;
    let mut on_postgres = cargo(["run", "--all-features", "--", "demo", "--json", "--database-url"]);
    on_postgres.arg(server.url());
    demo(on_postgres)?;
    eprintln!("xtask: everything holds ({} s)", started.elapsed().as_secs());
    Ok(ExitCode::SUCCESS)
}

/// Runs the demo, shows what it answered, and wants it verified.
fn demo(mut command: Command) -> Result<()> {
    announce(&command);
    let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    let answer = String::from_utf8_lossy(&done.stdout);
    println!("{}", answer.trim_end());
    if crate::run::interrupted() {
        bail!("interrupted");
    }
    if !done.status.success() || !is_verified(&answer) {
        bail!("the demo was not verified ({})", done.status);
    }
    Ok(())
}

fn announce(command: &Command) {
    // Never the URL of a database: it has a password.
    let words = words_of(command);
    let shown = words.split(" postgres://").next().unwrap_or_default();
    eprintln!("xtask: {shown}");
}

fn is_verified(json: &str) -> bool {
    json.split_whitespace().collect::<String>().contains(r#""verified":true"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_true_answer_is_verified() {
        assert!(is_verified(r#"{"rows":1,"verified":true,"seconds":1.5}"#));
        assert!(is_verified("{\n  \"verified\": true\n}"));
        assert!(!is_verified(r#"{"verified":false}"#));
        assert!(!is_verified(""));
    }
}
