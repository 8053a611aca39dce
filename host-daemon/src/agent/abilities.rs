//! What an agent permits. A guest's administrator may switch any command off.

use serde::Deserialize;

use super::few::Few;
use super::text::printable;

/// Commands worth knowing about: what kvmpilot uses, and what could serve it.
pub(super) const COMMANDS: [&str; 12] = [
    "guest-exec",
    "guest-exec-status",
    "guest-file-open",
    "guest-file-read",
    "guest-file-close",
    "guest-get-load",
    "guest-get-cpustats",
    "guest-get-vcpus",
    "guest-get-osinfo",
    "guest-get-host-name",
    "guest-get-fsinfo",
    "guest-network-get-interfaces",
];
/// More than any version of the agent is long.
const VERSION_CHARS: usize = 40;
/// More than any version of the agent has.
const MOST_COMMANDS: usize = 512;

/// An agent's reply to `guest-info`, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Abilities {
    /// Version of the agent, made printable.
    pub version: String,
    /// Those of the commands worth knowing that it permits.
    pub permitted: Vec<&'static str>,
    /// Those that are switched off in the guest.
    pub switched_off: Vec<&'static str>,
    /// Those that it does not have.
    pub unknown: Vec<&'static str>,
}

#[derive(Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    version: String,
    supported_commands: Few<Supported, MOST_COMMANDS>,
}

#[derive(Deserialize)]
struct Supported {
    name: String,
    enabled: bool,
}

impl Abilities {
    pub(super) fn new(info: &Info) -> Self {
        let mut abilities =
            Self { version: printable(info.version.as_bytes(), VERSION_CHARS), ..Self::default() };
        for command in COMMANDS {
            let supported = info.supported_commands.items.iter().find(|supported| supported.name == command);
            match supported.map(|supported| supported.enabled) {
                Some(true) => abilities.permitted.push(command),
                Some(false) => abilities.switched_off.push(command),
                None => abilities.unknown.push(command),
            }
        }
        abilities
    }

    /// Whether a command is permitted.
    #[must_use]
    pub fn permits(&self, command: &str) -> bool {
        self.permitted.contains(&command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_sorted_by_what_the_guest_permits() {
        let info = r#"{"version":"10.0.2\u001b[31m","supported_commands":[
            {"name":"guest-exec","enabled":true,"success-response":true},
            {"name":"guest-file-open","enabled":false},{"name":"guest-anything","enabled":true}]}"#;
        let abilities = Abilities::new(&serde_json::from_str(info).unwrap());
        assert_eq!(abilities.version, "10.0.2\u{fffd}[31m");
        assert_eq!(abilities.permitted, ["guest-exec"]);
        assert_eq!(abilities.switched_off, ["guest-file-open"]);
        assert_eq!(abilities.unknown.len(), COMMANDS.len() - 2);
        assert!(abilities.permits("guest-exec") && !abilities.permits("guest-anything"));
    }
}
