//! Old transactions. While one is open, the database keeps the rows that others removed after its begin.

use std::fmt;

use sqlx::{Database, Pool};

use crate::store::fault::Fault;

/// Holder of an old transaction, or of the snapshot of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OldTransaction {
    /// A session with an open transaction.
    Session { pid: i32, role: String, application: String, state: String, age_us: i64 },
    /// A transaction that was prepared and neither committed nor rolled back.
    Prepared { gid: String, role: String, age_us: i64 },
    /// A replication slot that is this many transactions behind.
    Slot { name: String, behind: i64 },
    /// A standby that feeds back a snapshot that is this many transactions behind.
    Standby { pid: i32, application: String, behind: i64 },
}

impl fmt::Display for OldTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OldTransaction::Session { pid, role, application, state, age_us } => {
                let seconds = age_us / 1_000_000;
                write!(f, "session {pid} (role {role}, application {application:?}, {state}) for {seconds} s")
            }
            OldTransaction::Prepared { gid, role, age_us } => {
                write!(f, "prepared transaction {gid:?} (role {role}) for {} s", age_us / 1_000_000)
            }
            OldTransaction::Slot { name, behind } => {
                write!(f, "replication slot {name:?}, {behind} transactions behind")
            }
            OldTransaction::Standby { pid, application, behind } => {
                write!(f, "standby {application:?} (process {pid}), {behind} transactions behind")
            }
        }
    }
}

/// Asks the server about old transactions.
pub trait OldTransactionDialect: Database {
    /// Returns transactions that have been open for `older_than_us` or longer, the oldest of each sort first, and slots
    /// and standbys that are at least `behind` transactions late. At most `limit` in all. Returns only names that this
    /// role may see.
    fn old_transactions(
        pool: &Pool<Self>,
        older_than_us: i64,
        behind: i64,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<OldTransaction>, Fault>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_named() {
        let session = OldTransaction::Session {
            pid: 4_711,
            role: "app".into(),
            application: "reports".into(),
            state: "idle in transaction".into(),
            age_us: 93_400_000,
        };
        assert_eq!(
            session.to_string(),
            "session 4711 (role app, application \"reports\", idle in transaction) for 93 s"
        );
        let prepared = OldTransaction::Prepared { gid: "pay-1".into(), role: "app".into(), age_us: 7_000_000 };
        assert_eq!(prepared.to_string(), "prepared transaction \"pay-1\" (role app) for 7 s");
        let slot = OldTransaction::Slot { name: "copy".into(), behind: 12_345 };
        assert_eq!(slot.to_string(), "replication slot \"copy\", 12345 transactions behind");
        let standby = OldTransaction::Standby { pid: 7, application: "walreceiver".into(), behind: 20_000 };
        assert_eq!(standby.to_string(), "standby \"walreceiver\" (process 7), 20000 transactions behind");
    }
}
