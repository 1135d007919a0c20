//! The start refuses a setting that cannot work, by its name.

use std::time::Duration;

use eventbox::Error;
use eventbox::runtime::{Runtime, RuntimeConfig};

use super::{Tally, config, leases, tallying};
use crate::support::{TestDb, on_every_engine};

on_every_engine! {
    async fn wrong_settings_are_refused_by_name(db) {
        type Change = fn(&mut RuntimeConfig);
        let wrong: [(&str, Change); 12] = [
            ("poll_interval is zero", |config| config.poll_interval = Duration::ZERO),
            ("min_poll_interval is longer", |config| config.min_poll_interval = Duration::from_secs(60)),
            ("backoff.cap", |config| config.backoff.cap = Duration::ZERO),
            ("shard_limit is 300", |config| config.shard_limit = 300.try_into().unwrap()),
            ("fail_backoff.cap", |config| config.fail_backoff.cap = Duration::ZERO),
            ("zone", |config| config.zone = "x".repeat(201)),
            ("endpoint: \"10.0.0.7\" is no URI", |config| config.endpoint = Some("10.0.0.7".to_owned())),
            ("labels", |config| config.labels = [("id".to_owned(), "7".to_owned())].into()),
            ("turn_deadline is zero", |config| config.turn_deadline = Duration::ZERO),
            ("leases.lease_ttl", |config| {
                config.leases = Some({
                    let mut leases = leases();
                    leases.lease_ttl = leases.renew_interval;
                    leases
                });
            }),
            ("leases.check_interval is longer", |config| {
                config.leases = Some({
                    let mut leases = leases();
                    leases.check_interval = Duration::from_secs(5);
                    leases
                });
            }),
            ("leases.check_interval or leases.renew_interval is zero", |config| {
                config.leases = Some({
                    let mut leases = leases();
                    leases.check_interval = Duration::ZERO;
                    leases
                });
            }),
        ];
        for (words, change) in wrong {
            let mut config = config();
            change(&mut config);
            let error = tallying(db.open(4)).config(config).start().await.unwrap_err();
            assert!(matches!(error, Error::Setup { .. }) && error.to_string().contains(words), "{words}: {error}");
        }
        let error = tallying(db.open(2)).start().await.unwrap_err();
        assert!(error.to_string().contains("max_connections is 2"), "{error}");
    }

    async fn wrong_kinds_are_refused(db) {
        let error = Runtime::builder(db.open(4)).start().await.unwrap_err();
        assert!(error.to_string().contains("no kind is registered"), "{error}");
        let error = tallying(db.open(4)).reducer("tally", Tally).start().await.unwrap_err();
        assert!(error.to_string().contains("the kind tally is registered twice"), "{error}");
        let error = tallying(db.open(4)).reducer("ta/lly", Tally).start().await.unwrap_err();
        assert!(error.to_string().contains("kind"), "{error}");
    }

    async fn a_database_without_the_tables_is_refused(db) {
        let empty = TestDb::<Engine>::empty("runtime").await;
        let error = tallying(empty.open(4)).start().await.unwrap_err();
        assert!(matches!(error, Error::Setup { .. }) && error.to_string().contains("migrate"), "{error}");
        empty.remove().await;
        drop(db.open(1));
    }
}
