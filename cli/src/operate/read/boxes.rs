//! `eventbox boxes`: the recipients of a database.

use anyhow::Result;
use clap::ValueEnum;
use eventbox::Recipient;
use eventbox::admin::{self, Only, Order, RecipientPage, RecipientQuery};

use crate::operate::args::recipient;
use crate::operate::connect::on;
use crate::operate::print::note;
use crate::operate::print::table::{Grid, Tone, cell, long, number, short, text};
use crate::operate::print::words::{NONE, plain, relative_or_none};
use crate::operate::session::Session;
use crate::operate::{Answer, Run};

/// Lists the recipients whose boxes hold events, or those with a problem
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  eventbox boxes                                         recipients with events, by key
  eventbox boxes --kind order --order longest --limit 10
  eventbox boxes --failing                               recipients whose turns fail
  eventbox boxes --kind order --prefix 2024- --after order/2024-17")]
pub(crate) struct BoxesArgs {
    /// List recipients of this kind only
    #[arg(long)]
    kind: Option<String>,
    /// List recipients whose key begins with this text only
    #[arg(long, value_name = "TEXT", requires = "kind")]
    prefix: Option<String>,
    /// List every recipient that the database knows
    #[arg(long, group = "only")]
    all: bool,
    /// List recipients whose turns fail
    #[arg(long, group = "only")]
    failing: bool,
    /// List paused recipients
    #[arg(long, group = "only")]
    paused: bool,
    /// List recipients with quarantined events
    #[arg(long, group = "only")]
    quarantined: bool,
    /// Order of the list; the other orders than key are for recipients with events
    #[arg(long, value_enum, default_value_t = Sorted::Key)]
    order: Sorted,
    /// Begin behind this recipient, the last of the page before
    #[arg(long, value_name = "RECIPIENT", value_parser = recipient)]
    after: Option<Recipient>,
    /// Largest number of recipients
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sorted {
    /// By shard and key.
    Key,
    /// Those with the oldest event first.
    Oldest,
    /// Those with the most events first.
    Longest,
}

impl BoxesArgs {
    fn query(&self) -> RecipientQuery {
        let only = match (self.all, self.failing, self.paused, self.quarantined) {
            (true, ..) => Only::All,
            (_, true, ..) => Only::Failing,
            (_, _, true, _) => Only::Paused,
            (.., true) => Only::Quarantined,
            _ => Only::Waiting,
        };
        let order = match self.order {
            Sorted::Key => Order::Key,
            Sorted::Oldest => Order::Oldest,
            Sorted::Longest => Order::Longest,
        };
        let mut query = RecipientQuery::new().only(only).order(order).limit(self.limit);
        if let Some(kind) = &self.kind {
            query = query.kind(kind.as_str());
        }
        if let Some(prefix) = &self.prefix {
            query = query.key_prefix(prefix.as_str());
        }
        if let Some(after) = &self.after {
            query = query.after(after);
        }
        query
    }
}

impl Run for BoxesArgs {
    async fn run(self, session: &Session) -> Result<Answer> {
        let query = self.query();
        let page = on!(&session.database, pool => admin::recipients(pool, &query).await)?;
        session.output().show(&page, || list(&page))?;
        if let Some(next) = &page.next {
            note(&format!("There are more: --after {}", plain(next.as_str())));
        }
        if !page.is_complete {
            note(
                "There are too many recipients to look at all of them: name a kind or a prefix for a complete answer.",
            );
        }
        Ok(Answer::Yes)
    }
}

fn list(page: &RecipientPage) -> String {
    let mut grid = Grid::new(&[
        short("recipient"),
        number("waiting"),
        short("oldest"),
        number("quarantined").if_any(),
        short("paused").if_any(),
        number("attempts").if_any(),
        short("next attempt").if_any(),
        long("error").if_any(),
    ]);
    for row in &page.rows {
        let failing = Tone::when(row.attempts > 0, Tone::Bad);
        grid.row([
            text(row.recipient.as_str()),
            text(row.waiting.to_string()),
            text(relative_or_none(row.oldest_at)),
            cell(row.quarantined.to_string(), Tone::when(row.quarantined.number > 0, Tone::Warning)),
            cell(if row.is_paused { "yes" } else { "" }, Tone::Warning),
            cell(row.attempts.to_string(), failing),
            text(relative_or_none(row.next_attempt_at)),
            cell(row.error.as_deref().unwrap_or(NONE), failing),
        ]);
    }
    grid.or("There is no such recipient.")
}
