//! Commands that only read.

mod boxes;
mod doctor;
mod members;
mod names;
mod operations;
mod show;
mod status;
mod why;

pub(crate) use boxes::BoxesArgs;
pub(crate) use doctor::DoctorArgs;
pub(crate) use members::MembersArgs;
pub(crate) use names::NamesArgs;
pub(crate) use operations::OperationsArgs;
pub(crate) use show::{ShowArgs, timers};
pub(crate) use status::StatusArgs;
pub(crate) use why::WhyArgs;
