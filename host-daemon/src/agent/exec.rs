//! The agent's protocol: `guest-info`, `guest-exec` and the polling of `guest-exec-status`, with bounds on everything.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use super::abilities::{Abilities, Info};
use super::facts::{OSINFO, OsInfo};
use super::text::printable;
use super::{Agent, AgentError, Kind, Transport, TransportError};

const INFO: &str = "guest-info";
const EXEC: &str = "guest-exec";
const STATUS: &str = "guest-exec-status";
const FREEZE: &str = "guest-fsfreeze-status";

/// Polling starts here and doubles. Each poll wakes the guest's agent (ansible's plugin took 20 % of a vcpu).
const FIRST_POLL: Duration = Duration::from_millis(50);
const LAST_POLL: Duration = Duration::from_millis(500);

/// The transport's own handshake with the agent may add to a command's timeout; after that it is taken for hung.
const GRACE: Duration = Duration::from_secs(10);

/// What a reply may have around its payload: `guest-info` lists some 50 commands in 6 KiB.
const ENVELOPE_BYTES: usize = 64 << 10;

/// Characters of the guest's error messages that are kept.
const MESSAGE_CHARS: usize = 300;

#[derive(Deserialize)]
struct Reply<T> {
    #[serde(rename = "return")]
    value: Option<T>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    desc: String,
}

#[derive(Deserialize)]
pub(super) struct Started {
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Status {
    exited: bool,
    exitcode: Option<i64>,
    signal: Option<i64>,
    out_data: Option<String>,
    err_data: Option<String>,
    #[serde(default)]
    out_truncated: bool,
}

/// What a program printed.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) stdout: Vec<u8>,
    /// Start of its standard error, made printable.
    pub(super) stderr: String,
}

impl<T: Transport> Agent<T> {
    /// Runs a shell script in the guest with `environment` as its whole environment, and waits for its end.
    pub(super) async fn exec(
        &mut self,
        script: &str,
        arguments: &[String],
        environment: &[String],
    ) -> Result<Output, AgentError> {
        let mut arg = vec!["-c", script, "kvmpilot"];
        arg.extend(arguments.iter().map(String::as_str));
        let exec = json!({"path": "/bin/sh", "arg": arg, "env": environment, "capture-output": true});
        self.run(&exec).await
    }

    /// Runs a program in the guest, given as the arguments of `guest-exec`, and waits for its end.
    pub(super) async fn run(&mut self, exec: &serde_json::Value) -> Result<Output, AgentError> {
        // A guest that was short of CPU may need a moment more, also for the sake of what is to be put back in it now.
        self.reap(Instant::now() + self.limits.total / 2).await?;
        let deadline = Instant::now() + self.limits.total;
        if !self.may_exec {
            self.learn(deadline).await?;
            if !self.may_exec {
                return Err(self.frozen_or(AgentError::Forbidden(EXEC), deadline).await);
            }
        }
        let started: Result<Started, _> = self.send(EXEC, exec, deadline).await;
        let pid = match started {
            Ok(Started { pid }) => pid,
            Err(error) => {
                self.may_exec = false;
                return Err(match error {
                    AgentError::Refused { .. } | AgentError::Forbidden(_) => {
                        self.frozen_or(error, deadline).await
                    }
                    error => error,
                });
            }
        };
        self.pending = Some(pid);
        let late = AgentError::TimedOut { what: "the program", after: self.limits.total };
        let status = self.end_of(pid, deadline).await?.ok_or(late)?;
        self.pending = None;
        output(status, self.limits.output_bytes)
    }

    /// Waits for the end of a program; `None` if that has not come by then.
    async fn end_of(&self, pid: i64, deadline: Instant) -> Result<Option<Status>, AgentError> {
        let mut wait = FIRST_POLL;
        while Instant::now() + wait < deadline {
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LAST_POLL);
            let status: Status = self.send(STATUS, &json!({"pid": pid}), deadline).await?;
            if status.exited {
                return Ok(Some(status));
            }
        }
        Ok(None)
    }

    /// Asks what the agent permits.
    async fn learn(&mut self, deadline: Instant) -> Result<&Abilities, AgentError> {
        let info: Info = self.send(INFO, &json!({}), deadline).await?;
        let abilities = self.abilities.insert(Abilities::new(&info));
        self.may_exec = abilities.permits(EXEC);
        Ok(abilities)
    }

    /// What the guest runs; asked once.
    pub(super) async fn kind(&mut self) -> Result<Kind, AgentError> {
        if let Some(kind) = self.kind {
            return Ok(kind);
        }
        let deadline = Instant::now() + self.limits.total;
        self.learn(deadline).await?;
        let info: Option<OsInfo> = self.ask(OSINFO, deadline, &mut Vec::new()).await?;
        let windows = info.is_some_and(|info| info.is_windows());
        Ok(*self.kind.insert(if windows { Kind::Windows } else { Kind::Unix }))
    }

    /// Sends a command without arguments, if it is permitted. What the agent does not do is noted, and is no failure;
    /// that nobody answers is one.
    pub(super) async fn ask<R: DeserializeOwned>(
        &self,
        command: &'static str,
        deadline: Instant,
        missing: &mut Vec<String>,
    ) -> Result<Option<R>, AgentError> {
        if !self.abilities.as_ref().is_some_and(|abilities| abilities.permits(command)) {
            return Ok(None);
        }
        match self.send(command, &json!({}), deadline).await {
            Ok(value) => Ok(Some(value)),
            Err(error @ (AgentError::NotConnected(_) | AgentError::TimedOut { .. })) => Err(error),
            Err(error) => {
                missing.push(error.to_string());
                Ok(None)
            }
        }
    }

    /// While file systems are frozen the agent switches nearly everything off, as if an administrator had.
    async fn frozen_or(&self, error: AgentError, deadline: Instant) -> AgentError {
        match self.send::<String>(FREEZE, &json!({}), deadline).await {
            Ok(status) if status == "frozen" => AgentError::Frozen,
            Ok(_) | Err(_) => error,
        }
    }

    /// Collects the program of an earlier poll whose end was not seen. While it runs there is no other.
    async fn reap(&mut self, deadline: Instant) -> Result<(), AgentError> {
        let Some(pid) = self.pending else { return Ok(()) };
        match self.end_of(pid, deadline).await {
            Ok(None) => {
                Err(AgentError::TimedOut { what: "the program of an earlier poll", after: self.limits.total })
            }
            Err(error @ (AgentError::NotConnected(_) | AgentError::TimedOut { .. })) => Err(error),
            // Ended, or unknown to an agent that was restarted, or not worth another question.
            Ok(_) | Err(_) => {
                self.pending = None;
                Ok(())
            }
        }
    }

    /// Sends one command and reads the reply's `return`.
    async fn send<R: DeserializeOwned>(
        &self,
        command: &'static str,
        arguments: &serde_json::Value,
        deadline: Instant,
    ) -> Result<R, AgentError> {
        let request = json!({"execute": command, "arguments": arguments}).to_string();
        let timeout = self.limits.command.min(deadline.saturating_duration_since(Instant::now()));
        let reply = tokio::time::timeout(timeout + GRACE, self.transport.command(&request, timeout)).await;
        let reply = match reply.unwrap_or(Err(TransportError::TimedOut)) {
            Ok(reply) => reply,
            Err(TransportError::NotConnected(reason)) => return Err(AgentError::NotConnected(reason)),
            Err(TransportError::TimedOut) => {
                return Err(AgentError::TimedOut { what: command, after: timeout });
            }
            Err(TransportError::Refused(message)) => return Err(refused(command, &message)),
        };
        read_reply(command, &reply, self.limits.output_bytes / 3 * 4 + ENVELOPE_BYTES)
    }
}

/// Reads the `return` of a reply to `command`, of at most `limit` bytes.
pub(super) fn read_reply<R: DeserializeOwned>(
    command: &'static str,
    reply: &str,
    limit: usize,
) -> Result<R, AgentError> {
    if reply.len() > limit {
        return Err(AgentError::Oversized { limit });
    }
    // serde_json gives up at a depth of 128, so nesting cannot exhaust the stack.
    let reply: Reply<R> = serde_json::from_str(reply).map_err(|error| {
        if error.is_eof() {
            AgentError::Truncated
        } else {
            malformed(format!("{command}: {}", printable(error.to_string().as_bytes(), MESSAGE_CHARS)))
        }
    })?;
    match reply {
        Reply { error: Some(refusal), .. } => Err(refused(command, &refusal.desc)),
        Reply { value: Some(value), .. } => Ok(value),
        Reply { .. } => Err(malformed(format!("{command}: neither return nor error"))),
    }
}

/// What an ended program printed, at most `limit` bytes.
pub(super) fn output(status: Status, limit: usize) -> Result<Output, AgentError> {
    let stderr = decode(status.err_data, limit)?;
    let stderr = printable(stderr.trim_ascii(), MESSAGE_CHARS);
    if status.exitcode != Some(0) {
        let how = match (status.exitcode, status.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "neither exit code nor signal".to_owned(),
        };
        let message = if stderr.is_empty() { how } else { format!("{how}: {stderr}") };
        return Err(AgentError::ExitStatus { code: status.exitcode, signal: status.signal, message });
    }
    if status.out_truncated {
        return Err(AgentError::Truncated);
    }
    Ok(Output { stdout: decode(status.out_data, limit)?, stderr })
}

fn refused(command: &'static str, message: &str) -> AgentError {
    let message = printable(message.as_bytes(), MESSAGE_CHARS);
    let off = ["disabled", "not been found", "not allowed", "blocked"];
    if off.iter().any(|word| message.contains(word)) {
        AgentError::Forbidden(command)
    } else {
        AgentError::Refused { command, message }
    }
}

pub(super) fn malformed(what: impl Into<String>) -> AgentError {
    AgentError::Malformed { what: what.into() }
}

fn decode(base64: Option<String>, limit: usize) -> Result<Vec<u8>, AgentError> {
    let bytes =
        STANDARD.decode(base64.unwrap_or_default()).map_err(|error| malformed(format!("base64: {error}")))?;
    if bytes.len() > limit { Err(AgentError::Oversized { limit }) } else { Ok(bytes) }
}
