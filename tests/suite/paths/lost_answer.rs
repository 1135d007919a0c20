//! The connection is lost during the commit. The library reads the turn back, and nothing happens twice, in turns and
//! in rounds. With messages a round commits by `COMMIT`; without messages it is one statement.

use std::sync::Arc;
use std::time::Duration;

use eventbox::{CloudEvent, Event, PostProcess, Recipient};
use sqlx::Postgres;

use super::reducers::{Decided, Notes, Seen, meddled, reduce, remember, seen, text};
use super::ways::{Bounds, Way, Worked, by_rounds, by_turns, configured, emit, turn_of_it, waiting};
use crate::support::proxy::{Fate, Message, Proxy};
use crate::support::{SOON, TestDb, eventually, with_database};

/// The writes of a decision, which determine the message that commits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sends {
    Nothing,
    Messages,
}

fn other() -> Recipient {
    Recipient::new("other", "1").unwrap()
}

/// Remembers everything, and has a hook for each event.
fn hooked(notes: &Arc<Notes>, sends: Sends) -> impl Fn(&[Event], Seen) -> Decided + Send + Sync + use<> {
    let notes = Arc::clone(notes);
    move |events, seen| {
        let mut outcome = remember(events, seen)?;
        for event in events {
            let (notes, note) = (Arc::clone(&notes), text(event));
            outcome = outcome.post_process(PostProcess::new(move || async move {
                notes.add(note);
                Ok(())
            }));
            if sends == Sends::Messages {
                let message = CloudEvent::builder("cells", "seen").payload(event.value().to_vec()).build()?;
                outcome = outcome.publishing([message]).emitting([(other(), Event::new("told"))]);
            }
        }
        Ok(outcome)
    }
}

/// Returns the message that commits this work of a way.
fn commit_of(way: Way, sends: Sends) -> Message {
    match (way, sends) {
        (Way::Turn | Way::RoundOfProcessor, _) | (_, Sends::Messages) => Message::Commit,
        _ => Message::Execute,
    }
}

/// Lets the first commit of a decision about `the one` meet its fate. Returns the notes of the hooks.
async fn meets(db: &TestDb<Postgres>, way: Way, sends: Sends, turns: usize, fate: fn() -> Fate) -> Vec<String> {
    let before: Vec<_> = (0..turns).map(|n| n.to_string()).collect();
    let quiet = Arc::new(Notes::default());
    for value in &before {
        emit(db, [value.as_str()]).await;
        Way::Turn.drain(db, reduce(hooked(&quiet, Sends::Nothing))).await;
    }
    emit(db, ["the one"]).await;
    let proxy = Arc::new(Proxy::start(db.options()).await);
    let notes = Arc::new(Notes::default());
    let unlucky = {
        let proxy = Arc::clone(&proxy);
        meddled(reduce(hooked(&notes, sends)), move |decision| {
            if decision == 1 {
                proxy.next(commit_of(way, sends), fate());
            }
            std::future::ready(())
        })
    };
    let done = async |_: &Worked| waiting(db).await == 0 && !notes.all().is_empty();
    if way == Way::Turn {
        by_turns(&proxy.pool().await, &unlucky, Bounds::default(), done).await;
    } else {
        if way.has_mates() {
            let mate = Recipient::new("cell", "mate-1").unwrap();
            eventbox::emit(&db.pool, &mate, Event::new("mate")).await.unwrap();
        }
        // No other statement runs in between.
        let mut config = configured(Bounds::default());
        (config.poll_interval, config.min_poll_interval) = (Duration::from_secs(3_600), Duration::from_secs(3_600));
        (config.leases, config.remote_wake_ups) = (None, false);
        by_rounds(way, &proxy.pool_of(6).await, unlucky, config, done).await;
        eventually(SOON, async || db.count("eventbox_event WHERE recipient LIKE 'cell/mate%'").await == 0).await;
    }
    proxy.cut(1).await;
    let wanted: Vec<_> = before.iter().map(String::as_str).chain(["the one"]).collect();
    assert_eq!(
        (seen(db).await, turn_of_it(db).await),
        (wanted.iter().map(ToString::to_string).collect(), turns as i64 + 1)
    );
    let sent = i64::from(sends == Sends::Messages);
    assert_eq!(
        (db.count("eventbox_outbox").await, db.count("eventbox_event WHERE recipient = 'other/1'").await),
        (sent, sent)
    );
    notes.all()
}

macro_rules! by_every_commit {
    ($($(#[$meta:meta])* $name:ident = $fate:expr;)+) => {$(
        $(#[$meta])*
        mod $name {
            use super::*;

            by_every_commit!(@ $name $fate;
                turn_without_messages Way::Turn, Sends::Nothing;
                turn_with_messages Way::Turn, Sends::Messages;
                round_of_one_without_messages Way::RoundOfOne, Sends::Nothing;
                round_of_one_with_messages Way::RoundOfOne, Sends::Messages;
                round_of_many_without_messages Way::RoundOfMany, Sends::Nothing;
                round_of_many_with_messages Way::RoundOfMany, Sends::Messages;
                round_of_processor_without_messages Way::RoundOfProcessor, Sends::Nothing;
                round_of_processor_with_messages Way::RoundOfProcessor, Sends::Messages);
        }
    )+};
    (@ $name:ident $fate:expr; $($case:ident $way:expr, $sends:expr);+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            for turns in [0, 2] {
                with_database(stringify!($name), async |db: &TestDb<Postgres>| {
                    assert_eq!(meets(db, $way, $sends, turns, || $fate).await, ["the one"], "its hook ran once");
                })
                .await;
            }
        }
    )+};
}

by_every_commit! {
    /// The commit succeeded: the turn is ours, nothing is repeated, and its hooks run.
    a_commit_whose_answer_was_lost_is_ours = Fate::AnswerLost;

    /// The commit did not happen: the turn runs again.
    a_commit_that_did_not_arrive_is_done_again = Fate::CutBefore;
}
