//! How the tables lie on the nodes of a cluster.

/// How the tables of eventboxes lie in their database. [`layout`](crate::layout()) reads it.
///
/// `docs/scaling.md` says when to use which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Layout {
    /// All tables are on one server.
    OneNode,
    /// All tables are in a schema that Citus has put on one node of a cluster.
    BySchema,
    /// The tables are cut by `shard`, and lie on several nodes of a cluster.
    ByShard,
}
