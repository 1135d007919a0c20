//! The words of a reason.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{Facts, Reason};
use crate::admin::view::count::Count;
use crate::admin::view::destination::Destination;
use crate::recipient::Recipient;

impl Facts {
    /// Returns the reason as a sentence, and what to do.
    pub(super) fn words(&self, of: &Recipient, reason: &Reason) -> (String, String) {
        let waiting = match self.events {
            Count { number: 1, .. } => "1 event waits".to_owned(),
            Count { number: 0, .. } => "a timer is due".to_owned(),
            events => format!("{events} events wait"),
        };
        let address = |worker: &Uuid| self.address(worker);
        match reason {
            Reason::NothingPending { quarantined: 0 } => (
                format!("Nothing waits for {of}, and it never had a turn."),
                "Check the name of the recipient, and whether the emit was committed.".to_owned(),
            ),
            Reason::NothingPending { quarantined } => (
                format!("Nothing waits for {of}; {quarantined} of its events are in quarantine."),
                format!("To see them: eventbox dead list --recipient {of}"),
            ),
            Reason::TimerNotDue { due_at } => (
                format!("Nothing waits for {of}; its first timer is due {}.", self.until(*due_at)),
                format!("To see its timers: eventbox timers {of}"),
            ),
            Reason::NotRegistered { kind, holder: None } => (
                format!("No process registered the kind {kind}; {waiting}."),
                format!("Start a process whose runtime registers {kind}: eventbox members lists what runs."),
            ),
            Reason::NotRegistered { kind, holder: Some(worker) } => (
                format!(
                    "{} holds shard {} and did not register the kind {kind}; {waiting}.",
                    address(worker),
                    of.shard()
                ),
                format!("Register {kind} in every process of this database, or give it a database of its own."),
            ),
            Reason::Paused { is_kind: true } => (
                format!("The kind {} is paused by an operator; {waiting}.", of.kind()),
                format!("To go on: eventbox resume --kind {}", of.kind()),
            ),
            Reason::Paused { is_kind: false } => {
                (format!("{of} is paused by an operator; {waiting}."), format!("To go on: eventbox resume {of}"))
            }
            Reason::BackingOff { attempts, next_attempt_at, error } => (
                format!(
                    "{of} failed {attempts} times in a row and is tried again {}; {waiting}. The last error: {error}",
                    self.until(*next_attempt_at)
                ),
                format!("Repair the cause, then: eventbox retry {of}"),
            ),
            Reason::ShardDisabled { shard } => (
                format!("Shard {shard}, to which {of} belongs, is disabled by an operator; {waiting}."),
                format!(
                    "To see its spec: eventbox shards list --label id={shard}. To set it back: eventbox shards \
                         apply {shard} --reset"
                ),
            ),
            Reason::ShardFailed { shard, attempts, next_attempt_at, error } => (
                format!(
                    "Shard {shard}, to which {of} belongs, has FAILED {attempts} times in a row and {}; {waiting}. \
                     The error: {error}",
                    match next_attempt_at {
                        Some(at) => format!("is tried again {}", self.until(*at)),
                        None => "is not tried again".to_owned(),
                    }
                ),
                format!("Repair the cause, then: eventbox shards unassign {shard} --only-failed"),
            ),
            Reason::NoHolder { shard } => (
                format!("No process holds shard {shard}, to which {of} belongs; {waiting}."),
                "Start a process with a runtime. A runtime without leases is not seen here.".to_owned(),
            ),
            Reason::SilentHolder { shard, worker, silent_for } => (
                match silent_for {
                    Some(silent_for) => format!(
                        "{} holds shard {shard} and has been silent for {} s; {waiting}.",
                        address(worker),
                        silent_for.as_secs()
                    ),
                    None => format!("{worker} holds shard {shard} and is not a member any more; {waiting}."),
                },
                format!(
                    "Another process takes the shard at its next check. To do it now: eventbox shards release {shard}"
                ),
            ),
            Reason::Throttled { kind, worker } => (
                format!(
                    "{} does not work on {kind}, because the outbox is over its quota; {waiting}.",
                    address(worker)
                ),
                "See what the outbox waits for: eventbox outbox list".to_owned(),
            ),
            Reason::OutboxStuck { struggling, last_error } => (
                format!(
                    "All events of {of} were processed (turn {}), but {struggling} messages of the outbox were \
                     refused. One error: {last_error}",
                    self.standing.turn
                ),
                "See what the outbox waits for: eventbox outbox list".to_owned(),
            ),
            Reason::BreakerOpen { worker, endpoint, waiting, last_error } => (
                format!(
                    "All events of {of} were processed (turn {}), but {waiting} messages of the outbox wait: {} sends \
                     nothing to {endpoint}, whose breaker is open. The last error: {}",
                    self.standing.turn,
                    address(worker),
                    last_error.as_deref().unwrap_or("none")
                ),
                "Repair the endpoint or the way to it: a probe closes the breaker. To see the breakers: \
                 eventbox members"
                    .to_owned(),
            ),
            Reason::DestinationPaused { destination, since, who, waiting } => (
                format!(
                    "All events of {of} were processed (turn {}), but {waiting} messages of the outbox wait, because \
                     {who} paused {destination} {} ago.",
                    self.standing.turn,
                    self.ago(*since)
                ),
                format!("To go on: {}", resume_command(destination)),
            ),
            Reason::BeingWorkedOn { worker, since } => (
                format!("{} has been working on {of} for over {} s; {waiting}.", address(worker), since.as_secs()),
                "Look into the log of that process. A turn is given up after its turn_deadline.".to_owned(),
            ),
            Reason::OldTransaction { transaction } => (
                format!(
                    "An old transaction keeps removed rows in the way, so lists are slow: {transaction}; {waiting}."
                ),
                "End that transaction, then watch the oldest age: eventbox status --watch".to_owned(),
            ),
            Reason::Held { worker, error } => (
                format!(
                    "{} tries one recipient of {} at a time, because many of them fail alike; {waiting}. \
                     The error: {error}",
                    address(worker),
                    of.kind()
                ),
                "Repair the cause: the kind goes on with the first success.".to_owned(),
            ),
            Reason::HeldByRate { worker, by, until } => (
                match (by, until) {
                    (Some(by), Some(until)) => format!(
                        "{} holds {of} because of the {by} of its kind, and its next turn may begin {}; {waiting}.",
                        address(worker),
                        self.until(*until)
                    ),
                    (Some(by), None) => {
                        format!("{} holds {of} because of the {by} of its kind; {waiting}.", address(worker))
                    }
                    (None, _) => format!(
                        "{} holds recipients of {} because of the rates of the kind, and {of} may be one of them; \
                         {waiting}.",
                        address(worker),
                        of.kind()
                    ),
                },
                "If the age grows, the rates that the service sets are lower than what comes: eventbox status --watch"
                    .to_owned(),
            ),
            Reason::Failing { worker, error } => (
                format!(
                    "The last turn of {of} failed at {}, through no fault of an event; {waiting}. The error: {error}",
                    address(worker)
                ),
                format!("Repair the cause: the turn is tried again. To see the state: eventbox state get {of}"),
            ),
            Reason::Overdue { worker, oldest_at, .. } => (
                format!(
                    "{} holds shard {} and has not processed {of}; {waiting}, the oldest since {}.",
                    address(worker),
                    of.shard(),
                    self.ago(*oldest_at)
                ),
                format!(
                    "See whether that process lives and keeps up: eventbox members. To give the shard to another: \
                     eventbox shards move {} WORKER",
                    of.shard()
                ),
            ),
            Reason::InLine { worker, oldest_at, .. } => (
                format!(
                    "Nothing is wrong: {} takes {of} in its turn; {waiting}, the oldest since {}.",
                    address(worker),
                    self.ago(*oldest_at)
                ),
                "If the age grows, the processes are too slow: eventbox status --watch".to_owned(),
            ),
            Reason::PeerNotRunning { .. }
            | Reason::StreamClosed { .. }
            | Reason::StreamSilent { .. }
            | Reason::StreamFailing { .. }
            | Reason::StreamSlow { .. }
            | Reason::StreamSending { .. } => self.words_of_stream(of, reason, &waiting),
            Reason::Processed { turn, at } => (
                format!(
                    "Nothing is wrong: everything for {of} was processed; its turn {turn} was {} ago.",
                    self.ago(*at)
                ),
                format!("To see its state: eventbox show {of}"),
            ),
        }
    }

    /// Returns a process as a person knows it.
    pub(super) fn address(&self, worker: &Uuid) -> String {
        let member = self.members.iter().find(|member| member.worker == *worker);
        member.map_or_else(|| worker.to_string(), |member| format!("{} ({worker})", member.address))
    }

    pub(super) fn ago(&self, at: SystemTime) -> String {
        seconds(self.now.duration_since(at).unwrap_or_default())
    }

    fn until(&self, at: SystemTime) -> String {
        format!("in {}", seconds(at.duration_since(self.now).unwrap_or_default()))
    }
}

/// Returns the command that resumes a destination.
pub(in crate::admin) fn resume_command(destination: &Destination) -> String {
    let mut command = "eventbox resume".to_owned();
    if *destination == Destination::all() {
        command += " --all-messages";
    }
    for (flag, text) in [(" --source ", destination.of_source()), (" --type ", destination.of_type())] {
        if let Some(text) = text {
            command += flag;
            command += &quoted(text);
        }
    }
    command
}

/// Returns a text as a word of a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+,=".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Shows a duration by its two largest units.
fn seconds(duration: Duration) -> String {
    let whole = humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string();
    whole.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
