//! The connection of a transport: replaced when certificates change, or when requests on it get no answer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::chip::credentials::pem::TLS_READ_TIMEOUT;
use crate::chip::credentials::tls::{Loaded, Tls};
use crate::chip::error::ConfigError;

/// Requests in a row without an answer after which the transport makes a new connection, because the old one may be
/// dead.
pub const RECONNECT_AFTER: u32 = 2;

/// Makes an endpoint, with the content of the certificates if it uses TLS.
pub(crate) type MakeEndpoint = dyn Fn(Option<&Loaded>) -> Result<Endpoint, ConfigError> + Send + Sync;

/// The connection. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connection {
    make: Arc<MakeEndpoint>,
    tls: Option<Tls>,
    current: Arc<Mutex<Current>>,
}

struct Current {
    channel: Channel,
    endpoint: Endpoint,
    loaded: Option<Loaded>,
    /// Problem of the last warning.
    warned: Option<String>,
    checked_at: Instant,
    unanswered: u32,
}

impl Connection {
    pub(crate) fn new(make: Arc<MakeEndpoint>, tls: Option<Tls>) -> Result<Self, ConfigError> {
        let loaded = tls.as_ref().map(Tls::load).transpose().map_err(|problem| ConfigError::Tls { problem })?;
        let endpoint = make(loaded.as_ref())?;
        let (channel, checked_at) = (endpoint.connect_lazy(), Instant::now());
        let current = Current { channel, endpoint, loaded, warned: None, checked_at, unanswered: 0 };
        Ok(Connection { make, tls, current: Arc::new(Mutex::new(current)) })
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the channel for a request, with the certificates that are in the files now.
    pub(crate) async fn channel(&self) -> Channel {
        if let Some(tls) = self.tls.as_ref().filter(|tls| self.is_time_to_check(tls)) {
            let tls = tls.clone();
            let read = timeout(TLS_READ_TIMEOUT, tokio::task::spawn_blocking(move || tls.load())).await;
            match read {
                Ok(Ok(Ok(loaded))) => self.reload(loaded),
                Ok(Ok(Err(problem))) => self.warn(problem),
                Ok(Err(_)) | Err(_) => self.warn("the files were not read in time".to_owned()),
            }
        }
        self.lock().channel.clone()
    }

    /// Returns whether this request checks the files. Other requests meanwhile use the current channel.
    fn is_time_to_check(&self, tls: &Tls) -> bool {
        let Some(interval) = tls.reload_interval() else { return false };
        let mut current = self.lock();
        let due = current.checked_at.elapsed() >= interval;
        if due {
            current.checked_at = Instant::now();
        }
        due
    }

    fn reload(&self, loaded: Loaded) {
        if self.lock().loaded.as_ref() == Some(&loaded) {
            return;
        }
        match (self.make)(Some(&loaded)) {
            Ok(endpoint) => {
                tracing::info!("the certificates changed: new connections use them");
                let mut current = self.lock();
                current.channel = endpoint.connect_lazy();
                current.endpoint = endpoint;
                (current.loaded, current.warned) = (Some(loaded), None);
            }
            Err(error) => self.warn(error.to_string()),
        }
    }

    /// Warns once about each problem.
    fn warn(&self, problem: String) {
        let mut current = self.lock();
        if current.warned.as_ref() != Some(&problem) {
            tracing::warn!(problem, "the changed certificates cannot be used: the old ones stay in use");
            current.warned = Some(problem);
        }
    }

    /// Begins a request. It counts as unanswered unless [`Unanswered::answered`] is called.
    pub(crate) fn request(&self) -> Unanswered<'_> {
        Unanswered { connection: self, answered: false }
    }
}

/// A request that may end without an answer.
pub(crate) struct Unanswered<'a> {
    connection: &'a Connection,
    answered: bool,
}

impl Unanswered<'_> {
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        let mut current = self.connection.lock();
        if self.answered {
            current.unanswered = 0;
            return;
        }
        current.unanswered += 1;
        if current.unanswered >= RECONNECT_AFTER {
            tracing::info!("several requests had no answer: the transport makes a new connection");
            current.channel = current.endpoint.connect_lazy();
            current.unanswered = 0;
        }
    }
}
