//! `eventbox ingress log` and `eventbox ingress stats`: shows the content of a server's file.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::time::Duration;

use console::style;
use eventbox::ingress::{IngressLog, KeptEvent};

use super::Done;

/// Number of events of one read.
const PAGE: u32 = 1000;

/// Pause of `--follow` between two reads.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Shows the events that a server kept, one a line, in order of arrival
///
/// A key with copies is shown once, with their number. The command only reads the file. The server may run or not.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// File of the server
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    /// Wait for further events until interrupted; the numbers of copies are those at the time of the read
    #[arg(long)]
    follow: bool,
    /// Show only events with a larger sequence
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    after: i64,
    /// Show the conflicts instead: other content under a known key
    #[arg(long)]
    conflicts: bool,
}

/// Shows how many events a server kept, recognised as copies, found in conflict and rejected
#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// File of the server
    #[arg(long, value_name = "FILE")]
    store: PathBuf,
    /// Print one JSON object
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

/// Formats an event for a person. The sender's text is escaped, so that it cannot control the terminal.
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
        // Writing into a String cannot fail.
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
