//! Runs the user's code: a panic or an endless wait in it becomes an error of its recipient alone.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use sqlx::Pool;
use tokio::time::{Instant, timeout_at};

use crate::error::{BoxError, Error, Result};
use crate::eventbox::decide::transition::panic_text;
use crate::recipient::Recipient;
use crate::store::{Backend, Class, class_of, while_alive};

/// Time limit of the user's code in one attempt.
pub(crate) struct Guard<'a> {
    to: &'a Recipient,
    limit: Duration,
    began: Instant,
    deadline: Instant,
}

impl<'a> Guard<'a> {
    /// Starts the time limit now.
    pub(crate) fn new(to: &'a Recipient, limit: Duration) -> Self {
        Guard::since(to, limit, Instant::now())
    }

    /// Starts the time limit at an earlier time, which the recipients of a round share.
    pub(crate) fn since(to: &'a Recipient, limit: Duration, began: Instant) -> Self {
        Guard { to, limit, began, deadline: began + limit }
    }

    /// Returns how long ago the attempt began.
    pub(crate) fn age(&self) -> Duration {
        Instant::now().saturating_duration_since(self.began)
    }

    /// Runs work of several steps until the deadline.
    pub(crate) async fn within<T>(
        &self,
        attempt: impl Fn() -> String,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        match timeout_at(self.deadline, work).await {
            Ok(done) => done,
            Err(_) => Err(Error::Deadline { attempt: attempt(), limit: self.limit }),
        }
    }

    /// Runs one step; its error is in the class of its cause, so that a deadlock in a side effect is contention.
    pub(crate) async fn run<T>(&self, step: &str, call: impl Future<Output = Result<T, BoxError>>) -> Result<T> {
        let attempt = || format!("{step} of {}", self.to);
        // The attempt drops all values that a panic left half changed; no code uses them again.
        match timeout_at(self.deadline, AssertUnwindSafe(call).catch_unwind()).await {
            Ok(Ok(answer)) => answer.map_err(|error| failed(attempt(), error)),
            Ok(Err(panic)) => Err(Error::Processor { attempt: attempt(), source: panic_text(&*panic).into() }),
            Err(_) => Err(Error::Deadline { attempt: attempt(), limit: self.limit }),
        }
    }

    /// Runs one step that uses a connection; the step ends with a transient error when its connection is dead.
    pub(crate) async fn run_on<B: Backend, T>(
        &self,
        step: &str,
        pool: &Pool<B>,
        session_id: Option<i32>,
        call: impl Future<Output = Result<T, BoxError>>,
    ) -> Result<T> {
        // Boxed, because each of the futures around it would be as large again.
        let done = while_alive(pool, session_id, Box::pin(self.run(step, call))).await;
        done.unwrap_or_else(|fault| Err(fault.during(format!("{step} of {}", self.to))))
    }
}

fn failed(attempt: String, source: BoxError) -> Error {
    match class_of(&*source) {
        Class::Contention => Error::Contention { attempt, source: Some(source) },
        Class::Transient => Error::Transient { attempt, source },
        Class::Permanent => Error::Processor { attempt, source },
    }
}
