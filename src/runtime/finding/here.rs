//! What the runtimes of this process do for each database, so that no wake-up goes out for what happens here, and none
//! goes out twice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use sqlx::{ConnectOptions, Connection, Pool};

use crate::recipient::Recipient;
use crate::runtime::attended::Attended;
use crate::store::Backend;

static HERE: Mutex<Vec<Weak<Here>>> = Mutex::new(Vec::new());

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

    /// Says that this process sends wake-ups for all its emits to the database, until the result is dropped.
    pub(crate) fn sends(&self) -> Arc<Here> {
        self.add(Role::Sends)
    }

    /// Says that this process has these recipients of the database, until the result is dropped.
    pub(crate) fn attends(&self, to: Arc<Attended>) -> Arc<Here> {
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

    fn add(&self, role: Role) -> Arc<Here> {
        let here = Arc::new(Here { database: self.clone(), role });
        let mut all = all();
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&here));
        here
    }

    fn any(&self, is_so: impl Fn(&Role) -> bool) -> bool {
        all().iter().filter_map(Weak::upgrade).any(|here| here.database == *self && is_so(&here.role))
    }
}

/// One role of this process, while the value lives.
#[derive(Debug)]
pub(crate) struct Here {
    database: Database,
    role: Role,
}

#[derive(Debug)]
enum Role {
    Sends,
    Attends(Arc<Attended>),
}

fn all() -> MutexGuard<'static, Vec<Weak<Here>>> {
    HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_of_one_database_and_ends_with_its_value() {
        let [one, other] = ["one", "other"].map(|name| Database(format!("here-test://{name}")));
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
