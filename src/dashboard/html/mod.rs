//! The parts of which pages are made. Templates escape whatever they show.

mod drawings;
pub(crate) mod forms;
mod layout;
pub(crate) mod parts;
pub(crate) mod text;

pub(crate) use drawings::{Holders, lease_end, member_name, shard_map, sparkline};
pub(crate) use layout::{Sheet, Tab, answer, fail, json, page};
