#![allow(dead_code, unused_imports, clippy::all)]
#[path = "../suite/peer/mod.rs"]
mod peer;
#[path = "../suite/support/mod.rs"]
mod support;
mod runtime {
    use eventbox::runtime::*;
    use std::time::Duration;
    pub(crate) fn leases() -> LeaseConfig {
        let mut leases = LeaseConfig::default();
        (leases.lease_ttl, leases.renew_interval, leases.check_interval) =
            (Duration::from_millis(900), Duration::from_millis(200), Duration::from_millis(50));
        leases
    }
    pub(crate) fn config() -> RuntimeConfig {
        let mut config = RuntimeConfig::default();
        config.poll_interval = Duration::from_millis(100);
        config.min_poll_interval = Duration::from_millis(5);
        config.leases = Some(leases());
        config
    }
}
