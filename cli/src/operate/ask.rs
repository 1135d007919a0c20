//! Repairs: a rehearsal, a question, the work with its progress, and the result.

use std::io::{self, BufRead, IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use eventbox::Backend;
use eventbox::admin::{Done, Operator};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sqlx::Pool;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Answer;
use super::args::Writing;
use super::print::{note, words};
use super::session::Session;

/// Name in the log of operations of an operator without a name.
const UNKNOWN: &str = "unknown";

/// Time after which work shows its progress.
const PATIENCE: Duration = Duration::from_millis(500);

/// Interval between two frames of a progress bar.
const TICK: Duration = Duration::from_millis(100);

/// A repair in words.
pub(crate) struct Deed {
    /// Verb in the present and in the past: `deletes`, `Deleted`.
    pub(crate) verb: (&'static str, &'static str),
    pub(crate) object: Object,
    /// Sentence for a repair that has nothing to do.
    pub(crate) nothing: String,
}

/// Object of a repair.
pub(crate) enum Object {
    /// One thing, with its name.
    One(String),
    /// Things that are counted: singular, plural, and what follows.
    Many(&'static str, &'static str, String),
}

impl Deed {
    fn object(&self, touched: u64) -> String {
        match &self.object {
            Object::One(name) => words::plain(name),
            Object::Many(one, many, rest) => {
                let rest = words::plain(rest);
                format!("{}{}{rest}", words::counted(touched, one, many), if rest.is_empty() { "" } else { " " })
            }
        }
    }

    /// Returns the sentence before the work, without its end.
    fn present(&self, touched: u64) -> String {
        format!("This {} {}", self.verb.0, self.object(touched))
    }

    fn past(&self, touched: u64) -> String {
        format!("{} {}.", self.verb.1, self.object(touched))
    }
}

/// The operator of a command, with the answers given in advance.
pub(crate) struct Hands<'s> {
    session: &'s Session,
    writing: Writing,
}

impl<'s> Hands<'s> {
    pub(crate) fn new(session: &'s Session, writing: &Writing) -> Self {
        Hands { session, writing: session.completed(writing) }
    }

    pub(crate) fn is_dry_run(&self) -> bool {
        self.writing.dry_run
    }

    /// Returns the library's operator. A rehearsal changes nothing.
    pub(crate) fn operator<B: Backend>(&self, pool: &Pool<B>, rehearsing: bool) -> Operator<B> {
        let operator = Operator::new(pool.clone(), self.writing.who.as_deref().unwrap_or(UNKNOWN));
        let operator = operator.rehearsing(rehearsing);
        match &self.writing.why {
            Some(why) => operator.because(why.as_str()),
            None => operator,
        }
    }

    /// Does a repair that destroys nothing, without a question.
    pub(crate) async fn act(
        &self,
        deed: &Deed,
        act: impl AsyncFn(bool, ProgressBar) -> eventbox::Result<Done>,
    ) -> Result<Answer> {
        let done = with_progress(None, async |bar| act(self.writing.dry_run, bar).await).await?;
        self.report(deed, &done)
    }

    /// Rehearses a repair, asks, and does it.
    pub(crate) async fn act_after_a_question(
        &self,
        deed: &Deed,
        act: impl AsyncFn(bool, ProgressBar) -> eventbox::Result<Done>,
    ) -> Result<Answer> {
        let rehearsed = with_progress(None, async |bar| act(true, bar).await).await?;
        if self.writing.dry_run || rehearsed.touched == 0 {
            return self.report(deed, &rehearsed);
        }
        if !self.may_go_on(&deed.present(rehearsed.touched)).await? {
            note("Nothing was changed.");
            return Ok(Answer::No);
        }
        let done = with_progress(Some(rehearsed.touched), async |bar| act(false, bar).await).await?;
        self.report(deed, &done)
    }

    /// Asks whether to go on, unless the answer was given in advance.
    ///
    /// # Errors
    ///
    /// Without a terminal there is nobody to ask.
    pub(crate) async fn may_go_on(&self, sentence: &str) -> Result<bool> {
        if self.writing.yes {
            note(&format!("{sentence}."));
            return Ok(true);
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let mut first = sentence.chars();
            let small = first.next().map(|c| c.to_ascii_lowercase());
            let sentence: String = small.into_iter().chain(first).collect();
            bail!("{sentence}, and there is no terminal to ask: give --yes to go on, or --dry-run to look only");
        }
        write!(io::stderr(), "{sentence}. Go on? [y/N] ").context("ask")?;
        let answer = read_line().await.context("read the answer")?;
        Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    fn report(&self, deed: &Deed, done: &Done) -> Result<Answer> {
        self.session.output().show(done, || match (done.touched, done.is_rehearsal) {
            (0, _) => words::plain(&deed.nothing),
            (touched, true) => format!("{}. {}Nothing was changed.", deed.present(touched), waiting(done)),
            (touched, false) => format!("{} {}", deed.past(touched), waiting(done)).trim_end().to_owned(),
        })?;
        Ok(Answer::Yes)
    }
}

/// Returns a sentence about the messages that wait for a destination, for a repair that counts them.
fn waiting(done: &Done) -> String {
    match done.waiting {
        None => String::new(),
        Some(waiting) if waiting.number == 1 => "1 message is in the outbox. ".to_owned(),
        Some(waiting) => format!("{waiting} messages are in the outbox. "),
    }
}

/// Does work with a progress bar on standard error, if it is a terminal and the work takes longer than [`PATIENCE`].
pub(crate) async fn with_progress<T>(total: Option<u64>, work: impl AsyncFnOnce(ProgressBar) -> T) -> T {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    let template = match total {
        Some(_) => "  {bar:30.cyan/dim} {human_pos} / {human_len} {per_sec}",
        None => "  {spinner} {human_pos} {elapsed}",
    };
    let bar = match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    };
    let mut work = pin!(work(bar.clone()));
    let done = match timeout(PATIENCE, &mut work).await {
        Ok(done) => done,
        Err(_) => {
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.enable_steady_tick(TICK);
            work.await
        }
    };
    bar.finish_and_clear();
    done
}

/// Reads a line of standard input in a thread. Unlike a task, a blocked thread does not delay the end of the process.
async fn read_line() -> io::Result<String> {
    in_a_thread(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    })
    .await
}

/// Runs blocking input in a thread of its own.
pub(crate) async fn in_a_thread<T: Send + 'static>(
    read: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (send, read_by_now) = oneshot::channel();
    std::thread::spawn(move || send.send(read()).ok());
    read_by_now.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_name_what_is_touched() {
        let deed = |object| Deed { verb: ("deletes", "Deleted"), object, nothing: String::new() };
        let many = deed(Object::Many("event", "events", "of order/7".to_owned()));
        assert_eq!(many.present(1), "This deletes 1 event of order/7");
        assert_eq!(many.past(1_000), "Deleted 1,000 events of order/7.");
        let all = deed(Object::Many("dead letter", "dead letters", String::new()));
        assert_eq!(all.past(2), "Deleted 2 dead letters.");
        assert_eq!(deed(Object::One("order/7".to_owned())).present(1), "This deletes order/7");
    }
}
