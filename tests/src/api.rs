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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// A socket that gives this answer to whoever asks first.
    fn answering(name: &str, answer: &'static str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("kvmpilot-api-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut String::new()).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        path
    }

    #[test]
    fn an_answer_is_its_body_and_a_refusal_is_an_error() {
        let path =
            answering("good", "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"mode\":\"auto\"}");
        assert_eq!(get(&path, "/api/v1/status").unwrap()["mode"], "auto");
        std::fs::remove_file(path).unwrap();
        let path = answering("bad", "HTTP/1.0 404 Not Found\r\n\r\n{}");
        assert!(get(&path, "/nothing").unwrap_err().to_string().contains("404"));
        std::fs::remove_file(&path).unwrap();
        assert!(get(&path, "/nobody").is_err());
    }

    #[test]
    fn events_come_with_their_names_until_the_daemon_ends() {
        let told = "HTTP/1.0 200 OK\r\n\r\nevent: tick\ndata: {\"unix_ms\":1}\n\nevent: ping\ndata: {}\n\nevent: tick\nda";
        let path = answering("events", told);
        let heard: Vec<(String, Value)> = Events::follow(&path).unwrap().collect();
        std::fs::remove_file(path).unwrap();
        let names: Vec<&str> = heard.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!((names, &heard[0].1["unix_ms"]), (vec!["tick", "ping"], &Value::from(1)));
    }
}
