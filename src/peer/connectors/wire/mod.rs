//! What all sockets share: accepting, TLS, reading and writing with bounds, and closing.

mod bytes_stream;
mod close;
mod listen;
mod pulse;
mod terms;
mod tls;

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use bytes_stream::{converse, end_of};
pub(crate) use close::close;
pub(crate) use listen::{Accept, Bounds, listen};
pub(crate) use pulse::{Metered, Patience, Pulse, SendError, with_progress};
pub use terms::SocketTimeouts;
pub(crate) use terms::{Ended, Phase, ReadEnd, Terms, WriteEnd, cut, end, next_batch, some_ms};
pub(crate) use tls::{ClientTls, ServerTls, TlsError, load_again, secure, speaks_tls};
pub use tls::{TlsClientConfig, TlsServerConfig};

/// What a connection reads from and writes to, with or without TLS.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A connection, whatever it consists of.
pub(crate) type Wire = Box<dyn Io>;
