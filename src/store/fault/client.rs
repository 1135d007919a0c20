//! The rulings about errors that were made on our side of the connection: by the driver, the pool, or the network.

use super::ruling::{DATA, DEPLOYMENT, Rule, Ruling, SCHEMA, TRANSIENT, rule};

/// Beginning of the driver's text that a column has another type than the code expects.
const OTHER_TYPE: &str = "mismatched types";

/// By the name of the driver's error.
pub(super) static CLIENT: &[Rule] = &[
    rule("Io", "the network broke, or a connection was refused", TRANSIENT.closing()),
    rule("Tls", "TLS could not be agreed on", TRANSIENT.closing()),
    rule("Protocol", "the other side does not speak the database's language", TRANSIENT.closing()),
    rule("WorkerCrashed", "the thread or task of the connection ended", TRANSIENT.closing()),
    rule("PoolTimedOut", "no connection was free in time, or none could be opened", TRANSIENT),
    rule("PoolClosed", "the pool was closed", TRANSIENT),
    rule("BeginFailed", "a transaction did not begin as the driver expects", TRANSIENT.closing()),
    rule("InvalidSavePointStatement", "the driver has lost count of the transactions", TRANSIENT.closing()),
    rule("Configuration", "the address or the options are wrong", DEPLOYMENT),
    rule("ConfigFile", "the driver's configuration file is wrong", DEPLOYMENT),
    rule("Migrate", "a migration failed", SCHEMA),
    rule("TypeNotFound", "no such type", SCHEMA),
    rule("ColumnNotFound", "no such column in the answer", SCHEMA),
    rule("ColumnIndexOutOfBounds", "fewer columns than were read", SCHEMA),
    rule("ColumnType", "a column has another type than the code expects", SCHEMA),
    rule("ColumnDecode", "a value of the answer cannot be read", DATA),
    rule("RowNotFound", "a row was expected, and there is none", DATA),
    rule("InvalidArgument", "an argument that the driver does not take", DATA),
    rule("Encode", "a value cannot be encoded", DATA),
    rule("Decode", "a value cannot be decoded", DATA),
    rule("Other", "any other error of the driver", TRANSIENT.closing()),
];

/// Returns the ruling about an error of the driver that came from no server.
pub(super) fn of_client(error: &sqlx::Error) -> Ruling {
    let name = name_of(error);
    CLIENT.iter().find(|rule| rule.code == name).map_or(TRANSIENT.closing(), |rule| rule.ruling)
}

/// Returns whether the server may have run the statement.
pub(super) fn loses_the_answer(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed)
}

fn name_of(error: &sqlx::Error) -> &'static str {
    match error {
        sqlx::Error::Io(_) => "Io",
        sqlx::Error::Tls(_) => "Tls",
        sqlx::Error::Protocol(_) => "Protocol",
        sqlx::Error::WorkerCrashed => "WorkerCrashed",
        sqlx::Error::PoolTimedOut => "PoolTimedOut",
        sqlx::Error::PoolClosed => "PoolClosed",
        sqlx::Error::BeginFailed => "BeginFailed",
        sqlx::Error::InvalidSavePointStatement => "InvalidSavePointStatement",
        sqlx::Error::Configuration(_) => "Configuration",
        sqlx::Error::ConfigFile(_) => "ConfigFile",
        sqlx::Error::Migrate(_) => "Migrate",
        sqlx::Error::TypeNotFound { .. } => "TypeNotFound",
        sqlx::Error::ColumnNotFound(_) => "ColumnNotFound",
        sqlx::Error::ColumnIndexOutOfBounds { .. } => "ColumnIndexOutOfBounds",
        // The driver says this only in a text.
        sqlx::Error::ColumnDecode { source, .. } if source.to_string().starts_with(OTHER_TYPE) => "ColumnType",
        sqlx::Error::ColumnDecode { .. } => "ColumnDecode",
        sqlx::Error::RowNotFound => "RowNotFound",
        sqlx::Error::InvalidArgument(_) => "InvalidArgument",
        sqlx::Error::Encode(_) => "Encode",
        sqlx::Error::Decode(_) => "Decode",
        _ => "Other",
    }
}
