//! A batch client with a fake transport, and the outcomes of its events.
#![allow(clippy::needless_pass_by_value)]

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eventbox::chip::{BatchClient, BatchConfig, SendError, Transport};

use super::support::{Fake, STOP, event, payload};
use crate::support::{SOON, eventually};

type Outcomes = Arc<Mutex<Vec<(String, Result<(), SendError>)>>>;

/// A client with its transport, and the outcomes of its events by name.
pub(super) struct Rig {
    pub(super) fake: Arc<Fake>,
    pub(super) client: BatchClient,
    pub(super) outcomes: Outcomes,
}

/// Makes a client that is not started yet.
pub(super) fn rig(fake: Arc<Fake>, change: impl FnOnce(&mut BatchConfig)) -> Rig {
    let mut config = BatchConfig::default();
    config.batch_interval = Duration::from_millis(5);
    change(&mut config);
    let client = BatchClient::new(Arc::clone(&fake) as Arc<dyn Transport>, config).unwrap();
    Rig { fake, client, outcomes: Outcomes::default() }
}

pub(super) fn size(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

impl Rig {
    /// Queues an event with this payload.
    pub(super) fn queue<N: ToString>(&self, name: N) {
        let (name, outcomes) = (name.to_string(), Arc::clone(&self.outcomes));
        let callback = {
            let name = name.clone();
            Box::new(move |sent: eventbox::chip::SendOutcome| outcomes.lock().unwrap().push((name, sent.result)))
        };
        self.client.queue(event(&name), Some(callback)).unwrap();
    }

    /// Waits for this many outcomes.
    pub(super) async fn outcomes(&self, count: usize) -> Vec<(String, Result<(), SendError>)> {
        eventually(SOON, async || self.outcomes.lock().unwrap().len() >= count).await;
        self.outcomes.lock().unwrap().clone()
    }

    pub(super) async fn stop(&self) {
        assert!(self.client.stop(STOP).await.complete);
    }

    /// Returns the payloads of each request.
    pub(super) fn names(&self) -> Vec<Vec<String>> {
        self.fake.batches().iter().map(|batch| batch.events.iter().map(payload).collect()).collect()
    }
}
