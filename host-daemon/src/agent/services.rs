//! Services of a guest as its init system lists them: `systemctl list-units`, `rc-status`, or the scripts in `/etc/init.d`.

use kvmpilot_core::sample::{GuestService, ServiceState};

use super::facts::{NAME_CHARS, filled};
use super::text::printable;

/// A line of `systemctl list-units --plain --no-legend`: `UNIT LOAD ACTIVE SUB DESCRIPTION`.
pub(super) fn systemd(line: &[u8]) -> Option<GuestService> {
    let line = printable(line, 512);
    let mut words = line.split_ascii_whitespace();
    let name = filled(words.next().filter(|name| name.ends_with(".service"))?)?;
    let (load, active, sub) = (words.next()?, words.next()?, words.next()?);
    let state = match active {
        "active" | "reloading" => ServiceState::Running,
        "inactive" => ServiceState::Stopped,
        "failed" => ServiceState::Failed,
        "activating" | "deactivating" => ServiceState::Changing,
        _ => ServiceState::Unknown,
    };
    let detail = if load == "loaded" { sub.to_owned() } else { format!("{sub}, {load}") };
    Some(GuestService { name, state, detail: printable(detail.as_bytes(), NAME_CHARS) })
}

/// A line of `rc-status --servicelist`: ` sshd        [  started 1 day(s)  ]`.
pub(super) fn openrc(line: &[u8]) -> Option<GuestService> {
    let line = printable(line, 512);
    let (name, state) = line.split_once('[')?;
    let detail = state.trim_end().strip_suffix(']')?.trim();
    let state = match detail.split_ascii_whitespace().next()? {
        "started" | "scheduled" => ServiceState::Running,
        "stopped" => ServiceState::Stopped,
        "crashed" | "failed" => ServiceState::Failed,
        "starting" | "stopping" => ServiceState::Changing,
        _ => ServiceState::Unknown,
    };
    Some(GuestService { name: filled(name)?, state, detail: printable(detail.as_bytes(), NAME_CHARS) })
}

/// The name of a script in `/etc/init.d`. Asking each for its state would run all of them.
pub(super) fn script(line: &[u8]) -> Option<GuestService> {
    let name = filled(&printable(line, NAME_CHARS))?;
    Some(GuestService { name, state: ServiceState::Unknown, detail: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_each_init_system_are_read() {
        let read =
            |service: Option<GuestService>| service.map(|found| (found.name, found.state, found.detail));
        for (line, name, state, detail) in [
            (
                "ssh.service loaded active running OpenBSD Secure Shell server",
                "ssh.service",
                ServiceState::Running,
                "running",
            ),
            (
                "a.service not-found inactive dead a.service",
                "a.service",
                ServiceState::Stopped,
                "dead, not-found",
            ),
            ("b.service loaded failed failed B", "b.service", ServiceState::Failed, "failed"),
        ] {
            assert_eq!(read(systemd(line.as_bytes())), Some((name.to_owned(), state, detail.to_owned())));
        }
        assert_eq!(systemd(b"dev-vda.device loaded active plugged x"), None);
        assert_eq!(systemd(b"x.service loaded"), None);
        let sshd = read(openrc(b" sshd                 [  started 1 day(s) 02:03:04 (0) ]"));
        assert_eq!(
            sshd,
            Some(("sshd".to_owned(), ServiceState::Running, "started 1 day(s) 02:03:04 (0)".to_owned()))
        );
        assert_eq!(openrc(b"Runlevel: default"), None);
        assert_eq!(read(script(b"cron")), Some(("cron".to_owned(), ServiceState::Unknown, String::new())));
        assert_eq!(script(b" "), None);
    }
}
