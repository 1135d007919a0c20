//! The whole demo on both engines, with known figures.

use serde_json::json;

use super::{finish, some_flights};
use crate::support::{TestDb, on_every_engine};

/// Checks the figures of the real file. They do not depend on the order of the workers.
#[track_caller]
fn assert_facts(report: &serde_json::Value) {
    for (name, wanted) in [
        ("rows", json!(27_004)),
        ("without_recipient", json!(155)),
        ("recipients", json!(3_151)),
        ("emitted", json!(26_849)),
        ("resent", json!(1_342)),
        ("duplicates", json!(1_342)),
        ("events_consumed", json!(2 * 26_849)),
        ("published", json!(1_852)),
        ("dead_lettered", json!(0)),
        ("legs", json!(26_483)),
        ("cancelled", json!(366)),
        ("delay_minutes", json!(265_801)),
        ("airports", json!({"EWR": 9_859, "JFK": 9_090, "LGA": 7_900})),
    ] {
        assert_eq!(report[name], wanted, "{name} of {report}");
    }
    assert!(report["turns"].as_i64().unwrap() >= 3_151, "{report}");
}

/// Creates an empty database for a run. The demo creates its own tables.
async fn empty<B: crate::support::TestEngine>(db: &TestDb<B>) -> TestDb<B> {
    let _ = db;
    TestDb::empty("demo").await
}

on_every_engine! {
    /// The real file and eight workers give the known figures.
    async fn the_real_file_is_verified(db) {
        let database = empty(db).await;
        let report = finish(&["--json", "--workers", "8", "--database-url", &database.url()]).await.verified();
        assert_facts(&report);
        database.remove().await;
    }

    /// A kept database can be read. A second run refuses it without --resume, and a resumed run changes nothing.
    async fn a_kept_database_stays(db) {
        let directory = tempfile::tempdir().unwrap();
        let input = some_flights(directory.path(), 500);
        let database = empty(db).await;
        let args = ["--json", "--input", input.to_str().unwrap(), "--database-url", &database.url()];
        let first = finish(&[&args[..], &["--keep", "--resend", "50"]].concat()).await.verified();
        let half = first["emitted"].as_i64().map(|n| n / 2);
        assert_eq!((first["resent"].as_i64(), first["duplicates"].as_i64()), (half, first["resent"].as_i64()));
        assert_eq!(database.count("eventbox_event").await + database.count("eventbox_outbox").await, 0);
        assert_eq!(database.count("demo_aircraft").await + 3, first["recipients"].as_i64().unwrap());

        let again = finish(&args).await;
        assert_eq!((again.code, again.stdout.as_str()), (Some(2), ""));
        assert!(again.stderr.contains("--resume"), "{}", again.stderr);

        let mut resumed = finish(&[&args[..], &["--keep", "--resume"]].concat()).await.verified();
        let mut first = first;
        for report in [&mut resumed, &mut first] {
            report["seconds"] = json!(null);
            report["contention"] = json!(null);
            // A message is sent again when its answer is late.
            report["ingress_duplicates"] = json!(null);
        }
        assert_eq!(resumed, first);

        // Without --keep, the demo removes what it created.
        finish(&[&args[..], &["--resume"]].concat()).await.verified();
        let again = finish(&args).await.verified();
        assert_eq!(again["legs"], first["legs"]);
        database.remove().await;
    }
}
