//! What a running Prometheus answers.

#![allow(clippy::indexing_slicing, reason = "a key that JSON lacks is null")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Time limit for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// An alert that is pending or fires.
#[derive(Debug)]
pub(super) struct Alert {
    pub(super) name: String,
    pub(super) summary: String,
    state: String,
}

impl Alert {
    pub(super) fn is_firing(&self) -> bool {
        self.state == "firing"
    }
}

/// The HTTP API of a Prometheus on this machine.
pub(super) struct Api {
    pub(super) port: u16,
}

impl Api {
    /// Returns the alerts that are pending or fire.
    pub(super) fn alerts(&self) -> Result<Vec<Alert>> {
        let data = self.get("/api/v1/alerts")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alert = |alert: &Value| Alert {
            name: text(&alert["labels"]["alertname"]),
            summary: text(&alert["annotations"]["summary"]),
            state: text(&alert["state"]),
        };
        Ok(list(&data["alerts"])?.iter().map(alert).collect())
    }

    /// Returns the number of targets, and whether the last scrape of each succeeded.
    pub(super) fn targets(&self) -> Result<(usize, bool)> {
        let data = self.get("/api/v1/targets?state=active")?;
        let targets = list(&data["activeTargets"])?;
        Ok((targets.len(), targets.iter().all(|target| target["health"] == "up")))
    }

    /// Returns the names of all series.
    pub(super) fn series(&self) -> Result<BTreeSet<String>> {
        let names = self.get("/api/v1/label/__name__/values")?;
        Ok(list(&names)?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// Returns the number of series that an expression has now. The error has what Prometheus says about the
    /// expression.
    pub(super) fn query(&self, expression: &str) -> Result<usize> {
        let data = self.get(&format!("/api/v1/query?query={}", encoded(expression)))?;
        Ok(list(&data["result"])?.len())
    }

    /// Returns the number of rules, and the errors of their last evaluations.
    pub(super) fn rules(&self) -> Result<(usize, Vec<String>)> {
        let data = self.get("/api/v1/rules")?;
        let mut rules = Vec::new();
        for group in list(&data["groups"])? {
            rules.extend(list(&group["rules"])?);
        }
        let failed = rules.iter().filter(|rule| rule["health"] != "ok");
        let failed = failed.map(|rule| format!("{}: {} {}", rule["name"], rule["health"], rule["lastError"]));
        Ok((rules.len(), failed.collect()))
    }

    /// Asks, and returns the data of the answer.
    fn get(&self, path: &str) -> Result<Value> {
        let answer = request(self.port, path).with_context(|| format!("ask Prometheus for {path}"))?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("{path} answered {answer}"))?;
        match answer["status"].as_str() {
            Some("success") => Ok(answer["data"].clone()),
            _ => bail!("{path} answered {}", answer["error"]),
        }
    }
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("no list: {value}"))
}

/// Sends a request of HTTP/1.0, after whose answer the server closes the connection. Returns the body.
fn request(port: u16, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer of HTTP")?;
    ensure!(head.starts_with("HTTP/1."), "no answer of HTTP: {head}");
    Ok(body.to_owned())
}

/// Writes a text as the value of a query.
fn encoded(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded() {
        assert_eq!(encoded("sum(a_b{c=\"d\"}) > 0"), "sum%28a_b%7Bc%3D%22d%22%7D%29%20%3E%200");
    }
}
