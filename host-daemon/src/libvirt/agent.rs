//! The wire to a guest's agent. What is said on it is the agent gateway's business.

use std::time::Duration;

use uuid::Uuid;

use super::Libvirt;
use super::error::{Error, ErrorKind};
use super::facts::Facts;

/// libvirt first synchronizes with the agent, for up to 5 s that do not count against the command's own timeout
/// (libvirt issue 590); the rest is slack.
const SYNC: Duration = Duration::from_secs(6);

impl Libvirt {
    /// Sends one command to the agent and returns its reply as it came. `timeout` is rounded up to seconds. The caller
    /// waits at most `timeout` and the time of libvirt's own handshake with the agent, 6 s together with slack.
    ///
    /// # Errors
    /// [`ErrorKind::AgentAbsent`], [`ErrorKind::AgentDisconnected`], [`ErrorKind::AgentTimeout`],
    /// [`ErrorKind::AgentRefused`], or as any other call.
    pub async fn agent_command(&self, uuid: Uuid, command: &str, timeout: Duration) -> Result<String, Error> {
        let command = command.to_owned();
        let whole_seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let seconds = i32::try_from(whole_seconds.max(1)).unwrap_or(i32::MAX);
        self.run(&self.0.agents, "agent command", Some(uuid), timeout + SYNC, move |session| {
            let domain = session.domain(uuid)?;
            domain.qemu_agent_command(&command, seconds, 0).map_err(|error| {
                let kind = ErrorKind::from(error);
                // libvirt says "unresponsive" also where nothing is connected; its XML knows better than its text.
                let channel = || {
                    let xml = domain.xml_desc(0).unwrap_or_default();
                    Facts::parse(&xml).map(|facts| facts.agent_connected)
                };
                match kind {
                    ErrorKind::Unsupported(_) if channel() == Ok(None) => ErrorKind::AgentAbsent,
                    ErrorKind::AgentTimeout if channel() == Ok(Some(false)) => ErrorKind::AgentDisconnected,
                    ErrorKind::Other(message) if message.contains("encode message payload") => {
                        ErrorKind::AgentRefused("its answer is larger than libvirt carries".to_owned())
                    }
                    // libvirt reports the agent's own errors as internal ones.
                    ErrorKind::Other(message) if message.contains("QEMU agent command") => {
                        ErrorKind::AgentRefused(message)
                    }
                    other => other,
                }
            })
        })
        .await
    }
}
