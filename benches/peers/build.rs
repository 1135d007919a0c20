//! Finds the migrations of `sqlxmq` in the crate's source. Users copy these files; a benchmark should not.

use std::process::Command;
use std::{env, path::PathBuf};

use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let output = Command::new(env::var("CARGO")?).args(["metadata", "--format-version", "1", "--locked"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)))?;
    let packages = metadata.get("packages").and_then(Value::as_array).ok_or("cargo metadata named no packages")?;
    let package = packages
        .iter()
        .find(|package| package.get("name").and_then(Value::as_str) == Some("sqlxmq"))
        .ok_or("sqlxmq is not a dependency")?;
    let manifest =
        package.get("manifest_path").and_then(Value::as_str).map(PathBuf::from).ok_or("sqlxmq has no manifest")?;
    let migrations = manifest.with_file_name("migrations");
    if !migrations.is_dir() {
        return Err(format!("{} does not exist", migrations.display()).into());
    }
    println!("cargo::rustc-env=SQLXMQ_MIGRATIONS={}", migrations.display());
    Ok(())
}
