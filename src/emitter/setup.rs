//! Makes credentials, transport, batch client, emitter and global emitter from one set of settings.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Pool;

use crate::chip::credentials::auth::{AuthSettings, LazySigner};
use crate::chip::credentials::tls::Tls;
use crate::chip::transport::grpc::{Destination, GrpcConfig};
use crate::emitter::config::Config;
use crate::emitter::emitter::DurableEmitter;
use crate::emitter::error::Error;
use crate::emitter::global::{register_signer, set_global};
use crate::store::Backend;

/// Environment variable of the endpoint.
pub const ENDPOINT_VARIABLE: &str = "CL_CHIP_INGRESS_ENDPOINT";

/// Environment variable that switches the durable emitter on.
pub const DURABLE_VARIABLE: &str = "CL_CHIP_INGRESS_DURABLE_EMITTER_ENABLED";

/// Environment variable that switches the best-effort emitter on.
pub const BATCH_VARIABLE: &str = "CL_CHIP_INGRESS_BATCH_EMITTER_ENABLED";

/// Settings of a service that publishes. Zero means the default in every field.
#[derive(Clone)]
#[non_exhaustive]
pub struct Setup<B: Backend> {
    /// Database; required.
    pub pool: Option<Pool<B>>,
    /// `host:port`; required unless `destination` is set.
    pub endpoint: String,
    /// Destination in place of the endpoint.
    pub destination: Option<Destination>,
    /// Whether to use plain text instead of TLS.
    pub insecure_connection: bool,
    /// Trusted authorities; those of the system by default.
    pub tls: Option<Tls>,
    /// Credentials.
    pub auth: AuthSettings,
    /// Whether the emitter is a host (true) or a plugin.
    pub retransmit_enabled: bool,
    /// Most events of a request.
    pub batch_size: usize,
    /// Longest wait of a batch.
    pub batch_interval: Duration,
    /// Requests at the same time.
    pub max_concurrent_sends: usize,
    /// Longest time of a request.
    pub max_publish_timeout: Duration,
    /// Longest time of a stop.
    pub shutdown_timeout: Duration,
    /// Most events that wait for their batch.
    pub message_buffer_size: usize,
    /// Most bytes of a request.
    pub max_request_bytes: usize,
    /// Options of the emitter.
    pub emitter: Config,
    /// Whether a best-effort batch emitter is on as well, which `build` refuses.
    pub batch_emitter_enabled: bool,
}

impl<B: Backend> Default for Setup<B> {
    fn default() -> Self {
        Setup {
            pool: None,
            endpoint: String::new(),
            destination: None,
            insecure_connection: false,
            tls: None,
            auth: AuthSettings::default(),
            retransmit_enabled: true,
            batch_size: 0,
            batch_interval: Duration::ZERO,
            max_concurrent_sends: 0,
            max_publish_timeout: Duration::ZERO,
            shutdown_timeout: Duration::ZERO,
            message_buffer_size: 0,
            max_request_bytes: 0,
            emitter: Config::default(),
            batch_emitter_enabled: false,
        }
    }
}

impl<B: Backend> Setup<B> {
    /// Builds the emitter, makes it the global one and returns it, **not started**. An error leaves nothing behind.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], [`Error::Missing`] and [`Error::ClaimTooShort`], which name the setting. [`Error::BothSet`]
    /// when two settings contradict each other, because none is ignored.
    pub fn build(self) -> Result<DurableEmitter<B>, Error> {
        if self.batch_emitter_enabled {
            return Err(Error::BothSet { first: BATCH_VARIABLE, second: DURABLE_VARIABLE });
        }
        self.check()?;
        let missing = |problem| Error::Missing { problem };
        let pool = self.pool.ok_or(missing(
            "durable event store is nil: data source required when durable emitter is enabled \
             (CL_CHIP_INGRESS_DURABLE_EMITTER_ENABLED); set Setup::pool",
        ))?;
        let mut config = self.emitter;
        config.retransmit = self.retransmit_enabled;
        set(&mut config.shutdown_timeout, self.shutdown_timeout);
        let batch = &mut config.batch;
        set(&mut batch.batch_interval, self.batch_interval);
        set(&mut batch.publish_timeout, self.max_publish_timeout);
        set_count(&mut batch.batch_size, self.batch_size);
        set_count(&mut batch.max_concurrent_sends, self.max_concurrent_sends);
        set_count(&mut batch.message_buffer, self.message_buffer_size);
        if self.max_request_bytes > 0 {
            batch.max_request_bytes = self.max_request_bytes;
        }

        let mut signer = None;
        let destination = match self.destination {
            Some(destination) => destination,
            None if self.endpoint.is_empty() => {
                return Err(missing("batch emitter is nil: an endpoint is required (CL_CHIP_INGRESS_ENDPOINT)"));
            }
            None => {
                let mut auth = self.auth;
                if !auth.headers_ttl.is_zero() {
                    let lazy = LazySigner::default();
                    if let Some(signer) = auth.signer.take() {
                        lazy.set(signer);
                    }
                    auth.signer = Some(Arc::new(lazy.clone()));
                    signer = Some(lazy);
                }
                let mut grpc = GrpcConfig::new(self.endpoint);
                grpc = if self.insecure_connection {
                    grpc.insecure()
                } else {
                    grpc.tls(self.tls.unwrap_or_else(Tls::system))
                };
                if let Some(auth) = auth.select()? {
                    grpc = grpc.auth(auth);
                }
                grpc.into()
            }
        };
        let emitter = DurableEmitter::builder(pool, destination).config(config).build()?;
        register_signer(signer);
        set_global(Some(Arc::new(emitter.clone())));
        Ok(emitter)
    }
}

impl<B: Backend> Setup<B> {
    /// Refuses two settings of which one would be ignored.
    fn check(&self) -> Result<(), Error> {
        let (plain, emitter, batch) = (Config::default(), &self.emitter, &self.emitter.batch);
        let differs = |one: Duration, two: Duration, default: Duration| !one.is_zero() && two != default && one != two;
        let unlike = |one: usize, two: usize, default: usize| one > 0 && two != default && one != two;
        let auth = &self.auth;
        let has_auth = !auth.headers.is_empty()
            || !auth.headers_ttl.is_zero()
            || !auth.public_key_hex.is_empty()
            || auth.signer.is_some();
        let elsewhere = self.destination.is_some();
        for (contradict, first, second) in [
            (self.retransmit_enabled && !emitter.retransmit, "retransmit_enabled", "emitter.retransmit = false"),
            (elsewhere && !self.endpoint.is_empty(), "destination", "endpoint"),
            (elsewhere && has_auth, "destination", "auth"),
            (elsewhere && self.tls.is_some(), "destination", "tls"),
            (elsewhere && self.insecure_connection, "destination", "insecure_connection"),
            (self.insecure_connection && self.tls.is_some(), "insecure_connection", "tls"),
            // Without a time to live nothing is signed, and requests would have no credentials.
            (auth.headers_ttl.is_zero() && auth.signer.is_some(), "auth.signer", "auth.headers_ttl = 0"),
            (
                differs(self.shutdown_timeout, emitter.shutdown_timeout, plain.shutdown_timeout),
                "shutdown_timeout",
                "emitter.shutdown_timeout",
            ),
            (
                differs(self.batch_interval, batch.batch_interval, plain.batch.batch_interval),
                "batch_interval",
                "emitter.batch.batch_interval",
            ),
            (
                differs(self.max_publish_timeout, batch.publish_timeout, plain.batch.publish_timeout),
                "max_publish_timeout",
                "emitter.batch.publish_timeout",
            ),
            (
                unlike(self.batch_size, batch.batch_size.get(), plain.batch.batch_size.get()),
                "batch_size",
                "emitter.batch.batch_size",
            ),
            (
                unlike(
                    self.max_concurrent_sends,
                    batch.max_concurrent_sends.get(),
                    plain.batch.max_concurrent_sends.get(),
                ),
                "max_concurrent_sends",
                "emitter.batch.max_concurrent_sends",
            ),
            (
                unlike(self.message_buffer_size, batch.message_buffer.get(), plain.batch.message_buffer.get()),
                "message_buffer_size",
                "emitter.batch.message_buffer",
            ),
            (
                unlike(self.max_request_bytes, batch.max_request_bytes, plain.batch.max_request_bytes),
                "max_request_bytes",
                "emitter.batch.max_request_bytes",
            ),
        ] {
            if contradict {
                return Err(Error::BothSet { first, second });
            }
        }
        Ok(())
    }
}

fn set(setting: &mut Duration, value: Duration) {
    if !value.is_zero() {
        *setting = value;
    }
}

fn set_count(setting: &mut NonZeroUsize, value: usize) {
    *setting = NonZeroUsize::new(value).unwrap_or(*setting);
}
