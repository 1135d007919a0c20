//! Answers of a server: the classes of errors, the subject of a refusal, the time of a retry.

pub(crate) mod outcome;
pub(crate) mod refusal;
pub(crate) mod retry_hint;
