//! Clocks that jump: `libfaketime` answers the questions of a process for the time of day, and reads from a file how
//! far away from the truth its answers are. The clock that measures durations stays right, as on a real machine.

use std::path::{Path, PathBuf};

use super::super::report::Result;

/// Environment variable that names the library instead of the folders below `/usr/lib`.
const LIBRARY: &str = "LIBFAKETIME";

/// Most seconds until a process notices that its file has changed.
const NOTICED_S: &str = "1";

/// A jump.
const HOUR_S: i64 = 3_600;

/// Which of the two libraries a process needs.
#[derive(Clone, Copy)]
pub(crate) enum Threads {
    One,
    Many,
}

/// The clock of some processes.
pub(crate) struct Clock {
    /// File with the seconds that the clock is ahead; `None` where the library is missing.
    file: Option<(PathBuf, PathBuf)>,
    ahead_s: i64,
}

impl Clock {
    /// Creates a right clock.
    pub(crate) fn create(folder: &Path, name: &str, threads: Threads) -> Result<Self> {
        let mut clock = Clock { file: None, ahead_s: 0 };
        if let Some(library) = library(threads) {
            clock.file = Some((library, folder.join(format!("clock-{name}"))));
            clock.show()?;
        }
        Ok(clock)
    }

    /// Returns the environment of the processes.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let Some((library, file)) = &self.file else { return Vec::new() };
        let text = |path: &Path| path.display().to_string();
        let variables = [
            ("LD_PRELOAD", text(library)),
            ("FAKETIME_TIMESTAMP_FILE", text(file)),
            ("FAKETIME_CACHE_DURATION", NOTICED_S.to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DISABLE_SHM", "1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// Moves the clock forward or back by one hour. Where it would be two hours away from the truth, it becomes right.
    /// Returns how many seconds it is ahead.
    pub(crate) fn jump(&mut self, is_forward: bool) -> Result<i64> {
        let next = if is_forward { HOUR_S } else { -HOUR_S };
        self.ahead_s = if self.ahead_s == next { 0 } else { next };
        self.show()?;
        Ok(self.ahead_s)
    }

    fn show(&self) -> Result<()> {
        let Some((_, file)) = &self.file else { return Ok(()) };
        // A process must never read half of the text.
        let next = file.with_extension("next");
        std::fs::write(&next, format!("{:+}\n", self.ahead_s))?;
        Ok(std::fs::rename(next, file)?)
    }
}

/// Returns whether this machine has the library.
pub(crate) fn can_jump() -> bool {
    library(Threads::One).is_some() && library(Threads::Many).is_some()
}

fn library(threads: Threads) -> Option<PathBuf> {
    let name = match threads {
        Threads::One => "libfaketime.so.1",
        Threads::Many => "libfaketimeMT.so.1",
    };
    let named = std::env::var_os(LIBRARY).map(PathBuf::from).into_iter();
    let below = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = named.chain(below.map(|folder| folder.join("faketime")));
    folders.map(|folder| folder.join(name)).find(|library| library.exists())
}
