//! Finds the migrations of `sqlxmq` and `outbox-postgres` in the sources of the crates. Users copy these files; a
//! benchmark should not.

use std::process::Command;
use std::{env, path::PathBuf};

use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let output = Command::new(env::var("CARGO")?).args(["metadata", "--format-version", "1", "--locked"]).output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr)))?;
    let packages = metadata.get("packages").and_then(Value::as_array).ok_or("cargo metadata named no packages")?;
    for (name, variable) in [("sqlxmq", "SQLXMQ_MIGRATIONS"), ("outbox-postgres", "OUTBOX_MIGRATIONS")] {
        println!("cargo::rustc-env={variable}={}", migrations(packages, name)?.display());
    }
    Ok(())
}

fn migrations(packages: &[Value], name: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let is_it = |package: &&Value| package.get("name").and_then(Value::as_str) == Some(name);
    let package = packages.iter().find(is_it).ok_or_else(|| format!("{name} is not a dependency"))?;
    let manifest = package.get("manifest_path").and_then(Value::as_str).map(PathBuf::from);
    let migrations = manifest.ok_or_else(|| format!("{name} has no manifest"))?.with_file_name("migrations");
    match migrations.is_dir() {
        true => Ok(migrations),
        false => Err(format!("{} does not exist", migrations.display()).into()),
    }
}
