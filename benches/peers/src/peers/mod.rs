//! The peers, each used as its documentation shows.

mod apalis;
mod awa;
mod backbone;
mod graphile;
mod outbox_core;
mod pgmq;
mod sqlxmq;
mod underway;

use crate::peer::Peer;

/// Returns all peers.
pub(crate) fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(pgmq::Pgmq),
        Box::new(graphile::Graphile),
        Box::new(sqlxmq::Sqlxmq),
        Box::new(underway::Underway),
        Box::new(apalis::Apalis),
        Box::new(awa::Awa),
        Box::new(outbox_core::OutboxCore),
        Box::new(backbone::Backbone),
    ]
}
