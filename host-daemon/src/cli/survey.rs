//! One look at the domains without a daemon, for `kvmpilot doctor`: what libvirt tells of each and what its agent permits.

use std::collections::BTreeMap;
use std::time::Duration;

use kvmpilot_core::model::Model;
use kvmpilot_core::sample::{DomainSample, DomainState, Sample};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::api::views::CheckView;
use crate::clock::since_1970;
use crate::config::Config;
use crate::doctor;
use crate::guest_channel::GuestChannel;
use crate::libvirt::Libvirt;
use crate::sense::GuestState;

/// For all domains together.
const PATIENCE: Duration = Duration::from_secs(15);
/// Asked at the same time; the others wait.
const SIDE_BY_SIDE: usize = 8;

/// One domain, what libvirt does not tell of it, and its agent if there is one.
type Found = (DomainSample, Vec<String>, Option<GuestState>);

/// Checks of all running domains. Those that did not answer in time are left out, and their number is told.
pub(super) async fn checks(libvirt: &Libvirt, config: &Config) -> (Vec<CheckView>, usize) {
    let deadline = Instant::now() + PATIENCE;
    let Ok(Ok(active)) = timeout_at(deadline, libvirt.domains()).await else { return (Vec::new(), 0) };
    let mut left: Vec<_> = active
        .into_iter()
        .filter(|domain| domain.state.is_none_or(|state| state == DomainState::Running))
        .collect();
    if !left.is_empty() && config.daemon.agent.enabled {
        eprintln!(
            "kvmpilot: asking the agents of {} domains, for {} s at most",
            left.len(),
            PATIENCE.as_secs()
        );
    }
    let all = left.len();
    let channel = GuestChannel::new(libvirt.clone(), &config.daemon.agent);
    let (mut asked, mut found) = (JoinSet::new(), Vec::<Found>::new());
    loop {
        while asked.len() < SIDE_BY_SIDE
            && let Some(domain) = left.pop()
        {
            asked.spawn(look(libvirt.clone(), channel.clone(), domain.uuid, config.daemon.agent.enabled));
        }
        match timeout_at(deadline, asked.join_next()).await {
            Ok(Some(Ok(Some(domain)))) => found.push(domain),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    found.sort_by(|(a, ..), (b, ..)| a.name.cmp(&b.name));
    let missing = all - found.len();
    (of(found), missing)
}

fn of(found: Vec<Found>) -> Vec<CheckView> {
    let untold = found.iter().filter_map(|(domain, untold, _)| doctor::domain(&domain.name, untold));
    let mut checks: Vec<CheckView> = untold.collect();
    let mut guests = BTreeMap::new();
    let mut sample = Sample::default();
    for (domain, _, state) in found {
        guests.extend(state.map(|state| (domain.uuid, state)));
        sample.domains.push(domain);
    }
    let model = Model::new(&sample, &sample, Duration::ZERO, Duration::ZERO, since_1970().as_secs());
    checks.extend(doctor::guests(&model, &guests));
    checks
}

async fn look(
    libvirt: Libvirt,
    channel: GuestChannel,
    uuid: kvmpilot_core::Uuid,
    ask_agents: bool,
) -> Option<Found> {
    let reading = libvirt.read_domain(uuid).await.ok()?;
    let mut domain = reading.sample;
    let mut untold: Vec<String> = reading.missing.iter().map(ToString::to_string).collect();
    if domain.balloon_refusal.is_none() {
        match libvirt.read_balloon(uuid).await {
            Ok(balloon) => domain.balloon = Some(balloon),
            Err(error) => untold.push(error.to_string()),
        }
    }
    if !ask_agents || domain.agent_connected != Some(true) {
        return Some((domain, untold, None));
    }
    let agent = channel.agent(uuid);
    let mut state = GuestState::default();
    state.trouble = agent.inventory().await.err().map(|error| error.to_string());
    state.abilities = agent.abilities().await;
    Some((domain, untold, Some(state)))
}
