//! What all requests share.

use std::sync::Arc;

use super::database::Database;
use super::guard::Secret;
use super::live::Live;
use super::options::DashboardOptions;

/// The state of one dashboard.
pub(crate) struct App {
    /// Questions and repairs.
    pub(crate) database: Arc<dyn Database>,
    pub(crate) options: Arc<DashboardOptions>,
    pub(crate) secret: Secret,
    /// The reader behind the live updates. It ends when the dashboard is dropped.
    pub(crate) live: Live,
}

impl App {
    /// Makes the state. Nothing is read before the first request.
    pub(crate) fn new(database: Arc<dyn Database>, options: DashboardOptions) -> Arc<Self> {
        let options = Arc::new(options);
        let live = Live::new(database.clone(), options.clone());
        Arc::new(App { database, options, secret: Secret::new(), live })
    }
}
