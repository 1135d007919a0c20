//! The tasks that the loop of the workers starts: scans, rounds and turns.

use std::error::Error;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::lane::Lane;
use super::paused::PausedKinds;
use super::registry::Handler;
use super::state_cache::Entry;
use super::window::Turnstile;
use crate::error::{Error as EventboxError, Result};
use crate::eventbox::{
    Begun, CodeLimits, Done, ErasedProcessor, EventId, Jury, KeptState, Limits, MAX_ROUND_EVENTS, Phase, ProcessorWay,
    ReducerWay, RoundMember, Rounded, Turn, TurnOptions, failed_in_part, round, spent,
};
use crate::recipient::Recipient;
use crate::runtime::config::ROUND_PATIENCE;
use crate::runtime::failing::outage::Outages;
use crate::runtime::finding::scan::Scan;
use crate::runtime::metrics;
use crate::runtime::shared::Shared;
use crate::store::{Backend, Fault, WalkedRow, is_of_one_statement};
use crate::text::Chain;

/// Verdict on the failure of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It counts for no event.
    NoEvents,
    /// It is the recipient's own, and the database has it.
    Noted,
    /// It is the recipient's own, and the database does not have it.
    NotNoted,
}

/// Collects the verdict on the failure of one turn.
#[derive(Debug)]
struct Hearing {
    outages: Arc<Outages>,
    verdict: Mutex<Option<Judged>>,
}

impl Jury for Hearing {
    fn counts(&self, to: &Recipient, error: &(dyn Error + 'static)) -> bool {
        let is_own = self.outages.failed(to, Chain(error).to_string());
        self.set(if is_own { Judged::NotNoted } else { Judged::NoEvents });
        is_own
    }

    fn is_noted(&self) {
        self.set(Judged::Noted);
    }
}

impl Hearing {
    fn new(outages: &Arc<Outages>) -> Self {
        Hearing { outages: Arc::clone(outages), verdict: Mutex::default() }
    }

    fn set(&self, verdict: Judged) {
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
    }

    /// Returns the verdict. Judges now an error that no step asked about, except contention and an outage of the
    /// database.
    fn end(&self, to: &Recipient, error: Option<&EventboxError>) -> Judged {
        if let Some(verdict) = *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) {
            return verdict;
        }
        match error {
            None | Some(EventboxError::Contention { .. } | EventboxError::Paused { .. }) => {}
            Some(error) if error.is_transient() && !is_of_one_statement(error) => {}
            Some(EventboxError::Unknown { .. }) => {}
            Some(error) => {
                self.outages.failed(to, Chain(error).to_string());
            }
        }
        Judged::NoEvents
    }
}

/// Report of a task.
pub(crate) enum Report {
    Scanned(Scan, Result<Vec<WalkedRow>, Fault>),
    Round(Lane, Vec<Recipient>, Result<Rounded<Entry>>),
    /// With the state that a processor keeps for the next turn.
    Turn(Recipient, Result<Turn>, Judged, Option<KeptState>),
}

pub(super) async fn run_scan<B: Backend>(shared: Arc<Shared<B>>, held: PausedKinds, scan: Scan) -> Report {
    let began = Instant::now();
    // While a scan waits, the rest of the runtime looks idle.
    let _busy = shared.finding.busy();
    let per_shard = i64::try_from(scan.per_shard).unwrap_or(i64::MAX);
    let kinds: Vec<&str> = shared.handlers.keys().map(AsRef::as_ref).filter(|kind| !held.contains(kind)).collect();
    let rows = B::walk_recipients(&shared.reserved, &scan.from, per_shard, &kinds).await;
    let shards = || scan.from.iter().filter_map(|from| Some((u8::try_from(from.shard).ok()?, 1)));
    spent(Phase::Listing, began.elapsed(), shared.config.shard_metrics.then(shards));
    Report::Scanned(scan, rows)
}

/// A recipient of a round: where its listing begins, and its state in memory.
pub(super) struct Place {
    pub(super) to: Recipient,
    pub(super) after: EventId,
    pub(super) kept: Option<Entry>,
}

/// Runs a round of recipients of one lane.
pub(super) async fn run_round<B: Backend>(
    shared: Arc<Shared<B>>,
    lane: Lane,
    places: Vec<Place>,
    mut turnstile: Turnstile,
) -> Report {
    let member = |place: &Place| RoundMember {
        to: place.to.clone(),
        after: place.after,
        is_journaled: shared.is_journaled(place.to.kind()),
    };
    let members: Vec<_> = places.iter().map(member).collect();
    let kept = places.into_iter().map(|place| place.kept).collect();
    let recipients = |members: Vec<RoundMember>| members.into_iter().map(|member| member.to).collect::<Vec<_>>();
    let beginning = begin(&shared, &members, &mut turnstile).await;
    let mut begun = match beginning {
        Ok(Beginning::Begun(begun)) => Some(begun),
        Ok(Beginning::WithoutHooks) => None,
        Ok(Beginning::Stopped) => {
            let skipped = Rounded { done: members.iter().map(|_| Done::Skipped).collect(), ..Rounded::none() };
            return Report::Round(lane, recipients(members), Ok(skipped));
        }
        Err(error) => return Report::Round(lane, recipients(members), Err(error)),
    };
    let before_commit = turnstile.pass();
    let mut rounded = match members.first().and_then(|member| shared.handlers.get(member.to.kind())) {
        Some(Handler::Processor(processor, _)) => {
            round_of_a_processor(&shared, processor, &members, kept, before_commit, begun.as_mut()).await
        }
        _ => round_of_reducers(&shared, &members, kept, before_commit, begun.as_mut()).await,
    };
    if let Some(begun) = begun {
        begun.end(rounded.as_ref().err());
    }
    drop(turnstile);
    if let Ok(rounded) = &mut rounded {
        // Hooks run concurrently. The recipients of the round wait for its slowest hook.
        let committed = rounded.done.iter_mut().zip(&members).filter_map(|(done, member)| match done {
            Done::Committed { turn, .. } => Some(complete(&shared, &member.to, turn)),
            _ => None,
        });
        join_all(committed).await;
    }
    Report::Round(lane, recipients(members), rounded)
}

/// Result of the begin of a round.
enum Beginning<'h, B: Backend> {
    WithoutHooks,
    Begun(Begun<'h, B>),
    /// The runtime stops, so that the round is not worked on.
    Stopped,
}

/// Lets the hooks of the kind begin, when the hooks of the round before have begun.
async fn begin<'h, B: Backend>(
    shared: &'h Shared<B>,
    members: &[RoundMember],
    turnstile: &mut Turnstile,
) -> Result<Beginning<'h, B>> {
    let Some(hooks) = members.first().and_then(|member| shared.hooks_of(member.to.kind())) else {
        return Ok(Beginning::WithoutHooks);
    };
    turnstile.may_begin().await;
    let recipients = members.iter().map(|member| member.to.clone()).collect();
    let begun = Begun::begin(hooks, recipients, shared.config.turn_deadline).await?;
    turnstile.has_begun();
    Ok(begun.map_or(Beginning::Stopped, |begun| Beginning::Begun(begun.within(code_limits(shared).longest()))))
}

async fn round_of_reducers<B: Backend>(
    shared: &Shared<B>,
    members: &[RoundMember],
    kept: Vec<Option<Entry>>,
    before_commit: impl Future<Output = ()> + Send,
    begun: Option<&mut Begun<'_, B>>,
) -> Result<Rounded<Entry>> {
    let mut reducers = Vec::with_capacity(members.len());
    for member in members {
        // A lane has recipients of registered kinds only.
        let Some(Handler::Reducer(reducer, _)) = shared.handlers.get(member.to.kind()) else {
            return Ok(Rounded::none());
        };
        reducers.push(Arc::clone(reducer));
    }
    let known = kept.into_iter().map(|entry| entry.and_then(Entry::of_reducer)).collect();
    let limits = limits_of(shared, MAX_ROUND_EVENTS);
    let rounded = round(&shared.pool, members, known, &ReducerWay(reducers), limits, before_commit, begun).await?;
    Ok(rounded.map_left(Entry::OfReducer))
}

async fn round_of_a_processor<B: Backend>(
    shared: &Shared<B>,
    processor: &Arc<dyn ErasedProcessor<B>>,
    members: &[RoundMember],
    kept: Vec<Option<Entry>>,
    before_commit: impl Future<Output = ()> + Send,
    begun: Option<&mut Begun<'_, B>>,
) -> Result<Rounded<Entry>> {
    let _at_work: Vec<_> = members.iter().map(|member| shared.at_work.begin(&member.to)).collect();
    let kept = kept.into_iter().map(|entry| entry.and_then(Entry::of_processor)).collect();
    let limits = limits_of(shared, shared.config.processor_events);
    let way = ProcessorWay::new(processor, code_limits(shared));
    let rounded = round(&shared.pool, members, kept, &way, limits, before_commit, begun).await?;
    Ok(rounded.map_left(Entry::OfProcessor))
}

fn code_limits<B: Backend>(shared: &Shared<B>) -> CodeLimits {
    let config = &shared.config;
    CodeLimits {
        turn_deadline: config.turn_deadline,
        patience: config.processor_round_time * ROUND_PATIENCE,
        decisions_at_once: config.workers,
    }
}

fn limits_of<B: Backend>(shared: &Shared<B>, round_events: NonZeroU32) -> Limits {
    let config = &shared.config;
    Limits {
        max_events: config.max_events,
        round_events,
        max_bytes: config.max_event_bytes.get(),
        longest_wait_us: config.backoff.longest_us(),
        by_shard: config.shard_metrics,
    }
}

/// Does what follows the commit of a turn in a round.
async fn complete<B: Backend>(shared: &Shared<B>, to: &Recipient, turn: &mut Turn) {
    if !turn.failures.is_empty() {
        let options = options_for(shared, to, &shared.options, &Arc::new(Hearing::new(&shared.outages)));
        *turn = failed_in_part(&shared.pool, to, &options, std::mem::take(turn)).await;
    }
    after_the_commit(shared, to, turn).await;
}

/// Returns the options of a turn of this recipient.
fn options_for<B: Backend>(
    shared: &Shared<B>,
    to: &Recipient,
    options: &TurnOptions,
    hearing: &Arc<Hearing>,
) -> TurnOptions {
    let options = options.clone().judged_by(Arc::clone(hearing) as _);
    if shared.is_journaled(to.kind()) { options.journaled() } else { options }
}

/// Purpose of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aim {
    Work,
    /// To see whether a kind has recovered. One event is enough, and a bad event behind it cannot hide the answer.
    Probe,
}

pub(super) async fn run_turn<B: Backend>(
    shared: Arc<Shared<B>>,
    to: Recipient,
    after: EventId,
    aim: Aim,
    kept: Option<KeptState>,
) -> Report {
    let _at_work = shared.at_work.begin(&to);
    let hearing = Arc::new(Hearing::new(&shared.outages));
    let options = match aim {
        Aim::Work => shared.options.clone(),
        Aim::Probe => shared.options.searching(NonZeroU32::MIN),
    };
    let options = options_for(&shared, &to, &options.behind(after), &hearing);
    let (mut done, kept) = match shared.handlers.get(to.kind()) {
        Some(kind) => kind.turn(&shared.pool, &to, &options, kept, shared.hooks_of(to.kind())).await,
        None => (Ok(Turn::default()), None),
    };
    if let Ok(turn) = &mut done {
        after_the_commit(&shared, &to, turn).await;
    }
    let judged = hearing.end(&to, done.as_ref().err());
    Report::Turn(to, done, judged, kept)
}

/// Hands published messages to the emitter, then runs the hooks.
async fn after_the_commit<B: Backend>(shared: &Shared<B>, to: &Recipient, turn: &mut Turn) {
    #[cfg(feature = "emitter")]
    if !turn.published.is_empty() {
        shared.publishers.note(to.kind());
    }
    #[cfg(feature = "emitter")]
    if let Some(emitter) = &shared.emitter {
        for stored in turn.published.drain(..) {
            emitter.deliver(stored);
        }
    }
    if turn.post_process.is_empty() {
        return;
    }
    let began = Instant::now();
    match tokio::time::timeout(shared.config.hook_deadline, turn.run_hooks()).await {
        Ok(Ok(())) => {}
        Ok(Err(errors)) => tracing::warn!(recipient = %to, error = %errors, "hooks failed; the turn stands"),
        Err(_) => tracing::warn!(recipient = %to, "hooks took too long and were given up; the turn stands"),
    }
    let shard = shared.config.shard_metrics.then(|| std::iter::once((to.shard(), 1)));
    spent(Phase::PostProcessing, began.elapsed(), shard);
    metrics::hooks_ran(to.kind());
}
