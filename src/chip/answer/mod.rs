//! What a server answered, and what follows: the classes of errors, what a refusal is about, when to ask again.

pub(crate) mod outcome;
pub(crate) mod refusal;
pub(crate) mod retry_hint;
