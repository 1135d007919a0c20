//! Migrations, completions and the manual.

use crate::support::{TestDb, TestEngine, layout};

use super::{on, run};

async fn tables_are_made_once<B: TestEngine>() {
    let db = TestDb::<B>::empty("tables_are_made_once").await;
    db.run("SELECT 1").await;
    let before = on(&db, &["migrate", "status", "--json"]).await;
    assert_eq!(before.code, Some(1), "{before:?}");
    let migrations: serde_json::Value = serde_json::from_str(&before.stdout).unwrap();
    let number = migrations.as_array().unwrap().len();
    assert!(number > 0 && migrations.as_array().unwrap().iter().all(|one| one["is_applied"] == false), "{migrations}");
    assert_eq!(on(&db, &["migrate", "up"]).await.done(), format!("Applied {number} migrations."));
    assert_eq!(db.count("eventbox_event").await, 0);
    let after = on(&db, &["migrate", "status"]).await;
    assert!(after.done().contains("applied") && !after.stdout.contains("not applied"), "{after:?}");
    assert_eq!(on(&db, &["migrate", "up"]).await.done(), "The tables were current already.");

    // Another tool can apply the printed SQL.
    let sql = on(&db, &["migrate", "print"]).await.done().to_owned();
    assert_eq!(run(&["migrate", "print", "--engine", B::FOLDER]).await.done(), sql);
    let printed = TestDb::<B>::empty("the_sql_is_printed").await;
    printed.run(sql).await;
    assert_eq!(printed.count("eventbox_event").await, 0);
    printed.remove().await;
    db.remove().await;
}

#[tokio::test]
async fn tables_are_made_once_on_postgres() {
    tables_are_made_once::<sqlx::Postgres>().await;
}

#[tokio::test]
async fn tables_are_made_once_on_sqlite() {
    tables_are_made_once::<sqlx::Sqlite>().await;
}

async fn no_tables_are_made_without_a_cluster<B: TestEngine>(wanted: &str) {
    let db = TestDb::<B>::empty("no_tables_are_made").await;
    db.run("SELECT 1").await;
    let refused = on(&db, &["migrate", "up", "--citus-schema"]).await;
    assert!(refused.refused().contains(wanted), "{refused:?}");
    let status = on(&db, &["migrate", "status", "--json"]).await;
    assert!(!status.stdout.contains("\"is_applied\": true"), "{status:?}");
    db.remove().await;
}

#[tokio::test]
async fn no_tables_are_made_without_a_cluster_on_postgres() {
    if layout::is_citus() {
        return;
    }
    no_tables_are_made_without_a_cluster::<sqlx::Postgres>("CREATE EXTENSION citus").await;
}

#[tokio::test]
async fn no_tables_are_made_without_a_cluster_on_sqlite() {
    no_tables_are_made_without_a_cluster::<sqlx::Sqlite>("SQLite keeps all tables in one file").await;
}

#[tokio::test]
async fn the_roles_are_printed_for_postgres() {
    let roles = run(&["migrate", "print", "--engine", "postgres", "--roles"]).await;
    assert!(roles.done().contains("eventbox_reader"), "{roles:?}");
    let none = run(&["migrate", "print", "--engine", "sqlite", "--roles"]).await;
    assert!(none.refused().contains("SQLite has no roles"), "{none:?}");
}

#[tokio::test]
async fn completions_and_the_manual_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]).await;
        assert!(script.done().contains("quarantine") && !script.stdout.contains("demo-worker"), "{shell}");
    }
    let page = run(&["man"]).await;
    assert!(page.done().contains(".TH eventbox 1") && page.stdout.contains("quarantine"), "{page:?}");
    let directory = tempfile::tempdir().unwrap();
    run(&["man", "--directory", directory.path().to_str().unwrap()]).await.done();
    let page = std::fs::read_to_string(directory.path().join("eventbox-dead-replay.1")).unwrap();
    assert!(page.contains("idempotency key"), "{page}");
}
