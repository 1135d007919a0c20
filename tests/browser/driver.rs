//! Chromedriver, which starts and ends Chromium.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use thirtyfour::Capabilities;

/// Variable that names the program of Chromium.
const CHROMIUM: &str = "EVENTBOX_CHROMIUM";

/// Variable that names the program chromedriver.
const CHROMEDRIVER: &str = "EVENTBOX_CHROMEDRIVER";

/// What Chromium gets: no window, nothing from a network but the pages, and the rights of a root account.
const ARGUMENTS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
];

/// Chromedriver's sentence about its start, up to the port.
const STARTED: &str = "was started successfully on port ";

/// Longest time in which chromedriver ends Chromium and itself.
const END_WAIT: Duration = Duration::from_secs(10);

/// Interval at which the end is checked.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A chromedriver of one test. Dropped, it ends Chromium and itself.
pub(crate) struct Driver {
    child: Child,
    port: u16,
    /// Kept open, because chromedriver writes to it.
    _said: BufReader<ChildStdout>,
    profile: TempDir,
}

impl Driver {
    /// Starts chromedriver on a free port.
    pub(crate) fn start() -> Self {
        let program = program(CHROMEDRIVER, "chromedriver");
        let mut command = Command::new(&program);
        command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let started = command.spawn();
        let mut child = started
            .unwrap_or_else(|error| panic!("start {}: {error}; `cargo xtask browser` finds it", program.display()));
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).unwrap() > 0, "chromedriver ended before it said its port");
            if let Some((_, port)) = line.split_once(STARTED) {
                break port.trim().trim_end_matches('.').parse().unwrap();
            }
        };
        let profile = tempfile::Builder::new().prefix("eventbox-chromium-").tempdir().unwrap();
        Driver { child, port, _said: said, profile }
    }

    /// Returns the address of chromedriver.
    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns what a session wants: a Chromium with an empty profile, whose console is kept.
    pub(crate) fn capabilities(&self, has_scripts: bool) -> Capabilities {
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", self.profile.path().display()));
        let blocked = json!({ "profile.managed_default_content_settings.javascript": 2 });
        let wanted = json!({
            "browserName": "chrome",
            // An alert stays open, and every later command fails.
            "unhandledPromptBehavior": "ignore",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": {
                "binary": program(CHROMIUM, "chromium").to_str(),
                "args": arguments,
                "prefs": if has_scripts { json!({}) } else { blocked },
            },
        });
        Capabilities::from(wanted.as_object().unwrap().clone())
    }

    /// Asks chromedriver to end every Chromium that it started, and itself.
    fn shut_down(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(END_WAIT))?;
        stream.write_all(b"GET /shutdown HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n")?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.shut_down();
        let asked = Instant::now();
        while asked.elapsed() < END_WAIT {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(LOOK_EVERY);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the program that a variable names, or the usual one.
fn program(variable: &str, usual: &str) -> OsString {
    // Chromedriver wants the whole path of Chromium.
    let found = || {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&folders).map(|folder| folder.join(usual)).find(|path| path.exists())
    };
    std::env::var_os(variable).or_else(|| found().map(Into::into)).unwrap_or_else(|| usual.into())
}
