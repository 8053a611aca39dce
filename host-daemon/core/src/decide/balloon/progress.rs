//! Guests that do not follow: a balloon is a request, and a guest may be slow, stuck or unwilling. XenServer's squeezed has
//! the same two limits. One that does not follow gets its memory back on paper, too, so that it does not move when nobody
//! looks, and is left alone.

use std::time::Duration;

use crate::decide::history::History;
use crate::decide::{finding, input, propose};
use crate::finding::{Finding, Severity};
use crate::model::DomainModel;
use crate::order::{Action, Proposal, Reason};

/// Time without any movement after which nothing more is asked.
pub(super) const INACTIVE: Duration = Duration::from_secs(5);
/// Time without any movement after which the guest is left alone.
const UNCOOPERATIVE: Duration = Duration::from_secs(20);
/// Time until it is tried again, unless the domain is restarted.
const LEFT_ALONE: Duration = Duration::from_secs(6 * 3600);

/// Takes the target of a guest back that has not moved for too long.
pub(super) fn put_back(domain: &DomainModel, at: Duration, history: &mut History) -> Option<Proposal> {
    let entry = history.domains.get_mut(&domain.uuid)?;
    let (original, current) = (entry.balloon.original?, domain.balloon?.current);
    let (asked, idle) = (entry.memory.asked?, entry.memory.idle_for(at)?);
    if idle < UNCOOPERATIVE {
        return None;
    }
    entry.memory.uncooperative_since = Some(at);
    entry.memory.asked = None;
    let reason = Reason {
        rule: "balloon.no_progress".to_owned(),
        summary: format!(
            "{} was asked to come down to {} and has not moved for {} s; it is left alone",
            domain.name,
            asked.to,
            idle.as_secs()
        ),
        inputs: vec![input("memory now", current), input("asked for", asked.to), input("original", original)],
        threshold: format!("no movement for {} s", UNCOOPERATIVE.as_secs()),
        expected: "no movement of the balloon when nobody looks".to_owned(),
        alternatives: vec!["waiting longer: a guest that follows moves within a second or two".to_owned()],
        ..Reason::default()
    };
    Some(propose(domain, Action::SetBalloon { from: current, to: original }, reason, true))
}

/// Whether the domain is left alone because it did not follow.
pub(super) fn is_left_alone(domain: &DomainModel, at: Duration, history: &History) -> bool {
    let since = history.domains.get(&domain.uuid).and_then(|entry| entry.memory.uncooperative_since);
    since.is_some_and(|since| at.saturating_sub(since) < LEFT_ALONE)
}

/// Says who does not follow.
pub(super) fn judge(domain: &DomainModel, at: Duration, history: &History) -> Option<Finding> {
    let memory = &history.domains.get(&domain.uuid)?.memory;
    if is_left_alone(domain, at, history) {
        return Some(finding(
            domain,
            "balloon_uncooperative",
            Severity::Warning,
            "the guest does not move its balloon, so it is left alone; look at its virtio_balloon driver"
                .to_owned(),
            vec![],
        ));
    }
    let idle = memory.idle_for(at).filter(|idle| *idle >= INACTIVE)?;
    Some(finding(
        domain,
        "balloon_inactive",
        Severity::Info,
        "the guest has not moved its balloon yet; nothing more is asked of it".to_owned(),
        vec![
            input("asked for", memory.asked?.to),
            input("without movement", format!("{} s", idle.as_secs())),
        ],
    ))
}
