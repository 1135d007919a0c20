//! The writers of a pool: SQLite has one at a time, so they queue in the process instead of at the file.
//!
//! `registry` finds the writers of a pool. `queue` decides whose turn it is. `group_commit` lets short transactions
//! share a commit, `statement` runs single statements, `emit_groups` commits single emits together.

pub(super) mod emit_groups;
pub(super) mod group_commit;
pub(super) mod queue;
pub(super) mod registry;
pub(super) mod statement;
