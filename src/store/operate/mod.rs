//! The operator: views, repairs and their record, quarantine, the journal and the fates of events, paused kinds
//! and destinations, counts, long transactions, the facts of the doctor, and the look into all tables.

pub(in crate::store) mod backlog;
pub(in crate::store) mod blocked;
pub(in crate::store) mod destination;
pub(in crate::store) mod diagnosis;
pub(in crate::store) mod fate;
pub(in crate::store) mod inspect;
pub(in crate::store) mod journal;
pub(in crate::store) mod kind;
pub(in crate::store) mod old_transaction;
pub(in crate::store) mod operation;
pub(in crate::store) mod quarantine;
pub(in crate::store) mod view;
