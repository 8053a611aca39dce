//! Talking to a guest's agent, with virsh as the messenger.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Lab;
use crate::run::{output_of, wait_for};

/// Seconds that an agent has for one command of a script's: one that was given up after 5 s was carried out all the same, and each
/// try made a guest with little CPU slower (soak, 2026-11-27).
const SLOW_S: u32 = 20;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ExecStatus {
    exited: bool,
    exitcode: Option<i32>,
    signal: Option<i32>,
    out_data: Option<String>,
    err_data: Option<String>,
}

impl Lab {
    /// Waits until the agent of a guest answers, that is until the guest has booted.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_agent(&self, guest: &str, timeout: Duration) -> Result<()> {
        wait_for(&format!("the agent of {guest}"), timeout, || self.agent(guest, "guest-ping", &json!({})))?;
        Ok(())
    }

    /// Waits until all guests have booted, and for the agents of those that have one.
    ///
    /// # Errors
    /// When one does not answer in time.
    pub fn wait_agents(&self, timeout: Duration) -> Result<()> {
        self.wait_booted(timeout)?;
        self.guests()
            .iter()
            .filter(|guest| guest.agent)
            .try_for_each(|guest| self.wait_agent(&guest.name, timeout))
    }

    /// Runs a shell script in a guest and returns its standard output.
    ///
    /// # Errors
    /// When the agent does not answer, the script fails (with its standard error) or does not end in time.
    pub fn guest_exec(&self, guest: &str, script: &str, timeout: Duration) -> Result<String> {
        exec(guest, script, timeout, |command, arguments| self.ask_agent(guest, command, arguments, SLOW_S))
    }

    /// Starts a shell script in a guest and does not ask what came of it: for what ends the agent, or the guest.
    ///
    /// # Errors
    /// When the agent does not start it.
    pub fn guest_start(&self, guest: &str, script: &str) -> Result<()> {
        self.agent(guest, "guest-exec", &json!({"path": "/bin/sh", "arg": ["-c", script]})).map(drop)
    }

    /// CPU time so far of all processes of these names in a guest, by its own books.
    ///
    /// # Errors
    /// When there is none, or the guest does not say.
    pub fn guest_cpu(&self, guest: &str, names: &[&str]) -> Result<Duration> {
        // Debian has no busybox in its path.
        let pids = format!("$(PATH=$PATH:/lab/bin pidof {})", names.join(" "));
        let script = format!("for pid in {pids}; do cat /proc/$pid/stat; done");
        let stats = self.guest_exec(guest, &script, Duration::from_secs(60))?;
        ensure!(!stats.is_empty(), "no {names:?} in {guest}");
        let ticks = stats.lines().map(|line| {
            // utime and stime are the fields 14 and 15 of proc(5), the state behind the name is its field 3.
            let fields = line.rsplit_once(')').context("no stat line")?.1.split_whitespace();
            fields.skip(11).take(2).map(|ticks| Ok(ticks.parse::<u64>()?)).sum::<Result<u64>>()
        });
        // USER_HZ is 100.
        Ok(Duration::from_millis(ticks.sum::<Result<u64>>()? * 10))
    }

    /// Puts a script in the place of qemu-ga in a busybox guest, which carries that out itself, a second later.
    ///
    /// # Errors
    /// When the agent does not start it.
    pub fn replace_agent(&self, guest: &str, agent: &str) -> Result<()> {
        let script = format!(
            "cat >/bin/other-agent <<'AGENT'\n{agent}AGENT\nchmod +x /bin/other-agent\n\
             (sleep 1; kill $(pidof qemu-ga); exec /bin/other-agent) </dev/null >/dev/ttyS0 2>&1 &\n"
        );
        self.guest_start(guest, &script)
    }

    /// What a web server in a guest answers, without its head.
    ///
    /// # Errors
    /// When it does not, or not with a page.
    pub fn http_get(&self, guest: &str, port: u16, path: &str) -> Result<String> {
        let ip = self.guest(guest)?.ip();
        let request = format!("GET {path} HTTP/1.0\\r\\n\\r\\n");
        let ask = format!("exec 3<>/dev/tcp/{ip}/{port} && printf '{request}' >&3 && cat <&3");
        let answer = output_of(self.command("bash").args(["-c", &ask]))?;
        let (head, page) = answer.split_once("\r\n\r\n").with_context(|| answer.clone())?;
        ensure!(head.contains("200 OK"), "{answer}");
        Ok(page.to_owned())
    }

    /// Sends one command to a guest's agent and returns the value of `return`.
    ///
    /// # Errors
    /// When libvirt or the agent refuses, or does not answer within 5 s.
    pub fn agent(&self, guest: &str, command: &str, arguments: &Value) -> Result<Value> {
        self.ask_agent(guest, command, arguments, 5)
    }

    fn ask_agent(&self, guest: &str, command: &str, arguments: &Value, timeout_s: u32) -> Result<Value> {
        let request = json!({"execute": command, "arguments": arguments}).to_string();
        let timeout = timeout_s.to_string();
        let answer = self.virsh(&["qemu-agent-command", guest, &request, "--timeout", &timeout])?;
        let mut answer: Value = serde_json::from_str(&answer)?;
        Ok(answer["return"].take())
    }
}

/// Runs a shell script in a guest whose agent is spoken to by `ask`, and returns its standard output.
pub(crate) fn exec(
    guest: &str,
    script: &str,
    timeout: Duration,
    ask: impl Fn(&str, &Value) -> Result<Value>,
) -> Result<String> {
    let arguments = json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true});
    let started = ask("guest-exec", &arguments)?;
    let pid = started["pid"].as_i64().context("guest-exec returned no pid")?;
    let status = wait_for(&format!("`{script}` in {guest}"), timeout, || {
        let status: ExecStatus = serde_json::from_value(ask("guest-exec-status", &json!({"pid": pid}))?)?;
        if status.exited { Ok(status) } else { bail!("it still runs") }
    })?;
    if status.exitcode != Some(0) {
        let said = decode(status.err_data)?;
        bail!("`{script}` in {guest}: exit {:?}, signal {:?}: {said}", status.exitcode, status.signal);
    }
    decode(status.out_data)
}

fn decode(data: Option<String>) -> Result<String> {
    let bytes = STANDARD.decode(data.unwrap_or_default())?;
    String::from_utf8(bytes).context("the guest printed something that is not UTF-8")
}
