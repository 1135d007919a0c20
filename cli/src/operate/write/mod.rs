//! Commands that change one recipient, or one kind of them.

mod emit;
mod forget;
mod pause;
mod purge;
mod quarantine;
mod state;
mod timers;

pub(crate) use emit::EmitArgs;
pub(crate) use forget::ForgetArgs;
pub(crate) use pause::{PauseArgs, ResumeArgs, RetryArgs};
pub(crate) use purge::PurgeArgs;
pub(crate) use quarantine::QuarantineArgs;
pub(crate) use state::{StateArgs, content};
pub(crate) use timers::TimersArgs;
