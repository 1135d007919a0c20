//! Recipients that a process works on whoever holds their shards: the streams whose connections it has.

#![cfg_attr(not(feature = "peer"), allow(dead_code, reason = "only peers attend to recipients"))]

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tokio::sync::watch;

use crate::eventbox::{WakeUp, WakeUps};
use crate::recipient::Recipient;
use crate::runtime::failing::outage::{MAX_REPORTED, MAX_REPORTED_BYTES};
use crate::shard::ShardSet;
use crate::store::FailingRecipient;
use crate::text::fit;

/// The recipients that a runtime attends to. Leases decide nothing about them: the runtime scans their shards, and
/// skips every other recipient.
#[derive(Debug, Default)]
pub(crate) struct Attended {
    recipients: Mutex<BTreeMap<u8, HashSet<Recipient>>>,
    /// The shards of the recipients, which the runtime scans.
    shards: watch::Sender<ShardSet>,
    /// Recipients whose events cannot be delivered, with the last errors.
    troubles: Mutex<BTreeMap<Recipient, String>>,
    /// Wake-ups of the runtime that attends to them.
    runtime: OnceLock<Weak<WakeUps>>,
}

impl Attended {
    /// Begins to attend to a recipient, and looks at its box at once.
    pub(crate) fn attend(&self, to: &Recipient) {
        let mut recipients = self.lock();
        recipients.entry(to.shard()).or_default().insert(to.clone());
        self.show_shards(&recipients);
        drop(recipients);
        self.wake(to);
    }

    /// Attends to a recipient no more.
    pub(crate) fn leave(&self, to: &Recipient) {
        let mut recipients = self.lock();
        if let Some(of_shard) = recipients.get_mut(&to.shard()) {
            of_shard.remove(to);
            if of_shard.is_empty() {
                recipients.remove(&to.shard());
            }
        }
        self.show_shards(&recipients);
        drop(recipients);
        self.recovered(to);
    }

    /// Notes that the events of a recipient cannot be delivered, which this member reports.
    pub(crate) fn failed(&self, to: &Recipient, error: &str) {
        self.troubles().insert(to.clone(), error.to_owned());
    }

    /// Notes that the events of a recipient are delivered.
    pub(crate) fn recovered(&self, to: &Recipient) {
        self.troubles().remove(to);
    }

    /// Returns recipients whose events cannot be delivered.
    pub(super) fn report(&self) -> Vec<FailingRecipient> {
        let troubles = self.troubles();
        let reported = troubles.iter().take(MAX_REPORTED);
        let failing = |(to, error): (&Recipient, &String)| FailingRecipient {
            recipient: to.to_string(),
            error: fit(error, MAX_REPORTED_BYTES),
        };
        reported.map(failing).collect()
    }

    /// Lets the runtime look at the box of a recipient.
    pub(crate) fn wake(&self, to: &Recipient) {
        if let Some(runtime) = self.runtime.get().and_then(Weak::upgrade) {
            runtime.wake(&WakeUp { recipients: HashSet::from([to.clone()]), ..WakeUp::default() });
        }
    }

    pub(crate) fn contains(&self, to: &Recipient) -> bool {
        self.lock().get(&to.shard()).is_some_and(|of_shard| of_shard.contains(to))
    }

    /// Names the runtime that attends to the recipients.
    pub(crate) fn is_run_by(&self, runtime: &Arc<WakeUps>) {
        let _ = self.runtime.set(Arc::downgrade(runtime));
    }

    fn troubles(&self) -> MutexGuard<'_, BTreeMap<Recipient, String>> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the shards of the recipients.
    pub(super) fn shards(&self) -> watch::Receiver<ShardSet> {
        self.shards.subscribe()
    }

    fn show_shards(&self, recipients: &BTreeMap<u8, HashSet<Recipient>>) {
        let shards: ShardSet = recipients.keys().copied().collect();
        self.shards.send_if_modified(|shown| std::mem::replace(shown, shards) != shards);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u8, HashSet<Recipient>>> {
        self.recipients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
