//! Questions over HTTP, to the REST API of Patroni and to etcd.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::super::report::Result;

/// Sends a request, and returns the status and the text of the answer.
pub(crate) async fn ask(port: u16, request: &str, body: &str, limit: Duration) -> Result<(u16, String)> {
    let question = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let size = body.len();
        let text = format!("{request} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(limit, question).await.map_err(|_| format!("no answer to {request}"))??;
    let (head, text) = answer.split_once("\r\n\r\n").ok_or(format!("no complete answer to {request}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or(format!("no status in the answer to {request}"))?, text.to_owned()))
}
