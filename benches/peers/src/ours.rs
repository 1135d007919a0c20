//! The figures of eventbox, from `eventbox bench` or from a file with its output.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde::Deserialize;
use tokio::process::Command;

use crate::workloads::Workload;

/// The used fields of a line of `eventbox bench --json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct OurLine {
    pub(crate) workload: String,
    pub(crate) variant: Option<String>,
    pub(crate) engine: String,
    pub(crate) unit: String,
    pub(crate) ours: f64,
    pub(crate) yardstick: f64,
    pub(crate) rounds: usize,
    pub(crate) verified: bool,
}

/// The source of the eventbox figures.
#[derive(Debug)]
pub(crate) enum Ours {
    /// The program, which measures each workload before the peers.
    Program {
        path: PathBuf,
        server: String,
        quick: bool,
        rounds: usize,
    },
    /// The lines of an earlier run.
    Known(Vec<OurLine>),
    Nothing,
}

/// Minimum number of rounds of the program.
const FEWEST_ROUNDS: usize = 3;

impl Ours {
    pub(crate) fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        parse(&text).map(Ours::Known).with_context(|| format!("read the lines in {}", file.display()))
    }

    /// Returns the lines of a workload on Postgres.
    pub(crate) async fn measure(&self, workload: Workload) -> Result<Vec<OurLine>> {
        let lines = match self {
            Ours::Nothing => Vec::new(),
            Ours::Known(lines) => lines.clone(),
            Ours::Program { path, server, quick, rounds } => run(path, server, *quick, *rounds, workload).await?,
        };
        let is_wanted = |line: &OurLine| line.workload == workload.name() && line.engine == "postgres";
        Ok(lines.into_iter().filter(is_wanted).collect())
    }
}

async fn run(path: &Path, server: &str, quick: bool, rounds: usize, workload: Workload) -> Result<Vec<OurLine>> {
    let mut command = Command::new(path);
    command.args(["bench", "--json", "--engine", "postgres", "--only", workload.name(), "--database-url", server]);
    command.args(["--rounds", &rounds.max(FEWEST_ROUNDS).to_string()]).args(quick.then_some("--quick"));
    command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
    let output = command.output().await.with_context(|| format!("run {}", path.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse(&text).with_context(|| format!("{} bench ended with {}", path.display(), output.status))
}

fn parse(text: &str) -> Result<Vec<OurLine>> {
    serde_json::from_str(text).context("this is not what `eventbox bench --json` prints")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_benchmark_are_read() {
        let text = r#"[{"workload":"W3b","variant":"reducer","engine":"postgres","unit":"events/s",
            "ours":9.5,"yardstick":3.0,"ratio":3.2,"rounds":3,"verified":true,"cost":{"ours":null,"yardstick":null}}]"#;
        let lines = parse(text).unwrap();
        assert_eq!((lines[0].workload.as_str(), lines[0].ours), ("W3b", 9.5));
        assert_eq!(lines[0].variant.as_deref(), Some("reducer"));
        assert!(parse("oops").is_err());
    }
}
