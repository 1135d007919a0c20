//! The declaration of peers: what connects where, how bytes become events, and which recipients get them.

pub(super) mod builder;
pub(super) mod describe;
pub(super) mod file;
pub(super) mod limits;
pub(super) mod mapping;
pub(super) mod reconnect;
pub(super) mod template;
