//! The meaning of a code: the rows of the table, and the search for a row.

/// Classes of errors, by what a caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// The caller reads again and tries again.
    Contention,
    /// The database is away or too busy: try again later.
    Transient,
    /// Trying again does not help.
    Permanent,
}

/// What an error is blamed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The event, or the decision about it: the database will never take this data.
    Event,
    /// The recipient's code, or the schema and the rights that it needs. The error is the same for every event of the
    /// kind.
    Code,
    /// The environment: the same statement works at another time.
    Environment,
}

/// Ruling about a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ruling {
    pub(super) class: Class,
    pub(super) blame: Blame,
    /// Whether the connection is closed and never goes back to the pool.
    pub(super) closes: bool,
    /// Whether the environment failed one statement, so that others may work meanwhile.
    pub(super) is_of_one_statement: bool,
}

/// Another writer came first, or the server asks to try again.
pub(super) const CONTENTION: Ruling = ruling(Class::Contention, Blame::Environment);
/// The environment failed, and the connection is still good.
pub(super) const TRANSIENT: Ruling = ruling(Class::Transient, Blame::Environment);
/// The same for one statement, while others work.
pub(super) const HINDERED: Ruling = Ruling { is_of_one_statement: true, ..TRANSIENT };
/// The database will never take the data.
pub(super) const DATA: Ruling = ruling(Class::Permanent, Blame::Event);
/// The schema, the rights or the statement are wrong, for every event alike.
pub(super) const SCHEMA: Ruling = ruling(Class::Permanent, Blame::Code);
/// The deployment is wrong: the code of a recipient is not involved.
pub(super) const DEPLOYMENT: Ruling = ruling(Class::Permanent, Blame::Environment).closing();

const fn ruling(class: Class, blame: Blame) -> Ruling {
    Ruling { class, blame, closes: false, is_of_one_statement: false }
}

impl Ruling {
    /// Returns the same ruling, with a connection that must be closed.
    pub(super) const fn closing(self) -> Self {
        Ruling { closes: true, ..self }
    }
}

/// A row of the table. The first row whose code is the start of an error's code applies.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) code: &'static str,
    #[cfg_attr(not(test), allow(dead_code, reason = "docs/errors.md is held to it by a test"))]
    pub(super) what: &'static str,
    pub(super) ruling: Ruling,
}

pub(super) const fn rule(code: &'static str, what: &'static str, ruling: Ruling) -> Rule {
    Rule { code, what, ruling }
}

#[cfg(test)]
impl Rule {
    /// Returns the row of docs/errors.md.
    pub(super) fn line(&self) -> String {
        let meaning = match (self.ruling.class, self.ruling.blame) {
            (Class::Contention, _) => "contention",
            (Class::Transient, _) => "transient",
            (Class::Permanent, Blame::Event) => "permanent, by data",
            (Class::Permanent, _) => "permanent, by schema or rights",
        };
        let blamed = match self.ruling.blame {
            Blame::Event => "the event",
            Blame::Code => "the code",
            Blame::Environment => "none",
        };
        let connection = if self.ruling.closes { "closed" } else { "kept" };
        format!("| `{}` | {} | {meaning} | {blamed} | {connection} |", self.code, self.what)
    }
}
