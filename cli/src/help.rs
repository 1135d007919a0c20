//! The first page of help, with its commands in groups.

use std::fmt::Write as _;

use clap::Command;
use clap::builder::Styles;

/// Headings of the commands in the help, with the names of their commands.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "See what is there",
        &["status", "boxes", "show", "why", "history", "names", "timers", "operations", "audit", "doctor"],
    ),
    ("Mend an eventbox", &["emit", "pause", "resume", "retry", "quarantine", "purge", "forget", "state"]),
    ("Messages, dead letters, workers and peers", &["dead", "outbox", "members", "shards", "sources", "peer"]),
    ("Set up", &["serve", "migrate", "completions", "man"]),
    ("Try and measure", &["demo", "bench", "ingress"]),
];

/// Puts the subcommands under headings of their own, which clap cannot do by itself.
pub(crate) fn grouped(command: Command) -> Command {
    let styles = Styles::styled();
    let (header, literal) = (styles.get_header(), styles.get_literal());
    let longest = command.get_subcommands().map(|subcommand| subcommand.get_name().len()).max().unwrap_or_default();
    let mut page = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (heading, names) in GROUPS {
        // Writing into a String cannot fail.
        let _ = writeln!(page, "\n{header}{heading}:{header:#}");
        for subcommand in names.iter().filter_map(|name| command.find_subcommand(name)) {
            let about = subcommand.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(page, "  {literal}{:<longest$}{literal:#}  {about}", subcommand.get_name());
        }
    }
    let _ = write!(page, "\n{header}Options:{header:#}\n{{options}}{{after-help}}");
    command.help_template(page)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::Cli;

    #[test]
    fn each_command_is_in_one_group() {
        let command = Cli::command();
        let mut named: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut defined: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        named.sort_unstable();
        defined.sort_unstable();
        assert_eq!(named, defined);
    }

    #[test]
    fn the_definitions_are_consistent() {
        grouped(Cli::command()).debug_assert();
    }

    /// Each command explains itself, and has examples.
    #[test]
    fn each_command_has_a_description_and_examples() {
        fn check(command: &Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let is_part_of_another = path.split(' ').count() > 2;
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty(), "{path} has no description");
            assert!(is_part_of_another || about.len() <= 85, "a description of more than one line: {path}: {about}");
            if command.has_subcommands() {
                command.get_subcommands().for_each(|subcommand| check(subcommand, &path));
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(is_part_of_another || help.contains("Examples:\n  eventbox"), "{path} has no examples");
        }
        Cli::command().get_subcommands().for_each(|command| check(command, "eventbox"));
    }
}
