//! The peers, each by its documented calls.

mod apalis;
mod graphile;
mod pgmq;
mod sqlxmq;
mod underway;

use crate::peer::Peer;

/// All of them, by name.
pub(crate) fn all() -> Vec<Box<dyn Peer>> {
    vec![
        Box::new(pgmq::Pgmq),
        Box::new(graphile::Graphile),
        Box::new(sqlxmq::Sqlxmq),
        Box::new(underway::Underway),
        Box::new(apalis::Apalis),
    ]
}
