//! Asking a daemon at its socket itself, where starting `kvmpilot` for each question would cost more than what is looked at.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who follows hears something each 15 s, if only a sign of life.
const SILENCE: Duration = Duration::from_secs(60);

/// What a `GET` of this path answers, like `/api/v1/status`.
///
/// # Errors
/// When there is no daemon, or it does not answer in time, with success and JSON.
pub fn get(socket: &Path, path: &str) -> Result<Value> {
    let (head, mut body) = request(socket, path)?;
    ensure!(head.contains(" 200 "), "{path}: {head}");
    let mut text = String::new();
    body.read_to_string(&mut text).with_context(|| format!("reading {path}"))?;
    serde_json::from_str(&text).with_context(|| format!("{path} answered:\n{text}"))
}

/// What a daemon tells those who follow it. It ends when the daemon does, or is silent for a minute.
#[derive(Debug)]
pub struct Events(Lines<BufReader<UnixStream>>);

impl Events {
    /// Begins to follow.
    ///
    /// # Errors
    /// When there is no daemon, or it has no room.
    pub fn follow(socket: &Path) -> Result<Self> {
        let (head, body) = request(socket, "/api/v1/events")?;
        ensure!(head.contains(" 200 "), "/api/v1/events: {head}");
        body.get_ref().set_read_timeout(Some(SILENCE))?;
        Ok(Self(body.lines()))
    }
}

impl Iterator for Events {
    /// Name and data.
    type Item = (String, Value);

    fn next(&mut self) -> Option<Self::Item> {
        let mut name = String::new();
        loop {
            // A daemon that ends in the middle of a line has told nothing.
            let line = self.0.next()?.ok()?;
            if let Some(told) = line.strip_prefix("event:") {
                told.trim().clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data:") {
                return Some((name, serde_json::from_str(data.trim()).ok()?));
            }
        }
    }
}

/// The first line of the answer, and its body. HTTP/1.0: the body ends with the connection, and has no chunks.
fn request(socket: &Path, path: &str) -> Result<(String, BufReader<UnixStream>)> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("no daemon at {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: kvmpilot\r\n\r\n")?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    reader.read_line(&mut head).with_context(|| format!("waiting for {path}"))?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 && !line.trim().is_empty() {
        line.clear();
    }
    Ok((head.trim().to_owned(), reader))
}
