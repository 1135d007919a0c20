//! An origin that many events share, and the origin of what a turn does now.

use std::sync::Arc;

use futures_util::future::Either;
use tokio::task::futures::TaskLocalFuture;

use super::Origin;
use crate::text::shortened;

tokio::task_local! {
    /// Origin of the events that the current turn consumes, while its side effects run.
    static CURRENT: SharedOrigin;
}

/// An origin with its stored form. Clones share both, so that an event that has an origin is as cheap as one without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SharedOrigin(Arc<Encoded>);

#[derive(Debug, PartialEq, Eq)]
struct Encoded {
    origin: Origin,
    text: Box<str>,
}

impl SharedOrigin {
    pub(crate) fn new(origin: Origin) -> Self {
        let text = origin.encode().into();
        SharedOrigin(Arc::new(Encoded { origin, text }))
    }

    /// Reads the stored form. An unreadable text is no origin, because a wrong one must not keep its event from being
    /// processed.
    pub(crate) fn read(text: String) -> Option<Self> {
        match Origin::decode(&text) {
            Ok(origin) => Some(SharedOrigin(Arc::new(Encoded { origin: origin?, text: text.into() }))),
            Err(error) => {
                tracing::warn!(%error, text = %shortened(&text), "the origin of a row cannot be read: it is left out");
                None
            }
        }
    }

    /// Merges origins, in their order; `None` without any.
    pub(crate) fn merged<'a>(mut origins: impl Iterator<Item = &'a SharedOrigin>) -> Option<Self> {
        let first = origins.next()?;
        let mut merged: Option<Origin> = None;
        for origin in origins.filter(|origin| !Arc::ptr_eq(&origin.0, &first.0)) {
            merged.get_or_insert_with(|| first.origin().clone()).merge(origin.origin());
        }
        Some(merged.map_or_else(|| first.clone(), SharedOrigin::new))
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// Returns the stored form.
    pub(crate) fn text(&self) -> &str {
        &self.0.text
    }
}

/// Reads the stored form of a row for an operator.
pub(crate) fn read(text: Option<String>) -> Option<Origin> {
    text.and_then(SharedOrigin::read).map(|shared| shared.origin().clone())
}

/// Returns the origin of the events that the current turn consumes; `None` outside of side effects.
pub(crate) fn current() -> Option<SharedOrigin> {
    CURRENT.try_with(SharedOrigin::clone).ok()
}

/// Runs work of a turn. What it emits and publishes gets the origin, if there is one.
pub(crate) fn within<F: Future>(origin: Option<&SharedOrigin>, work: F) -> Either<F, TaskLocalFuture<SharedOrigin, F>> {
    match origin {
        None => Either::Left(work),
        Some(origin) => Either::Right(CURRENT.scope(origin.clone(), work)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(peer: &str, stream: &str, event: u64) -> Origin {
        Origin::new(peer, stream, event).unwrap()
    }

    #[test]
    fn an_unreadable_text_is_no_origin() {
        for text in ["", "x", "[]", "{}", "[1]", r#"["more"]"#, r#"[["chat","s1",1]]"#, r#"[["chat","s1",-1,7]]"#] {
            assert_eq!(SharedOrigin::read(text.to_owned()), None, "{text}");
        }
        let backwards = SharedOrigin::read(r#"[["chat","s1",7,1],["a","b",2,2]]"#.to_owned()).unwrap();
        assert_eq!(backwards.origin().to_string(), "a:b:2, chat:s1:1-7");
    }

    #[test]
    fn equal_origins_are_shared_and_others_merged() {
        assert_eq!(SharedOrigin::merged(std::iter::empty()), None);
        let first = SharedOrigin::new(origin("chat", "s1", 1));
        let same = SharedOrigin::merged([first.clone(), first.clone()].iter()).unwrap();
        assert!(Arc::ptr_eq(&same.0, &first.0));
        let other = SharedOrigin::new(origin("chat", "s2", 4));
        let both = SharedOrigin::merged([first, other].iter()).unwrap();
        assert_eq!(both.text(), r#"[["chat","s1",1,1],["chat","s2",4,4]]"#);
    }

    #[tokio::test]
    async fn only_work_with_an_origin_has_a_current_one() {
        let given = SharedOrigin::new(origin("chat", "s1", 1));
        let seen = within(Some(&given), async { (current(), within(None, async { current() }).await) }).await;
        assert_eq!(seen, (Some(given.clone()), Some(given)));
        assert_eq!((within(None, async { current() }).await, current()), (None, None));
    }
}
