//! Closing a connection so that the other side gets all that was written.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::Wire;

/// Number of bytes that are read and thrown away while the other side is still to close.
///
/// A system resets a connection that is closed with unread bytes, and a reset may take away from the other side what
/// it has not read yet.
const MAX_DISCARDED_BYTES: usize = 4 << 20;

/// Size of the buffer for what is thrown away.
const DISCARD_BUFFER_BYTES: usize = 4096;

/// Ends the writing, with the goodbye of TLS if there is TLS, and waits until the other side has closed too, at most
/// for `limit`.
pub(crate) async fn close(mut wire: Wire, limit: Duration) {
    let closing = async {
        wire.shutdown().await?;
        let (mut buffer, mut left) = (vec![0; DISCARD_BUFFER_BYTES], MAX_DISCARDED_BYTES);
        loop {
            match wire.read(&mut buffer).await? {
                0 => return std::io::Result::Ok(()),
                read => left = left.saturating_sub(read),
            }
            if left == 0 {
                return Ok(());
            }
        }
    };
    let _ = timeout(limit, closing).await;
}
