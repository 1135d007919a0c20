//! A small file system in memory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::Result;
use super::server::Account;

/// A mounted file system in memory. Dropping it unmounts it.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(at: &Path, size: &str) -> Result<Self> {
        std::fs::create_dir_all(at)?;
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at).output()?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            return Err(format!("a small file system could not be mounted, which takes root: {said}").into());
        }
        Account::of_servers()?.own(at)?;
        Ok(SmallDisk(at.to_owned()))
    }

    /// Fills all free space.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut ballast = std::fs::OpenOptions::new().create(true).append(true).open(self.0.join("ballast"))?;
        for size in [1 << 20, 4 << 10, 1] {
            let block = vec![0; size];
            while ballast.write_all(&block).is_ok() {}
        }
        Ok(())
    }

    pub(crate) fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.0.join("ballast"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
