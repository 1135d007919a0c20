//! Every command that a document shows is one that this program accepts.

use std::path::Path;
use std::{fs, io};

use clap::Parser;
use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

use crate::Cli;

/// Documents besides those of `docs`.
const OTHERS: [&str; 3] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"];

/// Files that start the program.
const STARTERS: [&str; 2] = ["ops/compose.yaml", "ops/eventbox.service"];

/// A command as a document shows it.
#[derive(Debug, PartialEq)]
struct Shown {
    words: Vec<String>,
    /// Whether the command stands in a sentence, where it may lack its arguments: "`eventbox purge` deletes …".
    is_named: bool,
}

/// Returns the commands in a text of Markdown.
fn commands(text: &str) -> Vec<Shown> {
    let (mut found, mut fence) = (Vec::new(), None);
    for line in text.lines() {
        let line = line.trim_start();
        match (line.strip_prefix("```"), fence) {
            (Some(language), None) => fence = Some(language.trim()),
            (Some(_), Some(_)) => fence = None,
            (None, Some("sh" | "console")) => found.extend(command(line.strip_prefix("$ ").unwrap_or(line), false)),
            (None, Some(_)) => {}
            // Every second piece is between two backticks.
            (None, None) => found.extend(line.split('`').skip(1).step_by(2).filter_map(|code| command(code, true))),
        }
    }
    found
}

fn command(line: &str, is_named: bool) -> Option<Shown> {
    let line = line.strip_prefix("cargo run --release -- ").or_else(|| line.strip_prefix("eventbox "))?;
    let words = words(line);
    // A text with dots in place of words is no command.
    let is_whole = !words.is_empty() && !words.iter().any(|word| word.contains('…'));
    is_whole.then(|| Shown { words: [vec!["eventbox".to_owned()], words].concat(), is_named })
}

/// Returns the commands that a file of `ops` starts.
fn started(text: &str) -> Vec<Shown> {
    let of_compose =
        |line: &str| line.trim().strip_prefix("command: [")?.strip_suffix(']').map(|list| list.replace(',', ""));
    let of_systemd = |line: &str| line.strip_prefix("ExecStart=/usr/local/bin/eventbox ").map(str::to_owned);
    let lines = text.lines().filter_map(|line| of_compose(line).or_else(|| of_systemd(line)));
    lines.filter_map(|line| command(&format!("eventbox {line}"), false)).collect()
}

/// Splits a line as a shell does, up to a pipe, a redirection or a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for letter in line.chars() {
        match (letter, quote) {
            ('\'' | '"', None) => quote = Some(letter),
            (letter, Some(end)) if letter == end => quote = None,
            ('|' | '>' | '#' | '&', None) if word.is_empty() => return words,
            (' ', None) => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            (letter, _) => word.push(letter),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Returns whether only an argument or a value is missing at the end.
fn is_beginning(error: &Error) -> bool {
    match error.kind() {
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => true,
        ErrorKind::InvalidValue => {
            matches!(error.get(ContextKind::InvalidValue), Some(ContextValue::String(value)) if value.is_empty())
        }
        _ => false,
    }
}

#[test]
fn documents_show_commands_that_exist() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pages = OTHERS.map(|name| root.join(name)).to_vec();
    for entry in fs::read_dir(root.join("docs"))? {
        pages.push(entry?.path());
    }
    pages.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    let mut all = Vec::new();
    for page in pages {
        all.extend(commands(&fs::read_to_string(&page)?).into_iter().map(|shown| (page.clone(), shown)));
    }
    for starter in STARTERS.map(|name| root.join(name)) {
        let found = started(&fs::read_to_string(&starter)?);
        assert!(!found.is_empty(), "{} starts nothing", starter.display());
        all.extend(found.into_iter().map(|shown| (starter.clone(), shown)));
    }
    assert!(all.len() > 80, "only {} commands were found", all.len());
    let mut wrong = Vec::new();
    for (page, shown) in &all {
        match Cli::try_parse_from(&shown.words) {
            Err(error) if !(shown.is_named && is_beginning(&error)) => {
                wrong.push(format!("{}: {}: {}", page.display(), shown.words.join(" "), error.kind()));
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn commands_are_found_in_blocks_and_sentences() {
    let text = "Say `eventbox purge` or `purge`.\n```console\n$ eventbox pause a/1 --why \"b c\" > file\nPaused.\n```\n\
                ```rust\neventbox x\n```\n```sh\neventbox status   # all\n```\n`eventbox …`";
    let shown = |line: &[&str], is_named| Shown { words: line.iter().map(ToString::to_string).collect(), is_named };
    let expected = [
        shown(&["eventbox", "purge"], true),
        shown(&["eventbox", "pause", "a/1", "--why", "b c"], false),
        shown(&["eventbox", "status"], false),
    ];
    assert_eq!(commands(text), expected);
}
