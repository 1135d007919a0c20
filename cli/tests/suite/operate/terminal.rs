//! A person at a terminal: questions, the width of tables, colours.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use eventbox::Event;
use nix::pty::{Winsize, openpty};

use super::{emit, on, order};
use crate::support::{TestDb, TestEngine, on_every_engine};

/// Runs a command in a terminal of its own, types a text, and returns the exit code and everything on the terminal.
async fn typed<B: TestEngine>(
    db: &TestDb<B>,
    columns: u16,
    text: &'static str,
    args: &[&str],
) -> (Option<i32>, String) {
    let size = Winsize { ws_row: 50, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    let slave = || Stdio::from(terminal.slave.try_clone().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_eventbox"));
    command.args(args).args(["--database-url", &db.url()]).env("TERM", "xterm");
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "RUST_LOG"] {
        command.env_remove(name);
    }
    let mut child = command.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
    // The last copies of this side must close, so that reading ends with the process.
    drop((command, terminal.slave));
    let mut master = File::from(terminal.master);
    let work = move || {
        master.write_all(text.as_bytes()).unwrap();
        let (mut shown, mut bytes) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = master.read(&mut bytes) {
            shown.extend_from_slice(&bytes[..read]);
        }
        (child.wait().unwrap().code(), String::from_utf8_lossy(&shown).into_owned())
    };
    tokio::task::spawn_blocking(work).await.unwrap()
}

on_every_engine! {
    async fn a_person_is_asked(db) {
        emit(db, Event::new("x")).await;
        for answer in ["n\n", "\n", "what\n"] {
            let (code, shown) = typed(db, 100, answer, &["purge", "order/7"]).await;
            assert_eq!(code, Some(1), "{shown}");
            assert!(shown.contains("This deletes 1 event of order/7. Go on? [y/N]"), "{shown}");
            assert!(shown.contains("Nothing was changed."), "{shown}");
            assert_eq!(db.count("eventbox_event").await, 1);
        }
        let (code, shown) = typed(db, 100, "y\n", &["purge", "order/7"]).await;
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.contains("Deleted 1 event of order/7."), "{shown}");
        assert_eq!(db.count("eventbox_event").await, 0);
    }

    async fn the_end_of_the_input_is_no_yes(db) {
        emit(db, Event::new("x")).await;
        let (code, shown) = typed(db, 100, "\u{4}", &["purge", "order/7"]).await;
        assert_eq!(code, Some(1), "{shown}");
        assert_eq!(db.count("eventbox_event").await, 1);
    }

    async fn tables_fit_the_terminal(db) {
        let name = "a long name of many words that does not fit into one line of a terminal";
        emit(db, Event::new("x").named(name)).await;
        let (code, shown) = typed(db, 80, "", &["show", "order/7"]).await;
        assert_eq!(code, Some(0), "{shown}");
        let plain = console::strip_ansi_codes(&shown).into_owned();
        let widest = plain.lines().map(|line| line.trim_end().chars().count()).max().unwrap();
        assert!(widest <= 80, "{widest} columns: {plain}");
        assert!(shown.contains('\u{1b}'), "no colours on a terminal: {shown}");
        let piped = on(db, &["show", "order/7"]).await;
        assert!(piped.done().contains(name), "a pipe has no width: {piped:?}");
    }

    /// Columns without content are left out, and words of the header are never broken.
    async fn the_status_fits_eighty_columns(db) {
        emit(db, Event::new("x")).await;
        let bad = emit(db, Event::new("x")).await;
        eventbox::admin::quarantine(&db.pool, &order(), &[bad], "bad").await.unwrap();
        let (code, shown) = typed(db, 80, "", &["status"]).await;
        assert_eq!(code, Some(0), "{shown}");
        let plain = console::strip_ansi_codes(&shown).into_owned();
        let titles: Vec<&str> = plain.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(titles, ["kind", "waiting", "oldest", "quarantined", "workers", "remarks"], "{plain}");
        assert!(plain.lines().all(|line| line.trim_end().chars().count() <= 80), "{plain}");
    }

    async fn json_on_a_terminal_has_lines(db) {
        let (code, shown) = typed(db, 80, "", &["status", "--json"]).await;
        assert_eq!(code, Some(0), "{shown}");
        assert!(shown.lines().count() > 5 && serde_json::from_str::<serde_json::Value>(&shown).is_ok(), "{shown}");
    }
}
