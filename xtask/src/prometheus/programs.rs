//! The programs of a run: a service, its receiver, the page of the operator, and Prometheus.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::api::Api;
use super::install::Tools;
use super::{START_LIMIT, rules, until};
use crate::run::{cargo, output_of, status_of, words_of};

/// Time limit for a program to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Events a second that the service emits.
const RATE: &str = "200";

/// The programs of the project that a run needs.
pub(super) struct Build {
    eventbox: PathBuf,
    service: PathBuf,
}

impl Build {
    /// Builds the programs. With the features of the tests, so that there is one build of the dependencies.
    pub(super) fn new() -> Result<Self> {
        let mut build = cargo(["build", "--workspace", "--all-features", "--bin", "eventbox", "--example", "service"]);
        eprintln!("xtask: {}", words_of(&build));
        if !status_of(&mut build)?.success() {
            bail!("the programs could not be built");
        }
        let here = std::env::current_exe().context("find the programs that were built")?;
        Ok(Build {
            eventbox: here.with_file_name("eventbox"),
            service: here.with_file_name("examples").join("service"),
        })
    }
}

/// A program that runs beside this one. Dropping the value ends the program.
struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(name: &'static str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).context("create a log")?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {}", words_of(command)))?;
        Ok(Running { name, child, log })
    }

    /// Fails when the program has ended. The error has the end of its log.
    fn is_up(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(10).collect();
        bail!(
            "{} has ended ({status}); its log ends with\n{}",
            self.name,
            last.into_iter().rev().collect::<Vec<_>>().join("\n")
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // The program may have ended by itself.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < STOP_LIMIT && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything that runs.
pub(super) struct Stage<'a> {
    pub(super) api: Api,
    build: &'a Build,
    database_url: &'a str,
    receiver_port: u16,
    // Ended in this order: the scrape first, the receiver last.
    running: Vec<Running>,
    receiver: Option<Running>,
    folder: TempDir,
}

impl<'a> Stage<'a> {
    /// Starts everything, and waits until both processes are scraped.
    pub(super) fn new(tools: &Tools, build: &'a Build, database_url: &'a str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("eventbox-prometheus-").tempdir()?;
        let [service_port, page_port, receiver_port, port] = free_ports()?;
        let (running, receiver) = (Vec::new(), None);
        let mut stage = Stage { api: Api { port }, build, database_url, receiver_port, running, receiver, folder };
        output_of(&mut stage.eventbox(&["migrate", "up"])).context("create the tables")?;
        stage.start_receiver()?;
        let prometheus = stage.prometheus(tools, service_port, page_port)?;
        stage.run("prometheus", prometheus)?;
        let page_metrics = local(page_port);
        let page = stage.eventbox(&["serve", "--listen", "127.0.0.1:0", "--metrics", &page_metrics]);
        stage.run("page", page)?;
        let service = stage.service(service_port);
        stage.run("service", service)?;
        stage.wait_for_scrapes()?;
        Ok(stage)
    }

    /// Runs a command of an operator, and shows it with its output.
    pub(super) fn act(&self, words: &str) -> Result<()> {
        println!("   $ eventbox {words}");
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = output_of(&mut self.eventbox(&words))?;
        output.lines().for_each(|line| println!("     {line}"));
        Ok(())
    }

    pub(super) fn start_receiver(&mut self) -> Result<()> {
        let (address, store) = (local(self.receiver_port), self.folder.path().join("received.sqlite3"));
        let mut command = self.eventbox(&["ingress", "--listen", &address, "--store"]);
        command.arg(store);
        self.receiver = Some(Running::start("receiver", &mut command, self.folder.path())?);
        Ok(())
    }

    pub(super) fn stop_receiver(&mut self) {
        self.receiver = None;
    }

    /// Fails when a program has ended.
    pub(super) fn is_up(&mut self) -> Result<()> {
        self.running.iter_mut().chain(&mut self.receiver).try_for_each(Running::is_up)
    }

    fn run(&mut self, name: &'static str, mut command: Command) -> Result<()> {
        // In front, because the last one that started is to end first.
        self.running.insert(0, Running::start(name, &mut command, self.folder.path())?);
        Ok(())
    }

    fn eventbox(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.build.eventbox);
        command.args(words).env("DATABASE_URL", self.database_url).env("NO_COLOR", "1").stdin(Stdio::null());
        command.current_dir(self.folder.path());
        command
    }

    fn service(&self, port: u16) -> Command {
        let mut command = Command::new(&self.build.service);
        command.env("DATABASE_URL", self.database_url).env("METRICS", local(port)).env("RATE", RATE);
        command.env("CHIP_INGRESS", local(self.receiver_port)).env("HOSTNAME", "worker-1");
        command
    }

    /// Writes the configuration and the rules of the run, has them checked, and returns the command that starts it.
    fn prometheus(&self, tools: &Tools, service: u16, page: u16) -> Result<Command> {
        let (at, ops) = (self.folder.path(), Path::new(env!("CARGO_MANIFEST_DIR")).join("../ops"));
        output_of(Command::new(&tools.promtool).args(["check", "config"]).arg(ops.join("prometheus.yml")))?;
        output_of(Command::new(&tools.promtool).args(["test", "rules"]).arg(ops.join("alerts.test.yaml")))?;
        eprintln!("xtask: promtool: ops/prometheus.yml and ops/alerts.yaml are valid, ops/alerts.test.yaml passes");
        let rules = fs::read_to_string(ops.join("alerts.yaml")).context("read ops/alerts.yaml")?;
        fs::write(at.join("alerts.yaml"), rules::shortened(&rules)?)?;
        let config = at.join("prometheus.yml");
        fs::write(&config, rules::config(&local(service), &local(page)))?;
        output_of(Command::new(&tools.promtool).args(["check", "config"]).arg(&config))?;
        let mut command = Command::new(&tools.prometheus);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", at.join("data").display()));
        command.arg(format!("--web.listen-address={}", local(self.api.port))).arg("--log.level=warn");
        Ok(command)
    }

    /// Waits until both processes are scraped and the service has emitted.
    fn wait_for_scrapes(&mut self) -> Result<()> {
        let started = Instant::now();
        until("Prometheus scrapes the service and the page", START_LIMIT, || {
            self.is_up()?;
            // It may not listen yet.
            let is_scraped = self.api.targets().is_ok_and(|targets| targets == (2, true));
            let emits = || self.api.query("eventbox_sent_total > 0 and on () eventbox_runtime_shards == 256");
            Ok((is_scraped && emits()? > 0).then_some(()))
        })?;
        eprintln!("xtask: the service and the page are scraped every second ({} s)", started.elapsed().as_secs());
        Ok(())
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// Returns ports that were free a moment ago.
fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    // All are bound before the first is given back, so that no two are the same.
    let mut bound = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
        *port = listener.local_addr()?.port();
        bound.push(listener);
    }
    Ok(ports)
}
