//! A password from a file, so that it stands in no settings.

use std::path::Path;

/// Most bytes of a file with a password.
pub const MAX_PASSWORD_BYTES: u64 = 4 << 10;

/// Reads a password, without the newline at its end.
pub(super) async fn read(path: &Path) -> std::io::Result<String> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || {
        use std::io::Read;
        let mut text = String::new();
        std::fs::File::open(path)?.take(MAX_PASSWORD_BYTES).read_to_string(&mut text)?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    });
    read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}
