//! The state that the library keeps: its encoding, and its reads from outside.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Pool;

use crate::error::{BoxError, Error, Result, StateError};
use crate::json;
use crate::recipient::Recipient;
use crate::store::{Backend, Fault, KeptRow, answered, hold};

/// Most bytes of an encoded state, unless its [`Reducer`](crate::Reducer) overrides the limit.
pub const MAX_STATE_BYTES: usize = 1 << 20;

/// Encodes and decodes a state. [`Json`] is the default; [`Protobuf`](crate::Protobuf) is the alternative.
///
/// A codec is a type, named with the reducer's state: `impl Reducer<Protobuf> for Counters`. It should encode equal
/// states as the same bytes, or else turns save a state that did not change.
///
/// # Examples
///
/// ```
/// use eventbox::{BoxError, StateCodec};
///
/// /// Eight bytes, most significant first.
/// struct BigEndian;
///
/// impl StateCodec<u64> for BigEndian {
///     fn encode(state: &u64) -> Result<Vec<u8>, BoxError> {
///         Ok(state.to_be_bytes().to_vec())
///     }
///     fn decode(bytes: &[u8]) -> Result<u64, BoxError> {
///         Ok(u64::from_be_bytes(bytes.try_into()?))
///     }
/// }
/// assert_eq!(BigEndian::decode(&BigEndian::encode(&7)?)?, 7);
/// # Ok::<(), BoxError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot encode the state `{S}`",
    note = "derive `serde::Serialize` and `serde::Deserialize` for the state, or name another codec: \
            `impl Reducer<MyCodec> for …`"
)]
pub trait StateCodec<S> {
    /// Encodes the state.
    ///
    /// # Errors
    ///
    /// When the state has no encoding; the turn is rolled back.
    fn encode(state: &S) -> Result<Vec<u8>, BoxError>;

    /// Decodes bytes that [`encode`](StateCodec::encode) made.
    ///
    /// # Errors
    ///
    /// When the bytes are no state; the turn does not begin.
    fn decode(bytes: &[u8]) -> Result<S, BoxError>;

    /// Proves that the bytes of [`encode`](StateCodec::encode) can be read again. The library calls it for each new
    /// state before the transaction, so that no turn commits a state that the next turn cannot load.
    ///
    /// By default it decodes. [`Json`] and [`Protobuf`](crate::Protobuf) also encode again in a build with debug
    /// assertions: the answer must be the same bytes, in whatever order.
    ///
    /// # Errors
    ///
    /// When the state does not come back; the turn does not begin.
    fn read_back(bytes: &[u8]) -> Result<(), BoxError> {
        Self::decode(bytes).map(drop)
    }
}

/// Encodes a state as JSON, by `serde`.
///
/// It refuses the values that JSON cannot hold, with the name of the field: a number that is NaN or infinite,
/// `Some(None)`, a map whose keys are no strings, and values nested deeper than
/// [`MAX_JSON_DEPTH`](crate::limits::MAX_JSON_DEPTH). Floats come back with the same bits.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl<S: Serialize + DeserializeOwned> StateCodec<S> for Json {
    fn encode(state: &S) -> Result<Vec<u8>, BoxError> {
        json::to_vec(state)
    }

    fn decode(bytes: &[u8]) -> Result<S, BoxError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    fn read_back(bytes: &[u8]) -> Result<(), BoxError> {
        comes_back::<Self, S>(bytes)
    }
}

/// Decodes and, where it may cost more, encodes again.
fn comes_back<C: StateCodec<S>, S>(bytes: &[u8]) -> Result<(), BoxError> {
    let state = C::decode(bytes)?;
    if cfg!(debug_assertions) && sorted(C::encode(&state)?) != sorted(bytes.to_vec()) {
        return Err(
            "it comes back as another state: something of it is written and not read, or read as something else".into(),
        );
    }
    Ok(())
}

/// The bytes without their order: maps and sets of the standard library have none.
fn sorted(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.sort_unstable();
    bytes
}

/// Encodes a state that is a message of `prost`.
#[derive(Debug, Clone, Copy)]
pub struct Protobuf;

impl<S: prost::Message + Default> StateCodec<S> for Protobuf {
    fn encode(state: &S) -> Result<Vec<u8>, BoxError> {
        Ok(state.encode_to_vec())
    }

    fn decode(bytes: &[u8]) -> Result<S, BoxError> {
        Ok(S::decode(bytes)?)
    }

    fn read_back(bytes: &[u8]) -> Result<(), BoxError> {
        comes_back::<Self, S>(bytes)
    }
}

/// State after a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateAt<S> {
    /// Last turn of the recipient: 1, 2, 3 … without a gap.
    pub turn: i64,
    /// State after that turn; `None` when the entity is gone, or when the library does not keep its state.
    pub state: Option<S>,
}

/// Reads the state of a recipient with a [`Reducer`](crate::Reducer), from outside: for a page, a check, a test.
///
/// Returns the state after the last committed turn; `None` when the recipient never had a turn. Decodes [`Json`]; use
/// [`state_as`] for another codec.
///
/// # Errors
///
/// [`Error::State`] when the stored state is no `S`; transient and database errors.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let options = eventbox::sqlite_options(":memory:");
/// # let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(1).connect_with(options).await?;
/// # eventbox::migrate(&pool).await?;
/// use eventbox::Recipient;
///
/// let airport = Recipient::new("airport", "JFK")?;
/// assert!(eventbox::state::<u64>(&pool, &airport).await?.is_none());
/// # Ok(()) }
/// ```
pub async fn state<S>(pool: &Pool<impl Backend>, of: &Recipient) -> Result<Option<StateAt<S>>>
where
    Json: StateCodec<S>,
{
    state_as::<Json, S>(pool, of).await
}

/// Reads a state as [`state()`] does, with another codec: `state_as::<Protobuf, Counters>(&pool, &recipient)`.
///
/// # Errors
///
/// As [`state()`].
pub async fn state_as<C, S>(pool: &Pool<impl Backend>, of: &Recipient) -> Result<Option<StateAt<S>>>
where
    C: StateCodec<S>,
{
    let attempt = || format!("read the state of {of}");
    let Some(KeptRow { turn, state }) = read(pool, of).await.map_err(|fault| fault.during(attempt()))? else {
        return Ok(None);
    };
    let state = state.map(|bytes| C::decode(&bytes)).transpose().map_err(|source| Error::State {
        attempt: attempt(),
        source: StateError::Decode { recipient: of.clone(), source },
    })?;
    Ok(Some(StateAt { turn, state }))
}

async fn read<B: Backend>(pool: &Pool<B>, of: &Recipient) -> Result<Option<KeptRow>, Fault> {
    answered(pool, async { B::read_state(&mut *hold(pool).await?, of.shard().into(), of.as_str()).await }).await
}
