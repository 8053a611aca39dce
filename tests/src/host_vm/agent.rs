//! The host's own qemu-guest-agent, over a socket: how the tests run commands there without a network.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::run::wait_for;

/// For one answer. The host may be very busy.
const ANSWER: Duration = Duration::from_secs(60);
/// For the answer to the first word, before which it is not known whether anybody listens.
const GREETING: Duration = Duration::from_secs(2);

/// How a script ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// Its exit code; 128 and the number if a signal ended it.
    pub code: i64,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

#[derive(Debug)]
pub(super) struct Agent {
    path: PathBuf,
    stream: Option<BufReader<UnixStream>>,
}

impl Agent {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, stream: None }
    }

    /// Whether it is there.
    pub(super) fn ping(&mut self) -> Result<()> {
        // Requests from before its start are answered when it starts: the answer must be to this one.
        let id = std::process::id() ^ 0x5a5a;
        let stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(GREETING))?;
        self.stream = Some(BufReader::new(stream));
        let answer = self.ask("guest-sync", &json!({ "id": id }))?;
        ensure!(answer == json!(id), "it answered {answer}");
        self.stream.as_ref().context("no stream")?.get_ref().set_read_timeout(Some(ANSWER))?;
        Ok(())
    }

    /// Runs a script of bash to its end.
    pub(super) fn exec(&mut self, script: &str, timeout: Duration) -> Result<Done> {
        let started = self.start(script)?;
        let pid = started["pid"].as_i64().context("guest-exec returned no pid")?;
        let status = wait_for(&format!("`{script}` on the host"), timeout, || {
            let status = self.ask("guest-exec-status", &json!({ "pid": pid }))?;
            ensure!(status["exited"] == true, "it still runs");
            Ok(status)
        })?;
        let text = |key: &str| -> Result<String> {
            let bytes = STANDARD.decode(status[key].as_str().unwrap_or_default())?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let code = status["exitcode"].as_i64();
        let code = code.or_else(|| status["signal"].as_i64().map(|signal| 128 + signal));
        Ok(Done {
            code: code.context("it ended without a code")?,
            out: text("out-data")?,
            err: text("err-data")?,
        })
    }

    /// Starts a script whose end nobody hears of.
    pub(super) fn exec_unheard(&mut self, script: &str) -> Result<()> {
        self.start(script).map(drop)
    }

    fn start(&mut self, script: &str) -> Result<Value> {
        let arguments = json!({"path": "/bin/bash", "arg": ["-c", script], "capture-output": true});
        self.ask("guest-exec", &arguments)
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let stream = self.stream.as_mut().context("the host's agent has not been reached")?;
        let request = json!({"execute": command, "arguments": arguments}).to_string() + "\n";
        stream.get_mut().write_all(request.as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line).context("the host's agent does not answer")?;
        let mut answer: Value = serde_json::from_str(&line).with_context(|| format!("it said {line:?}"))?;
        match answer.get("error") {
            Some(error) => bail!("{command}: {error}"),
            None => Ok(answer["return"].take()),
        }
    }
}

pub(super) fn encoded(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
