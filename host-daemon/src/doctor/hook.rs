//! libvirt's hook for guests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::check;
use crate::api::views::{CheckView, Verdict};
use crate::hook::{Heard, HookReport};

/// What goes without the hook.
const WITHOUT: &str = "domains are seen by libvirt's events, and at most 15 s later where one is lost";

/// Whether it is installed at `path`, and whether it has been heard of.
pub(super) fn check_hook(path: &Path, report: Option<&HookReport>) -> CheckView {
    let warning =
        |message: String, advice: &str| check("libvirt hook", Verdict::Warning, message, Some(advice));
    let ok = |message: String| check("libvirt hook", Verdict::Ok, message, None);
    let place = path.display();
    match fs::metadata(path) {
        Err(_) => {
            return warning(
                format!("there is no {place}: {WITHOUT}"),
                "install kvmpilot-hook there and reload libvirt (docs/hook.md)",
            );
        }
        Ok(meta) if !meta.is_file() || meta.permissions().mode() & 0o111 == 0 => {
            return warning(
                format!("{place} is no program that can be run, so libvirt does not call it: {WITHOUT}"),
                "install kvmpilot-hook there with mode 0755 and reload libvirt (docs/hook.md)",
            );
        }
        Ok(_) => {}
    }
    match report {
        None => ok(format!("{place} is installed")),
        Some(HookReport::Deaf(why)) => warning(
            format!("{place} is installed, but kvmpilotd does not listen: {why}"),
            "see daemon.hook_socket in kvmpilot.toml(5), and restart kvmpilotd",
        ),
        Some(HookReport::Listens(Heard { last: None, refused, .. })) => {
            let refused = match refused {
                0 => String::new(),
                many => format!(", and {many} messages that were not its own"),
            };
            // Right after the installation that is as it should be; a libvirt that does not know it yet looks the same.
            ok(format!(
                "{place} is installed; nothing was heard of it since kvmpilotd started{refused}. If a guest has started since, \
                 reload libvirt: it looks for hooks only when it starts or is reloaded"
            ))
        }
        Some(HookReport::Listens(Heard { calls, refused, dropped, last: Some((last, at)) })) => ok(format!(
            "{place} is installed and was heard of {calls} times, {} s ago last ({last}); {refused} messages were refused, \
             {dropped} were too many",
            at.elapsed().as_secs()
        )),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn what_is_missing_is_told_with_the_way_out() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvmpilot");
        let heard = |last: Option<(String, Instant)>| {
            Some(HookReport::Listens(Heard { calls: 3, refused: 1, dropped: 0, last }))
        };
        let deaf = Some(HookReport::Deaf("/x: Permission denied".to_owned()));
        let mut found = Vec::new();
        let mut look = |report: &Option<HookReport>| {
            let check = check_hook(&path, report.as_ref());
            assert_eq!(check.verdict != Verdict::Ok, check.advice.is_some(), "{check:?}");
            found.push((check.verdict, check.message));
        };
        look(&None);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        look(&None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        for report in [None, deaf, heard(None), heard(Some(("web started begin".to_owned(), Instant::now())))]
        {
            look(&report);
        }
        let expected = [
            (Verdict::Warning, "there is no "),
            (Verdict::Warning, "is no program that can be run"),
            (Verdict::Ok, "is installed"),
            (Verdict::Warning, "does not listen: /x: Permission denied"),
            (Verdict::Ok, "nothing was heard of it since kvmpilotd started, and 1 messages"),
            (Verdict::Ok, "was heard of 3 times, 0 s ago last (web started begin); 1 messages were refused"),
        ];
        assert_eq!(found.len(), expected.len());
        for ((verdict, message), (wanted, part)) in found.iter().zip(expected) {
            assert_eq!(*verdict, wanted, "{message}");
            assert!(message.contains(part), "{message}");
        }
    }
}
