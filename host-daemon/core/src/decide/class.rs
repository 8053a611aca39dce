//! What a domain is for, inferred: who talks and waits is `latency`, who burns CPU in silence is `batch`.

use serde::{Deserialize, Serialize};

use super::history::History;
use super::input;
use crate::model::{DomainModel, GuestModel};
use crate::policy::{Class, ClassSetting, Policy};

/// Packets a second, in the weaker direction, above which a domain talks. ARP and DHCP stay well below.
const TALKS_PACKETS_PER_S: f64 = 5.0;
/// Part of its vcpus above which a silent domain burns CPU.
const BURNS: f64 = 0.5;
/// Windows in a row until a class is taken.
const ENTER: u32 = 3;
/// Windows in a row until `latency` is lost: a minute at the default period, longer than pauses between requests.
const LEAVE_LATENCY: u32 = 12;

/// What is remembered about a domain's class.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ClassHistory {
    /// The class inferred.
    pub current: Class,
    /// What it was inferred from, name and value.
    pub evidence: Vec<(String, String)>,
    candidate: Class,
    windows: u32,
}

/// The class that counts for a domain: the configured one, else the inferred one.
#[must_use]
pub fn class_of(domain: &DomainModel, policy: &Policy, history: &History) -> Class {
    match policy.of(domain).class().value {
        ClassSetting::Latency => Class::Latency,
        ClassSetting::Standard => Class::Standard,
        ClassSetting::Batch => Class::Batch,
        ClassSetting::Auto => history.domains.get(&domain.uuid).map_or(Class::Standard, |history| {
            history.asked.class().map_or(history.class.current, |(class, _)| class)
        }),
    }
}

/// Whether a domain burned CPU in silence in the last window, so that it is about to be `batch`: raised meanwhile, it would take
/// from those that it is to yield to.
pub(super) fn will_be_batch(domain: &DomainModel, policy: &Policy, history: &History) -> bool {
    let is_open = policy.of(domain).class().value == ClassSetting::Auto;
    is_open
        && history.domains.get(&domain.uuid).is_some_and(|entry| {
            // A tick that saw its beginning only has no word for it yet.
            let burns = entry.class.candidate == Class::Batch || entry.onset.begins_to_burn();
            burns && entry.asked.class().is_none()
        })
}

/// Whether a domain answers others in this window.
pub(super) fn talks(domain: &DomainModel) -> bool {
    let serves = domain.guest.as_ref().and_then(GuestModel::communicating) == Some(true);
    let packets = domain.conversation_packets_per_s();
    packets.is_some_and(|packets| packets >= TALKS_PACKETS_PER_S || (serves && packets >= 1.0))
}

/// Whether a domain burns CPU in silence in this window.
pub(super) fn burns(domain: &DomainModel) -> bool {
    !talks(domain) && domain.cpu_demand().is_some_and(|demand| demand >= BURNS * domain.vcpu_count())
}

/// Looks at one window of a domain.
pub(super) fn infer(domain: &DomainModel, policy: &Policy, history: &mut History) {
    let Some(history) = history.domains.get_mut(&domain.uuid) else { return };
    let (onset, class) = (history.onset, &mut history.class);
    let (Some(wait), Some(demand)) = (domain.wait_ratio(), domain.cpu_demand()) else { return };
    let packets = domain.conversation_packets_per_s();
    let talks = talks(domain);
    let waits = wait.0 > policy.weight.latency_target;
    // Once protected it does not wait any more; that must not cost it the protection.
    let seen = if talks && (waits || class.current == Class::Latency) {
        Class::Latency
    } else if burns(domain) {
        Class::Batch
    } else {
        Class::Standard
    };
    class.windows = if seen == class.candidate { class.windows.saturating_add(1) } else { 1 };
    class.candidate = seen;
    // A tick that comes early must not find everybody unknown.
    let is_plain = (seen == Class::Latency && onset.talks()) || (seen == Class::Batch && onset.burns());
    let needed = match class.current {
        Class::Latency => LEAVE_LATENCY,
        _ if is_plain => 1,
        _ => ENTER,
    };
    if seen == class.current || class.windows >= needed {
        class.current = seen;
        class.evidence = vec![
            input(
                "answered packets/s",
                packets.map_or_else(|| "unknown".to_owned(), |packets| format!("{packets:.0}")),
            ),
            input("wait ratio", wait),
            input("pcpus wanted", format!("{demand:.2} for {} vcpus", domain.vcpus.len())),
            input("windows", class.windows),
        ];
    }
}
