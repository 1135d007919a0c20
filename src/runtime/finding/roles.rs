//! The roles of this process for each database: it sends wake-ups, it has streams. They keep wake-ups for its own streams
//! in the process, and let one loop send where several could.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sqlx::{ConnectOptions, Connection, Pool};

use crate::recipient::Recipient;
use crate::runtime::attended::Attended;
use crate::store::Backend;

static ROLES: Mutex<Vec<Weak<LocalRole>>> = Mutex::new(Vec::new());

/// A database, by the options of its pool. Two pools with different options are two databases: then a wake-up goes out
/// that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Database(String);

impl Database {
    pub(crate) fn of<B: Backend>(pool: &Pool<B>) -> Self
    where
        <B::Connection as Connection>::Options: ConnectOptions,
    {
        Database(pool.connect_options().to_url_lossy().into())
    }

    #[cfg(test)]
    pub(super) fn named(name: &str) -> Self {
        Database(name.to_owned())
    }

    /// Says that this process sends wake-ups for all its emits to the database, until the result is dropped.
    pub(crate) fn sends(&self) -> Arc<LocalRole> {
        self.add(Role::Sends)
    }

    /// Says that this process has these recipients of the database, until the result is dropped.
    pub(crate) fn attends(&self, to: Arc<Attended>) -> Arc<LocalRole> {
        self.add(Role::Attends(to))
    }

    /// Returns whether this process sends wake-ups for all its emits to the database.
    pub(crate) fn is_sent(&self) -> bool {
        self.any(|role| matches!(role, Role::Sends))
    }

    /// Returns whether this process has a recipient of the database.
    pub(crate) fn has(&self, to: &Recipient) -> bool {
        self.any(|role| matches!(role, Role::Attends(attended) if attended.contains(to)))
    }

    fn add(&self, role: Role) -> Arc<LocalRole> {
        let added = Arc::new(LocalRole { database: self.clone(), role });
        let mut all = all();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&added));
        added
    }

    fn any(&self, is_so: impl Fn(&Role) -> bool) -> bool {
        all().iter().filter_map(Weak::upgrade).any(|other| other.database == *self && is_so(&other.role))
    }
}

/// One role of this process, while the value lives.
#[derive(Debug)]
pub(crate) struct LocalRole {
    database: Database,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Sends,
    Attends(Arc<Attended>),
}

fn all() -> MutexGuard<'static, Vec<Weak<LocalRole>>> {
    ROLES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_of_one_database_and_ends_with_its_value() {
        let [one, other] = ["roles-test://one", "roles-test://other"].map(Database::named);
        let to = Recipient::new("peer.chat", "s1").unwrap();
        let attended = Arc::<Attended>::default();
        attended.attend(&to);
        let roles = [one.sends(), one.attends(Arc::clone(&attended))];
        assert!(one.is_sent() && one.has(&to));
        assert!(!other.is_sent() && !other.has(&to));
        attended.leave(&to);
        assert!(!one.has(&to), "the stream has ended");
        drop(roles);
        assert!(!one.is_sent());
    }
}
