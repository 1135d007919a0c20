//! The writers of each pool.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Pool, Sqlite};

use super::emit_groups::Emits;
use super::group_commit::OpenTx;
use super::queue::WriterQueue;

/// The writers, by the address of their pools' options. Clones of a pool share them.
static WRITERS: Mutex<Option<HashMap<usize, Weak<Writers>>>> = Mutex::new(None);

/// The writers of a pool.
pub(super) struct Writers {
    pub(super) queue: Arc<WriterQueue<OpenTx>>,
    pub(super) emits: Emits,
    /// Keeps the options, so that no other pool's options have their address.
    _options: Arc<SqliteConnectOptions>,
}

pub(super) fn writers_of(pool: &Pool<Sqlite>) -> Arc<Writers> {
    let options = pool.connect_options();
    let key = Arc::as_ptr(&options) as usize;
    let mut lines = WRITERS.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = lines.get_or_insert_default();
    if let Some(writers) = lines.get(&key).and_then(Weak::upgrade) {
        return writers;
    }
    lines.retain(|_, writers| writers.strong_count() > 0);
    let writers = Arc::new(Writers { queue: Arc::default(), emits: Emits::default(), _options: options });
    lines.insert(key, Arc::downgrade(&writers));
    writers
}
