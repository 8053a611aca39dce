//! Whether one component talks to another one. Permanent connections show as sockets. Short ones hardly ever do: of them tell
//! what has been closed since the poll before (TIME_WAIT), what flow probes saw moving, and sockets that wait for an answer
//! in vain. A round is over when each guest that can be asked has been asked again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::component::{listeners, processes};
use super::{Inside, POLLS};
use crate::model::{DomainModel, GuestModel};
use crate::policy::{ComponentPolicy, ConnectionPolicy, Policy};
use crate::sample::{FlowState, SocketProtocol, SocketSample, SocketState};
use crate::service::{ConnectionStatus, PartState};

/// Rounds without a sign of a connection before it is missed.
const PATIENCE: u32 = 2;
/// A connection that is silent for longer than this at a time is not watched for silence.
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);

/// What is remembered of a connection besides its status.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Line {
    round: Option<Round>,
    /// Polls that have been looked at: of who opens, and of who listens.
    looked: [Option<Duration>; 2],
    /// Sockets that were being closed at these polls: local port, peer's address and port.
    closing: [BTreeSet<(u16, IpAddr, u16)>; 2],
    flows_at: Option<Duration>,
    misses: u32,
    /// When there was a sign of it last.
    seen: Option<Duration>,
}

/// What was seen since the last judgement.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Round {
    began: Duration,
    /// Which of the two guests have been asked.
    asked: [bool; 2],
    /// Sockets open at the last polls.
    open: usize,
    /// Connections that came and went.
    closed: usize,
    moved: bool,
    /// Sockets that wait for an answer.
    waiting: usize,
    /// Something was sent, and nothing came back.
    unanswered: bool,
}

/// One of the two components.
pub(super) struct End<'a> {
    pub(super) component: &'a ComponentPolicy,
    pub(super) inside: &'a Inside<'a>,
}

pub(super) struct Clock<'a> {
    pub(super) at: Duration,
    pub(super) unix_ms: u64,
    pub(super) policy: &'a Policy,
}

/// As it is before anybody looked.
pub(super) fn blank(policy: &ConnectionPolicy) -> ConnectionStatus {
    ConnectionStatus {
        from: policy.from.clone(),
        to: policy.to.clone(),
        port: policy.port,
        protocol: policy.protocol,
        reason: "not looked at yet".to_owned(),
        ..ConnectionStatus::default()
    }
}

impl End<'_> {
    fn guest(&self) -> Option<&GuestModel> {
        match self.inside {
            Inside::Told(domain) => domain.guest.as_ref(),
            _ => None,
        }
    }

    /// Addresses of its guest, as far as they were seen in use.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        let Some(domain) = self.inside.domain() else { return BTreeSet::new() };
        let reading = domain.guest.as_ref().and_then(|guest| guest.reading.as_ref());
        let sockets = reading.iter().flat_map(|reading| &reading.sample.sockets);
        let listeners = reading.iter().flat_map(|reading| &reading.sample.listeners);
        let flows = domain.flows.iter().flat_map(|flows| &flows.flows);
        sockets
            .map(|socket| socket.local_address)
            .chain(listeners.map(|listener| listener.address))
            .chain(flows.map(|flow| flow.sample.guest_address))
            .map(|address| address.to_canonical())
            .filter(|address| !address.is_unspecified() && !address.is_loopback())
            .collect()
    }

    fn is_gone(&self) -> Option<&str> {
        if let Inside::Gone(why) = self.inside { Some(why) } else { None }
    }

    /// Whether a socket may be the component's: held by one of its processes or their children, or by nobody any more.
    fn may_own(&self, guest: &GuestModel, socket: &SocketSample) -> bool {
        if socket.owners.is_empty() || (self.component.process.is_none() && self.component.unit.is_none()) {
            return true;
        }
        let own: BTreeSet<u32> =
            processes(self.component, guest).map(|process| process.sample.key.pid).collect();
        let all = guest.reading.iter().flat_map(|reading| &reading.sample.processes);
        let parents: BTreeMap<u32, u32> = all.map(|process| (process.key.pid, process.parent)).collect();
        // A guest may lie about parents, so a circle ends.
        let line = |pid: u32| std::iter::successors(Some(pid), |pid| parents.get(pid).copied()).take(16);
        socket.owners.iter().any(|owner| line(*owner).any(|pid| own.contains(&pid)))
    }
}

impl Line {
    pub(super) fn judge(
        &mut self,
        from: &End<'_>,
        to: &End<'_>,
        known: &mut ConnectionStatus,
        clock: &Clock<'_>,
    ) {
        if let Some(why) = from.is_gone().or_else(|| to.is_gone()) {
            (known.present, known.port_open, known.moving) = (None, None, None);
            self.settle(known, PartState::Down, why.to_owned(), clock);
            (self.round, self.misses) = (None, PATIENCE);
            return;
        }
        let addresses = [from.addresses(), to.addresses()];
        // Inside of one guest, connections go over its loopback.
        let local = from.component.domain == to.component.domain;
        let is = |peer: IpAddr, addresses: &BTreeSet<IpAddr>| {
            let peer = peer.to_canonical();
            (local && peer.is_loopback()) || addresses.is_empty() || addresses.contains(&peer)
        };
        let [ours, theirs] = &addresses;
        let opens = |socket: &SocketSample| socket.peer_port == known.port && is(socket.peer_address, theirs);
        let listens =
            |socket: &SocketSample| socket.local_port == known.port && is(socket.peer_address, ours);
        let mut round = self.round.unwrap_or_else(|| Round { began: clock.at, ..Round::default() });
        let asked = [
            self.look(0, from, known.protocol, opens, &mut round),
            self.look(1, to, known.protocol, listens, &mut round),
        ];
        let flows = self.flows(from, to, known, &is, &addresses, &mut round);
        if let Some(guest) = to.guest() {
            let target = ComponentPolicy { protocol: known.protocol, ..to.component.clone() };
            let open = listeners(&target, known.port, guest).next().is_some();
            known.port_open = Some(open);
            if open {
                known.port_open_unix_ms = Some(clock.unix_ms);
            }
        } else if matches!(to.inside, Inside::Silent(..)) {
            known.port_open = None;
        }
        self.round = Some(round);
        let over = match asked {
            [None, None] => flows && clock.at.saturating_sub(round.began) >= clock.policy.periods.guest,
            _ => asked.into_iter().flatten().all(|asked| asked),
        };
        if over {
            self.conclude(round, [from, to], known, clock, flows);
        } else if asked == [None, None] && !flows {
            let silent = [from, to].into_iter().all(|end| matches!(end.inside, Inside::Silent(..)));
            if silent {
                known.present = None;
                (known.state, known.reason) =
                    (PartState::Unknown, "neither guest can be asked, and no flow probe sees it".to_owned());
            }
        }
    }

    /// Looks at the sockets of one end, once for each poll. Whether it was asked in this round; `None` if it cannot be.
    fn look(
        &mut self,
        end: usize,
        of: &End<'_>,
        protocol: SocketProtocol,
        is_it: impl Fn(&SocketSample) -> bool,
        round: &mut Round,
    ) -> Option<bool> {
        let guest = match of.inside {
            Inside::Told(domain) => domain.guest.as_ref()?,
            Inside::Later(domain) if domain.agent_connected == Some(true) => {
                return round.asked.get(end).copied();
            }
            _ => return None,
        };
        let (looked, closing) = (self.looked.get_mut(end)?, self.closing.get_mut(end)?);
        let asked = round.asked.get_mut(end)?;
        if looked.is_some_and(|at| at >= guest.at) {
            return Some(*asked);
        }
        *asked = true;
        let first = looked.replace(guest.at).is_none();
        let sockets = guest.reading.iter().flat_map(|reading| &reading.sample.sockets);
        let sockets: Vec<_> = sockets
            .filter(|socket| socket.protocol == protocol && is_it(socket) && of.may_own(guest, socket))
            .collect();
        let now: BTreeSet<_> = sockets
            .iter()
            .filter(|socket| socket.state == SocketState::Closing)
            .map(|socket| (socket.local_port, socket.peer_address, socket.peer_port))
            .collect();
        let count = |state| sockets.iter().filter(|socket| socket.state == state).count();
        // Only who listens closes without us: TIME_WAIT of a minute ago says nothing about now, unless it is all there is.
        round.closed += if first { now.len() } else { now.difference(closing).count() };
        *closing = now;
        round.open = round.open.max(count(SocketState::Established));
        round.waiting += if end == 0 { count(SocketState::Opening) } else { 0 };
        Some(true)
    }

    /// Adds what the flow probes saw; whether there are any.
    fn flows(
        &mut self,
        from: &End<'_>,
        to: &End<'_>,
        known: &mut ConnectionStatus,
        is: &impl Fn(IpAddr, &BTreeSet<IpAddr>) -> bool,
        [ours, theirs]: &[BTreeSet<IpAddr>; 2],
        round: &mut Round,
    ) -> bool {
        let [opens, listens] =
            [from, to].map(|end| end.inside.domain().and_then(|domain: &DomainModel| domain.flows.as_ref()));
        let Some(at) = opens.or(listens).map(|flows| flows.at) else {
            known.moving = None;
            return false;
        };
        if self.flows_at.is_some_and(|looked| looked >= at) {
            return true;
        }
        self.flows_at = Some(at);
        let of_ours = opens
            .iter()
            .flat_map(|flows| &flows.flows)
            .filter(|flow| flow.sample.peer_port == known.port && is(flow.sample.peer_address, theirs));
        let of_theirs = listens
            .iter()
            .flat_map(|flows| &flows.flows)
            .filter(|flow| flow.sample.guest_port == known.port && is(flow.sample.peer_address, ours));
        let (mut moving, mut unanswered) = (false, false);
        for flow in of_ours.chain(of_theirs) {
            if flow.sample.protocol() != Some(known.protocol) {
                continue;
            }
            let went = |rate: Option<f64>| rate.is_some_and(|rate| rate > 0.0);
            let (sent, received) = (went(flow.rate.sent_bytes_per_s), went(flow.rate.received_bytes_per_s));
            if sent && received && flow.sample.state != FlowState::Opening {
                moving = true;
            } else if sent != received {
                unanswered = true;
            }
        }
        known.moving = Some(moving);
        round.moved |= moving;
        // What is said last counts.
        round.unanswered = unanswered && !moving;
        true
    }

    /// Judges a round, and begins the next.
    fn conclude(
        &mut self,
        round: Round,
        [from, to]: [&End<'_>; 2],
        known: &mut ConnectionStatus,
        clock: &Clock<'_>,
        flows: bool,
    ) {
        self.round = Some(Round { began: clock.at, ..Round::default() });
        known.present = (round.asked != [false, false]).then_some(round.open > 0 || round.closed > 0);
        if known.present == Some(true) {
            known.present_unix_ms = Some(clock.unix_ms);
        }
        if round.moved {
            known.moving_unix_ms = Some(clock.unix_ms);
        }
        let place = format!("{} port {} of {}", known.protocol.as_str(), known.port, to.component.name);
        let stuck = round.unanswered && round.open > 0;
        let tries = round.waiting > 0 && round.open == 0;
        let seen = round.moved || round.closed > 0 || (round.open > 0 && !stuck);
        if known.port_open == Some(false) {
            self.misses = PATIENCE;
            return self.settle(known, PartState::Down, format!("nobody listens on {place}"), clock);
        }
        if known.protocol == SocketProtocol::Udp && !seen && !flows {
            let why = "without flow probes, UDP shows only where it is connected".to_owned();
            return self.settle(known, PartState::Unknown, why, clock);
        }
        if stuck || tries {
            // A connection that is just being opened is no failure; one that fails while others work may be.
            self.misses = if seen { self.misses + 1 } else { PATIENCE };
        } else if seen {
            let silence = self.seen.map_or(Duration::ZERO, |at| clock.at.saturating_sub(at));
            if self.misses > 0 && silence <= LONGEST_SILENCE {
                known.usual_silence_s = known.usual_silence_s.max(silence.as_secs_f64());
            }
            self.misses = 0;
        } else {
            self.misses = self.misses.saturating_add(1);
        }
        if seen {
            self.seen = Some(clock.at);
        }
        let silence = self.seen.map(|at| clock.at.saturating_sub(at));
        let opener = &from.component.name;
        if self.misses == 0 {
            let how = if round.open > 0 {
                format!("{} open", round.open)
            } else if round.closed > 0 {
                format!("{} since the poll before", round.closed)
            } else {
                "bytes move".to_owned()
            };
            return self.settle(known, PartState::Up, format!("connections to {place}: {how}"), clock);
        }
        let why = if stuck {
            format!("what {opener} and {place} send each other gets no answer")
        } else if tries {
            format!("{opener} tries to connect to {place} and gets no answer")
        } else {
            let since =
                silence.map_or_else(|| "yet".to_owned(), |silence| format!("for {} s", silence.as_secs()));
            format!("no connection of {opener} to {place} {since}")
        };
        let rests = !(stuck || tries)
            && silence.is_some_and(|silence| silence.as_secs_f64() < 2.0 * known.usual_silence_s);
        if self.misses >= PATIENCE && !rests {
            self.settle(known, PartState::Down, why, clock);
        } else if known.state != PartState::Unknown {
            // One poll of grace.
            self.settle(known, known.state, why, clock);
        } else {
            known.reason = why;
        }
    }

    /// Sets the state, and adds the time since the last judgement to the up-time of the state that was.
    fn settle(&mut self, known: &mut ConnectionStatus, state: PartState, reason: String, clock: &Clock<'_>) {
        let judged = known.judged_unix_ms.replace(clock.unix_ms).unwrap_or(clock.unix_ms);
        // Time in which nobody looked is not counted.
        let longest = clock.policy.periods.guest.as_millis().saturating_mul(u128::from(POLLS));
        let passed_ms = u128::from(clock.unix_ms.saturating_sub(judged)).min(longest);
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a few polls")]
        let passed = passed_ms as f64 / 1000.0;
        if known.state != PartState::Unknown && passed > 0.0 {
            let up = known.up_ratio.unwrap_or(0.0) * known.watched_s;
            let up = up + if known.state == PartState::Up { passed } else { 0.0 };
            known.watched_s += passed;
            known.up_ratio = Some((up / known.watched_s).clamp(0.0, 1.0));
        }
        (known.state, known.reason) = (state, reason);
    }
}
