//! Help, colours, and texts of senders.

use std::time::Duration;

use eventbox::Event;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::{emit, eventbox, fail, finish, on, order, run};
use crate::support::on_every_engine;

#[tokio::test]
async fn the_help_groups_the_commands() {
    for argument in ["--help", "-h"] {
        let help = run(&[argument]).await;
        for wanted in ["See what is there:", "Mend an eventbox:", "quarantine", "Options:", "--version", "Exit codes"] {
            assert!(help.done().contains(wanted), "{wanted} in {}", help.stdout);
        }
        assert!(!help.stdout.contains("demo-worker"), "{}", help.stdout);
    }
    for command in ["status", "dead", "migrate"] {
        let help = run(&[command, "--help"]).await;
        assert!(help.done().contains("Examples:") && help.stdout.contains("--database-url"), "{}", help.stdout);
    }
}

/// The demo's workers are started by a word that is no command.
#[tokio::test]
async fn a_hidden_command_is_not_suggested() {
    for typo in ["demo-work", "demo-worke", "demoworker"] {
        let refused = run(&[typo]).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(!refused.stderr.contains("demo-worker"), "{refused:?}");
    }
    assert!(run(&["statu"]).await.stderr.contains("'status'"));
}

on_every_engine! {
    async fn colours_are_for_terminals_without_no_color(db) {
        emit(db, Event::new("x")).await;
        fail(db, &order()).await;
        let url = db.url();
        let coloured = async |settings: &[(&str, &str)]| {
            let mut command = eventbox(&["status", "--database-url", &url]);
            command.envs(settings.iter().copied());
            finish(command).await.done().contains('\u{1b}')
        };
        assert!(!coloured(&[]).await, "colours in a pipe");
        assert!(coloured(&[("CLICOLOR_FORCE", "1")]).await);
        assert!(!coloured(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).await);
    }

    /// A sender's text cannot control the terminal of the operator.
    async fn control_characters_are_escaped(db) {
        emit(db, Event::new("\u{1b}[2J\u{9b}x").named("n\u{7}\u{202e}")).await;
        let page = on(db, &["show", "order/7", "--values"]).await;
        assert!(page.done().contains(r"\u{1b}[2J\u{9b}x") && page.stdout.contains(r"n\u{7}\u{202e}"), "{page:?}");
        let json = on(db, &["show", "order/7", "--json"]).await;
        assert!(!json.done().chars().any(|c| c.is_control() || c == '\u{202e}'), "{json:?}");
        assert_eq!(json.json()["events"][0]["name"], "n\u{7}\u{202e}");
    }

    async fn status_is_shown_again_and_again(db) {
        let url = db.url();
        let mut child = eventbox(&["status", "--watch", "1", "--json", "--database-url", &url]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut next = async || {
            let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap();
            serde_json::from_str::<serde_json::Value>(&line.unwrap()).unwrap()
        };
        assert_eq!(next().await["kinds"].as_array().unwrap().len(), 0);
        emit(db, Event::new("x")).await;
        while next().await["kinds"].as_array().unwrap().is_empty() {}
        let pid = child.id().unwrap().to_string();
        assert!(tokio::process::Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
        let ended = tokio::time::timeout(Duration::from_secs(60), child.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), Some(130));
    }
}
