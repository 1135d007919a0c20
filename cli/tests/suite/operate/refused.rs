//! Refusals: one line, the cause once, exit code 2.

use eventbox::Event;
use sqlx::{Postgres, Sqlite};

use super::{emit, eventbox, finish, on, run};
use crate::support::{TestDb, TestEngine, on_every_engine};

/// A server of which nothing listens.
const NO_SERVER: &str = "postgres://nobody:secret@127.0.0.1:1/none";

#[tokio::test]
async fn databases_that_are_not_there_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("orders.sqlite3");
    let missing = missing.to_str().unwrap();
    let text = directory.path().join("text");
    std::fs::write(&text, "this is no database, and long enough to be looked at as one: ".repeat(100)).unwrap();
    for (url, wanted) in [
        (NO_SERVER, "cannot connect to Postgres at 127.0.0.1:1"),
        (missing, "there is no file"),
        (&format!("sqlite://{missing}"), "there is no file"),
        (text.to_str().unwrap(), "not a database"),
        ("mysql://me:secret@localhost/orders", "postgres://USER@HOST/DATABASE"),
        ("postgres://host:notaport/x", "postgres://USER@HOST/DATABASE"),
    ] {
        for command in [&["status"][..], &["doctor"], &["migrate", "up"], &["purge", "order/7", "--yes"]] {
            if command == ["doctor"] && wanted == "not a database" {
                continue;
            }
            let refused = run(&[command, &["--database-url", url]].concat()).await;
            assert!(refused.refused().contains(wanted), "{url} {command:?}: {refused:?}");
            assert!(!refused.stderr.contains("secret"), "{refused:?}");
        }
    }
    assert!(!std::path::Path::new(missing).exists(), "no command creates a file");
    assert!(run(&["status"]).await.refused().contains("give --database-url, set DATABASE_URL"));
}

async fn other_versions<B: TestEngine>() {
    let db = TestDb::<B>::empty("other_versions_are_refused").await;
    db.run("SELECT 1").await;
    let missing = on(&db, &["status"]).await;
    assert!(missing.refused().contains("create them with `eventbox migrate up`"), "{missing:?}");
    let doctor = on(&db, &["doctor"]).await;
    assert_eq!(doctor.code, Some(1), "{doctor:?}");
    eventbox::migrate(&db.pool).await.unwrap();
    db.run(
        "INSERT INTO eventbox_migration (version, description, success, checksum, execution_time)
         SELECT 9999, 'from the future', success, checksum, 0 FROM eventbox_migration LIMIT 1",
    )
    .await;
    for command in [&["status"][..], &["migrate", "up"], &["emit", "order/7", "x"]] {
        let newer = on(&db, command).await;
        assert!(newer.refused().contains("newer eventbox"), "{newer:?}");
        assert_eq!(newer.stderr.matches("9999").count(), 1, "{newer:?}");
    }
    db.run("DELETE FROM eventbox_migration WHERE version > 1").await;
    let older = on(&db, &["status"]).await;
    assert!(older.refused().contains("update them with `eventbox migrate up`"), "{older:?}");
    db.remove().await;
}

#[tokio::test]
async fn other_versions_are_refused_on_postgres() {
    other_versions::<Postgres>().await;
}

#[tokio::test]
async fn other_versions_are_refused_on_sqlite() {
    other_versions::<Sqlite>().await;
}

#[tokio::test]
async fn a_wrong_configuration_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("eventbox.toml");
    for (text, wanted) in [
        ("yes = true\ndatabase = 'x'\n", "line 2: unknown field `database`"),
        ("format = 'xml'\n", "xml"),
        ("yes = 'perhaps'\n", "line 1"),
        ("yes = \n", "line 1"),
    ] {
        std::fs::write(&path, text).unwrap();
        let mut command = eventbox(&["status"]);
        command.current_dir(directory.path());
        let refused = finish(command).await;
        assert!(refused.refused().contains(wanted) && refused.stderr.contains("eventbox.toml"), "{text}: {refused:?}");
    }
    let missing = run(&["status", "--config", "/no/such/file.toml"]).await;
    assert!(missing.refused().contains("/no/such/file.toml"), "{missing:?}");
}

/// clap refuses these with its usage, which has several lines.
#[tokio::test]
async fn wrong_arguments_are_refused() {
    for (args, wanted) in [
        (&["show", "order"][..], "write kind/key"),
        (&["purge", "order/7", "first"], "which is a UUID"),
        (&["emit", "order/7", "x", "--in", "soon"], "soon"),
        (&["emit", "order/7", "x", "--in", "5m", "--at", "2100-01-01T00:00:00Z"], "cannot be used with"),
        (&["pause"], "required"),
        (&["pause", "order/7", "--kind", "order"], "cannot be used with"),
        (&["pause", "order/7", "--source", "shop"], "cannot be used with"),
        (&["pause", "--kind", "order", "--all-messages"], "cannot be used with"),
        (&["pause", "--all-messages", "--type", "order.paid"], "cannot be used with"),
        (&["dead", "show", "7"], "SHARD-UUID"),
        (&["dead", "list", "--since", "soon"], "a time ago"),
        (&["boxes", "--paused", "--failing"], "cannot be used with"),
        (&["state", "set", "order/7"], "required"),
        (&["status", "--json", "--format", "table"], "cannot be used with"),
        (&["shards", "release", "256"], "256"),
        (&["shards", "apply", "0-256"], "256"),
        (&["shards", "apply", "7", "--label", "team"], "NAME=VALUE"),
        (&["shards", "apply", "7", "--reset", "--disable"], "cannot be used with"),
        (&["shards", "unassign"], "required"),
    ] {
        let refused = run(args).await;
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{args:?}: {refused:?}");
        assert!(refused.stderr.contains(wanted), "{args:?}: {}", refused.stderr);
    }
}

on_every_engine! {
    /// Without a terminal nobody can answer, so nothing is changed.
    async fn destructive_commands_need_an_answer(db) {
        let id = emit(db, Event::new("x")).await.to_string();
        for args in [
            &["purge", "order/7"][..],
            &["purge", "order/7", &id],
            &["quarantine", "order/7", &id, "--reason", "bad"],
        ] {
            let refused = on(db, args).await;
            assert!(refused.refused().contains("give --yes to go on, or --dry-run"), "{refused:?}");
        }
        assert_eq!((db.count("eventbox_event").await, db.count("eventbox_dead_letter").await), (1, 0));
    }
}
