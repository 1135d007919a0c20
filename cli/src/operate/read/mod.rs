//! Commands that only read.

mod audit;
mod boxes;
mod doctor;
mod history;
mod members;
mod names;
mod operations;
mod show;
mod sources;
mod status;
mod why;

pub(crate) use audit::AuditArgs;
pub(crate) use boxes::BoxesArgs;
pub(crate) use doctor::DoctorArgs;
pub(crate) use history::HistoryArgs;
pub(crate) use members::MembersArgs;
pub(crate) use names::NamesArgs;
pub(crate) use operations::OperationsArgs;
pub(crate) use show::{ShowArgs, timers};
pub(crate) use sources::SourcesArgs;
pub(crate) use status::StatusArgs;
pub(crate) use why::WhyArgs;
