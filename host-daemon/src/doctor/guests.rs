//! Agents and balloons, domain by domain.

use kvmpilot_core::model::DomainModel;

use super::check;
use crate::agent::Abilities;
use crate::api::views::{CheckView, Verdict};
use crate::sense::GuestState;

/// The way out of an agent that runs no programs.
const PERMIT: &str = "in the guest, take guest-exec and guest-exec-status out of the list of blocked RPCs, or add them to the \
    list of allowed ones, and restart qemu-guest-agent: FILTER_RPC_ARGS or BLACKLIST_RPC in /etc/sysconfig/qemu-ga \
    (RHEL and its kin), block-rpcs or allow-rpcs in /etc/qemu/qemu-ga.conf elsewhere; or leave it: the host side works on";
/// The way out of an agent without rights.
const AS_ROOT: &str = "in the guest, have qemu-guest-agent run as root, which its packages do; or leave it: the host side works on";
const WINDOWS: &str = "; Windows guests are not proven yet: the adapter was never run on a real one";

/// The domain's agent: whether it is there, answers, and what it permits.
pub(super) fn agent(domain: &DomainModel, state: Option<&GuestState>) -> CheckView {
    let name = format!("agent of {}", domain.name);
    let abilities = state.and_then(|state| state.abilities.as_ref());
    let trouble = state.and_then(|state| state.trouble.as_deref());
    let warning = |message: String, advice: &str| check(&name, Verdict::Warning, message, Some(advice));
    let latest = state.and_then(|state| state.latest.as_ref());
    let unread = latest.and_then(|latest| latest.sample.unread.as_deref());
    let is_windows = state
        .and_then(|state| state.system.as_ref())
        .is_some_and(|system| system.os_id.as_deref() == Some("mswindows"));
    let runs_programs = abilities.is_some_and(|abilities| abilities.permitted.contains(&"guest-exec"));
    let advice = if runs_programs { AS_ROOT } else { PERMIT };
    if let (Some(true), None, Some(unread)) = (domain.agent_connected, trouble, unread) {
        let permits = abilities.map_or_else(String::new, |abilities| format!("; {}", permits(abilities)));
        return warning(format!("{unread}; its load and CPU time count{permits}"), advice);
    }
    match (domain.agent_connected, trouble) {
        (_, Some(trouble)) => warning(
            format!(
                "{trouble}{}",
                abilities.map_or_else(String::new, |abilities| format!("; {}", permits(abilities)))
            ),
            "its processes are neither seen nor re-levelled; the host side works on",
        ),
        (None, None) => warning(
            "the domain has no agent channel".to_owned(),
            "add a <channel> named org.qemu.guest_agent.0 and install qemu-guest-agent in the guest",
        ),
        (Some(false), None) => {
            warning("no agent is connected".to_owned(), "install and start qemu-guest-agent in the guest")
        }
        (Some(true), None) => {
            let message = match abilities {
                Some(abilities) => {
                    let unproven = if is_windows { WINDOWS } else { "" };
                    format!("answers; {}{unproven}", permits(abilities))
                }
                None => "is connected and was not asked yet".to_owned(),
            };
            check(&name, Verdict::Ok, message, None)
        }
    }
}

fn permits(abilities: &Abilities) -> String {
    let list = |what: &str, commands: &[&str]| {
        (!commands.is_empty()).then(|| format!("{what} {}", commands.join(", ")))
    };
    let parts = [
        Some(format!("qemu-guest-agent {}", abilities.version)),
        list("permits", &abilities.permitted),
        list("has switched off", &abilities.switched_off),
        list("does not know", &abilities.unknown),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// The domain's balloon, where there is something to say about it.
pub(super) fn balloon(domain: &DomainModel) -> Option<CheckView> {
    let name = format!("balloon of {}", domain.name);
    if let Some(why) = &domain.balloon_refusal {
        return Some(check(&name, Verdict::Ok, format!("left alone: {why}"), None));
    }
    let balloon = domain.balloon?;
    if let Some(doubt) = balloon.doubt {
        let message = format!("the guest's figures cannot be true ({doubt}), so its balloon is left alone");
        let advice = "look at the guest's virtio_balloon driver, and at who runs the guest";
        return Some(check(&name, Verdict::Warning, message, Some(advice)));
    }
    match balloon.age {
        Some(age) => {
            // Pressure that nobody asked for is no warning: the figures of every kernel do as well.
            let counters = if balloon.oom_kills.is_some() {
                "it also counts its out-of-memory kills and allocation stalls"
            } else {
                "out-of-memory kills and allocation stalls are not told (Linux 6.12 and balloon.qemu_monitor)"
            };
            let message = format!("the guest reported its memory {:.0} s ago; {counters}", age.as_secs_f64());
            Some(check(&name, Verdict::Ok, message, None))
        }
        None => Some(check(
            &name,
            Verdict::Warning,
            "the guest reports no memory statistics, so its balloon is left alone".to_owned(),
            Some(
                "set <stats period='5'/> in the domain's <memballoon>, and load virtio_balloon in the guest",
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kvmpilot_core::model::{GuestReading, Model};
    use kvmpilot_core::sample::{GuestSample, Sample};

    use super::*;

    fn domain(agent_connected: Option<bool>) -> DomainModel {
        let sample = Sample { domains: vec![crate::record::tests::domain()], ..Sample::default() };
        let model = Model::new(&sample, &sample, Duration::ZERO, Duration::from_secs(1), 0);
        DomainModel { agent_connected, ..model.domains[0].clone() }
    }

    #[test]
    fn an_agent_is_judged_by_what_it_answers_and_permits() {
        let abilities = Abilities {
            version: "10.0.2".to_owned(),
            permitted: vec!["guest-exec"],
            switched_off: vec!["guest-file-open"],
            unknown: vec![],
        };
        let state = |trouble: Option<&str>| {
            let mut state = GuestState::default();
            state.trouble = trouble.map(str::to_owned);
            state.abilities = Some(abilities.clone());
            state
        };
        let said = |connected, state: Option<&GuestState>| {
            let check = agent(&domain(connected), state);
            assert_eq!(check.advice.is_some(), check.verdict != Verdict::Ok, "{check:?}");
            (check.verdict, check.message)
        };
        assert_eq!(said(None, None).0, Verdict::Warning);
        assert_eq!(said(Some(false), None).1, "no agent is connected");
        assert_eq!(said(Some(true), None).0, Verdict::Ok);
        let (verdict, message) = said(Some(true), Some(&state(None)));
        assert_eq!(verdict, Verdict::Ok);
        assert!(
            message.contains("10.0.2; permits guest-exec; has switched off guest-file-open"),
            "{message}"
        );
        let mut silent = state(None);
        silent.latest = Some(std::sync::Arc::new(GuestReading {
            at: Duration::ZERO,
            host_cpu_ns: None,
            sample: GuestSample { unread: Some("guest-exec is off".to_owned()), ..GuestSample::default() },
        }));
        let (verdict, message) = said(Some(true), Some(&silent));
        assert_eq!(verdict, Verdict::Warning);
        assert!(
            message.starts_with("guest-exec is off; its load and CPU time count; qemu-guest-agent"),
            "{message}"
        );
        // It runs programs, so what they may not see is a question of rights.
        let check = agent(&domain(Some(true)), Some(&silent));
        assert!(check.advice.is_some_and(|advice| advice.contains("run as root")));
        silent.abilities.as_mut().unwrap().permitted.clear();
        let check = agent(&domain(Some(true)), Some(&silent));
        assert!(check.advice.is_some_and(|advice| advice.contains("/etc/sysconfig/qemu-ga")));
        let (verdict, message) = said(Some(true), Some(&state(Some("guest-exec is switched off"))));
        assert_eq!(verdict, Verdict::Warning);
        assert!(message.starts_with("guest-exec is switched off; qemu-guest-agent 10.0.2"), "{message}");
    }

    #[test]
    fn a_balloon_without_reports_is_a_warning() {
        assert_eq!(balloon(&domain(None)), None);
        let refused =
            DomainModel { balloon_refusal: Some("it has a VFIO device".to_owned()), ..domain(None) };
        assert_eq!(balloon(&refused).unwrap().verdict, Verdict::Ok);
    }
}
