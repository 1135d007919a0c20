//! The writers of a pool. SQLite has one writer at a time, so writers queue in the process instead of at the file.
//!
//! `registry` finds the writers of a pool. `queue` decides which writer is next. `group_commit` lets short transactions
//! share a commit, `statement` runs single statements, and `emit_groups` commits single emits together.

pub(super) mod emit_groups;
pub(super) mod group_commit;
pub(super) mod queue;
pub(super) mod registry;
pub(super) mod statement;
