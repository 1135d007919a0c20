//! Links between peers: a stream of one peer opens a stream with the same id on another one, ahead of the first event.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::peer::stream::id::StreamId;

/// What a linked client gets.
#[derive(Debug, Clone)]
pub(in crate::peer) enum Demand {
    /// Open a stream with this id.
    Open(StreamId),
    /// Flush and close it.
    Close(StreamId),
}

/// The clients that other peers link to.
#[derive(Debug, Default)]
pub(in crate::peer) struct Links(Mutex<HashMap<String, mpsc::UnboundedSender<Demand>>>);

impl Links {
    /// Adds a linked client. Its demands are bounded by the streams of the peers that link to it.
    pub(in crate::peer) fn add(&self, peer: &str) -> mpsc::UnboundedReceiver<Demand> {
        let (sender, demands) = mpsc::unbounded_channel();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(peer.to_owned(), sender);
        demands
    }

    pub(in crate::peer) fn started(&self, links: &[String], id: &StreamId) {
        self.tell(links, &Demand::Open(id.clone()));
    }

    pub(in crate::peer) fn ended(&self, links: &[String], id: &StreamId) {
        self.tell(links, &Demand::Close(id.clone()));
    }

    fn tell(&self, links: &[String], demand: &Demand) {
        if links.is_empty() {
            return;
        }
        let clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for client in links.iter().filter_map(|link| clients.get(link)) {
            let _ = client.send(demand.clone());
        }
    }
}
