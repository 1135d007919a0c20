//! States of a processor that turns leave for the next turn, so that a hot recipient is not loaded at every turn.
//!
//! A turn uses a kept state only when its listing reads the turn and the token with which the state was kept. So the
//! state is as current as one that is loaded behind the listing: any later commit moves the turn, and the transaction
//! compares the turn. The turn alone would not be enough, because a recipient that was forgotten counts its turns anew.

use std::panic::{AssertUnwindSafe, catch_unwind};

use uuid::Uuid;

use crate::eventbox::decide::erased::AnyState;
use crate::eventbox::decide::processor::EVersion;
use crate::eventbox::decide::transition::panic_text;

/// State of a recipient after a turn.
#[derive(Debug)]
pub(crate) struct KeptState {
    turn: i64,
    /// Token of the commit that made that turn.
    token: Uuid,
    state: AnyState,
    eversion: EVersion,
    #[cfg_attr(not(feature = "runtime"), allow(dead_code, reason = "only the runtime bounds the bytes of states"))]
    bytes: usize,
}

impl KeptState {
    /// Makes the state after a turn, if the processor says how many bytes the state takes.
    pub(crate) fn new(
        bytes_of: impl FnOnce(&AnyState) -> Option<usize>,
        turn: i64,
        token: Uuid,
        state: AnyState,
        eversion: EVersion,
    ) -> Option<Self> {
        // The turn may have committed, so that a panic here must not end the task.
        let bytes = catch_unwind(AssertUnwindSafe(|| bytes_of(&state))).unwrap_or_else(|panic| {
            tracing::warn!(error = %panic_text(&*panic), "the bytes of a state are not known: the state is not kept");
            None
        });
        bytes.map(|bytes| KeptState { turn, token, state, eversion, bytes })
    }
}

#[cfg(any(test, feature = "runtime"))]
impl KeptState {
    /// Returns the bytes of the state, as the processor says.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(feature = "runtime")]
impl KeptState {
    /// Returns the turn after which the state was kept, and the token of its commit.
    pub(crate) fn turn(&self) -> (i64, Uuid) {
        (self.turn, self.token)
    }

    /// Returns the state and its version.
    pub(crate) fn into_state(self) -> (AnyState, EVersion) {
        (self.state, self.eversion)
    }
}

/// Place of a kept state during the turns of one call. The caller brings the state, and takes it back.
pub(crate) struct Keeper {
    /// Whether states are kept at all.
    is_on: bool,
    kept: Option<KeptState>,
}

impl Keeper {
    /// Makes a keeper that keeps nothing.
    pub(crate) fn off() -> Self {
        Keeper { is_on: false, kept: None }
    }

    /// Makes a keeper with the state of an earlier call, if there is one.
    #[cfg(any(test, feature = "runtime"))]
    pub(crate) fn on(kept: Option<KeptState>) -> Self {
        Keeper { is_on: true, kept }
    }

    /// Returns the state for the next call.
    #[cfg(any(test, feature = "runtime"))]
    pub(crate) fn into_kept(self) -> Option<KeptState> {
        self.kept
    }

    /// Takes the state, if it is the state after this turn. Drops a stale state.
    pub(super) fn take_at(&mut self, turn: i64, token: Option<Uuid>) -> Option<(AnyState, EVersion)> {
        let kept = self.kept.take().filter(|kept| (kept.turn, Some(kept.token)) == (turn, token))?;
        Some((kept.state, kept.eversion))
    }

    /// Keeps the state after a turn, if the processor says how many bytes the state takes. The token is `None` when the
    /// recipient never had a turn; that state is not kept.
    pub(super) fn keep(
        &mut self,
        bytes_of: impl FnOnce(&AnyState) -> Option<usize>,
        turn: i64,
        token: Option<Uuid>,
        state: AnyState,
        eversion: EVersion,
    ) {
        let Some(token) = token.filter(|_| self.is_on) else { return };
        self.kept = KeptState::new(bytes_of, turn, token, state, eversion);
    }

    /// Drops the state.
    pub(super) fn clear(&mut self) {
        self.kept = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> AnyState {
        AnyState::new("state")
    }

    fn keeper(turn: i64, token: Uuid) -> Keeper {
        let mut keeper = Keeper::on(None);
        keeper.keep(|state| state.of::<&str>().ok().map(|text| text.len()), turn, Some(token), text(), EVersion(7));
        keeper
    }

    #[test]
    fn a_kept_state_is_that_of_one_turn_and_token() {
        let (token, other) = (Uuid::new_v4(), Uuid::new_v4());
        let (state, eversion) = keeper(3, token).take_at(3, Some(token)).unwrap();
        assert_eq!((*state.of::<&str>().unwrap(), eversion), ("state", EVersion(7)));
        assert!(state.of::<String>().is_err(), "it is not of that type");
        for (turn, found) in [(4, Some(token)), (2, Some(token)), (3, Some(other)), (0, None)] {
            let mut stale = keeper(3, token);
            assert!(stale.take_at(turn, found).is_none(), "{turn}");
            assert!(stale.into_kept().is_none(), "a stale state is dropped");
        }
    }

    #[test]
    fn a_state_is_kept_when_its_bytes_are_known() {
        assert_eq!(keeper(3, Uuid::new_v4()).into_kept().map(|kept| kept.bytes()), Some(5));
        let token = Some(Uuid::new_v4());
        let mut keeper = Keeper::on(None);
        keeper.keep(|_| None, 1, token, text(), EVersion(1));
        assert!(keeper.into_kept().is_none());
        let mut keeper = Keeper::on(None);
        keeper.keep(|_| panic!("a mistake of the user"), 1, token, text(), EVersion(1));
        assert!(keeper.into_kept().is_none());
        let mut keeper = Keeper::on(None);
        keeper.keep(|_| Some(1), 0, None, text(), EVersion(0));
        assert!(keeper.into_kept().is_none());
        let mut keeper = Keeper::off();
        keeper.keep(|_| Some(1), 1, token, text(), EVersion(1));
        assert!(keeper.take_at(1, token).is_none());
    }
}
