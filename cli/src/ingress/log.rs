//! `eventbox ingress log` and `eventbox ingress stats`: what a server got.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use console::style;
use eventbox::ingress::{IngressLog, KeptEvent};

use super::Done;

/// How many events are read at a time.
const PAGE: u32 = 1000;

/// How long `--follow` waits before it looks again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Shows the events that a server kept, one a line, in order of arrival
///
/// A key that came again is shown once, with the number of its further copies so far. It reads the file only, beside a running server or
/// without one.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// The file that the server was started with
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Goes on with what arrives, until interrupted; the number of copies is that of the moment
    #[arg(long)]
    follow: bool,
    /// Only events with a sequence above this
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: i64,
    /// Shows instead what came with other content under a key that was taken
    #[arg(long)]
    conflicts: bool,
}

/// Shows how many events a server kept, recognised as copies, found in conflict and rejected
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// The file that the server was started with
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) async fn log(args: LogArgs) -> Done {
    let log = IngressLog::open(&args.store).await?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut after = args.after;
    loop {
        let page = match args.conflicts {
            true => log.conflicts(after, PAGE).await?,
            false => log.events(after, PAGE).await?,
        };
        for event in &page {
            after = event.sequence;
            match args.json {
                true => writeln!(out, "{}", event.to_json())?,
                false => writeln!(out, "{}", line(event))?,
            }
        }
        out.flush()?;
        if page.is_empty() {
            if !args.follow {
                log.close().await;
                return Ok(());
            }
            tokio::time::sleep(FOLLOW_INTERVAL).await;
        }
    }
}

/// An event for a person to read; what a sender wrote is escaped, so that it cannot command the terminal.
fn line(kept: &KeptEvent) -> String {
    let event = &kept.event;
    let mut line = format!(
        "{:>6} {} {} {}",
        kept.sequence,
        style(kept.received_at()).dim(),
        style(event.source.escape_debug()).cyan(),
        style(event.r#type.escape_debug()).cyan().bold(),
    );
    let mut add = |name: &str, value: &str| {
        // Writing into a String does not fail.
        let _ = write!(line, " {}{}", style(format_args!("{name}=")).dim(), value.escape_debug());
    };
    add("id", &event.id);
    if let Some(subject) = kept.subject() {
        add("subject", subject);
    }
    if let Some(key) = &kept.key {
        add("key", key);
    }
    add("bytes", &kept.payload().len().to_string());
    if kept.copies > 0 {
        let _ = write!(line, " {}", style(format_args!("copies={}", kept.copies)).yellow());
    }
    if kept.conflicts > 0 {
        let _ = write!(line, " {}", style(format_args!("conflicts={}", kept.conflicts)).red().bold());
    }
    line
}

pub(crate) async fn stats(args: StatsArgs) -> Done {
    let log = IngressLog::open(&args.store).await?;
    let counts = log.counts().await?;
    log.close().await;
    let mut out = io::stdout().lock();
    let named = [
        ("kept", counts.kept),
        ("duplicates", counts.duplicates),
        ("conflicts", counts.conflicts),
        ("rejected", counts.rejected),
    ];
    if args.json {
        let object: serde_json::Map<_, _> =
            named.into_iter().map(|(name, count)| (name.into(), count.into())).collect();
        writeln!(out, "{}", serde_json::Value::Object(object))?;
    } else {
        for (name, count) in named {
            writeln!(out, "{} {count}", style(format_args!("{name:<10}")).dim())?;
        }
    }
    out.flush()?;
    Ok(())
}
