//! Errors for a person: one line on standard error, with each cause once.

use std::error::Error as StdError;
use std::io::{self, Write};

/// Prints the error on standard error. A closed standard error is ignored.
pub(crate) fn say_error(error: &(dyn StdError + 'static)) {
    let _ = writeln!(io::stderr(), "eventbox: {}", on_one_line(error));
}

/// Joins the error and its causes with colons, without a cause that repeats the text before it.
pub(crate) fn on_one_line(error: &(dyn StdError + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line.replace('\n', " ")
}

/// Returns whether the reader of the output has closed the pipe.
pub(crate) fn is_broken_pipe(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
