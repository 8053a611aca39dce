//! What becomes of the flows of one domain between two readings of its table: which ended, which were pushed out,
//! which may be deleted. Pure book-keeping: no map, no clock.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use kvmpilot_core::sample::{
    EndedFlows, FlowSample, FlowSide, FlowSource, FlowState, FlowsSample, Traffic, service,
};
use kvmpilot_ebpf_common::flow::{ACK, FIN, Flow, FlowKey, OPENER_GUEST, OPENER_PEER, RST, SYN};

/// A closed connection may see a late packet or two. Longer, and short connections fill the table with dead ones.
const CLOSED_IDLE: Duration = Duration::from_millis(200);
/// Nobody ends a flow without states, and neither a SYN nor a FIN need ever be answered.
const STATELESS_IDLE: Duration = Duration::from_secs(120);
/// Ports that ended flows are added up by; what is beyond goes to port 0.
const PORTS: usize = 256;

/// One domain's flows.
#[derive(Debug)]
pub(super) struct Books {
    source: FlowSource,
    live: HashMap<FlowKey, Live>,
    ended: HashMap<(Option<u8>, FlowSide, u16), Ended>,
    deleted: u64,
    evicted: u64,
    unseen: Traffic,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    flow: Flow,
    moved_at: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    flows: u64,
    traffic: Traffic,
    moved_at: Duration,
}

impl Books {
    pub(super) fn new(source: FlowSource) -> Self {
        Self {
            source,
            live: HashMap::new(),
            ended: HashMap::new(),
            deleted: 0,
            evicted: 0,
            unseen: Traffic::default(),
        }
    }

    /// Flows at the last reading.
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Takes a reading at `now`: the table, and the totals and the number of flows made **before** the table was read.
    /// Returns the flows to delete; [`Self::deleted`] tells of each that was.
    pub(super) fn take<'a>(
        &mut self,
        table: impl Iterator<Item = (&'a FlowKey, &'a Flow)>,
        total: Traffic,
        flows_made: u64,
        now: Duration,
    ) -> Vec<FlowKey> {
        let mut before = std::mem::take(&mut self.live);
        for (key, flow) in table {
            let earlier = before.remove(key);
            let same_life = earlier.filter(|earlier| earlier.flow.first_ns == flow.first_ns);
            if let Some(ended) = earlier.filter(|_| same_life.is_none()) {
                self.end(key, &ended);
            }
            let moved_at = match same_life {
                Some(earlier) if traffic_of(&earlier.flow) == traffic_of(flow) => earlier.moved_at,
                _ => now,
            };
            self.live.insert(*key, Live { flow: *flow, moved_at });
        }
        for (key, gone) in before {
            self.end(&key, &gone);
        }
        let seen = self.seen();
        // More may have come between the two readings, so this never says too much.
        self.unseen = self.unseen.max(total.less(seen));
        let present = u64::try_from(self.live.len()).unwrap_or(u64::MAX);
        self.evicted = self.evicted.max(flows_made.saturating_sub(self.deleted).saturating_sub(present));
        let may_go = |live: &&Live| {
            let idle = now.saturating_sub(live.moved_at);
            match state(&live.flow) {
                FlowState::Closed => idle >= CLOSED_IDLE,
                FlowState::Opening | FlowState::Closing => idle >= STATELESS_IDLE,
                FlowState::Established => {
                    let flow = &live.flow;
                    let has_states = (flow.sent_flags | flow.received_flags | flow.tcp_state) != 0;
                    idle >= STATELESS_IDLE && !has_states
                }
            }
        };
        self.live.iter().filter(|(_, live)| may_go(live)).map(|(key, _)| *key).collect()
    }

    /// A flow of the last reading was taken out of the table.
    pub(super) fn deleted(&mut self, key: &FlowKey) {
        self.deleted += 1;
        if let Some(live) = self.live.remove(key) {
            self.end(key, &live);
        }
    }

    /// What all flows moved, present and past, as far as it was read.
    fn seen(&self) -> Traffic {
        let live = self.live.values().map(|live| traffic_of(&live.flow));
        live.chain(self.ended.values().map(|ended| ended.traffic)).fold(Traffic::default(), Traffic::plus)
    }

    fn end(&mut self, key: &FlowKey, live: &Live) {
        let protocol = (key.version != 0).then_some(key.protocol);
        let (side, port) = service(opener(&live.flow), key.guest_port, key.peer_port);
        let full = self.ended.len() >= PORTS && !self.ended.contains_key(&(protocol, side, port));
        let ended = self.ended.entry((protocol, side, if full { 0 } else { port })).or_default();
        ended.flows += 1;
        ended.traffic = ended.traffic.plus(traffic_of(&live.flow));
        ended.moved_at = ended.moved_at.max(live.moved_at);
    }

    /// Fills what the books know into a sample. `clock_ns` is the kernel's monotonic clock.
    pub(super) fn fill(&self, sample: &mut FlowsSample, now: Duration, clock_ns: u64) {
        let idle_ms = |moved_at: Duration| millis(now.saturating_sub(moved_at));
        sample.flows = self
            .live
            .iter()
            .map(|(key, live)| FlowSample {
                source: self.source,
                ip_protocol: (key.version != 0).then_some(key.protocol),
                guest_address: address(key.guest),
                guest_port: key.guest_port,
                peer_address: address(key.peer),
                peer_port: key.peer_port,
                opened_by: opener(&live.flow),
                state: state(&live.flow),
                age_ms: clock_ns.saturating_sub(live.flow.first_ns) / 1_000_000,
                idle_ms: idle_ms(live.moved_at),
                first_ns: live.flow.first_ns,
                traffic: traffic_of(&live.flow),
            })
            .collect();
        let ended = self.ended.iter().map(|(&(ip_protocol, side, port), ended)| EndedFlows {
            source: self.source,
            ip_protocol,
            side,
            port,
            flows: ended.flows,
            idle_ms: idle_ms(ended.moved_at),
            traffic: ended.traffic,
        });
        sample.ended = ended.collect();
        sample.flows_evicted = self.evicted;
        sample.unseen = self.unseen;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

const fn traffic_of(flow: &Flow) -> Traffic {
    Traffic {
        sent_bytes: flow.sent_bytes,
        sent_packets: flow.sent_packets,
        received_bytes: flow.received_bytes,
        received_packets: flow.received_packets,
    }
}

const fn opener(flow: &Flow) -> Option<FlowSide> {
    match flow.opener {
        OPENER_GUEST => Some(FlowSide::Guest),
        OPENER_PEER => Some(FlowSide::Peer),
        _ => None,
    }
}

/// `FIN` of one side closes half of a connection; `RST` closes all of it at once.
const fn state(flow: &Flow) -> FlowState {
    if flow.tgid != 0 {
        return socket_state(flow.tcp_state);
    }
    let (sent, received) = (flow.sent_flags, flow.received_flags);
    let both = sent & received;
    let any = sent | received;
    if any & RST != 0 || both & FIN != 0 {
        FlowState::Closed
    } else if any & FIN != 0 {
        FlowState::Closing
    } else if any & SYN != 0 && !(sent & ACK != 0 && received & ACK != 0) {
        FlowState::Opening
    } else {
        FlowState::Established
    }
}

/// Of a socket of the host; 0 for what is not TCP.
const fn socket_state(tcp_state: u8) -> FlowState {
    match tcp_state {
        // SYN_SENT, SYN_RECV, NEW_SYN_RECV.
        2 | 3 | 12 => FlowState::Opening,
        // TIME_WAIT, CLOSE.
        6 | 7 => FlowState::Closed,
        // FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
        4 | 5 | 8 | 9 | 11 => FlowState::Closing,
        _ => FlowState::Established,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(guest_port: u16, peer_port: u16) -> FlowKey {
        FlowKey { guest_port, peer_port, protocol: 6, version: 4, ..FlowKey::default() }
    }

    fn flow(first_ns: u64, bytes: u64, flags: u8) -> Flow {
        Flow {
            sent_bytes: bytes,
            received_bytes: bytes,
            first_ns,
            sent_flags: flags,
            received_flags: flags,
            opener: OPENER_PEER,
            ..Flow::default()
        }
    }

    struct World {
        books: Books,
        total: Traffic,
        made: u64,
    }

    impl World {
        fn new() -> Self {
            Self { books: Books::new(FlowSource::Tap), total: Traffic::default(), made: 0 }
        }

        fn read(&mut self, table: &[(FlowKey, Flow)], seconds: u64) -> Vec<FlowKey> {
            let table = table.iter().map(|(key, flow)| (key, flow));
            self.books.take(table, self.total, self.made, Duration::from_secs(seconds))
        }

        fn moved(&mut self, bytes: u64, flows: u64) {
            self.total =
                self.total.plus(Traffic { sent_bytes: bytes, received_bytes: bytes, ..Traffic::default() });
            self.made += flows;
        }

        fn sample(&self, seconds: u64) -> FlowsSample {
            let mut sample = FlowsSample { total: self.total, ..FlowsSample::default() };
            self.books.fill(&mut sample, Duration::from_secs(seconds), 0);
            let seen = sample.flows.iter().map(|flow| flow.traffic);
            let seen = seen.chain(sample.ended.iter().map(|ended| ended.traffic));
            let seen = seen.fold(sample.unseen, Traffic::plus);
            assert_eq!(seen, self.total, "nothing of the total is lost");
            sample
        }
    }

    #[test]
    fn a_closed_flow_is_deleted_and_its_bytes_stay_with_its_port() {
        let mut world = World::new();
        world.moved(100, 1);
        let table = [(key(80, 40000), flow(1, 100, SYN | ACK | FIN))];
        assert_eq!(world.read(&table, 0), [], "not at once");
        assert_eq!(world.read(&table, 1), [key(80, 40000)]);
        world.books.deleted(&key(80, 40000));
        assert_eq!(world.read(&[], 3), []);
        let sample = world.sample(3);
        assert_eq!((sample.flows.len(), sample.flows_evicted), (0, 0));
        let ended = &sample.ended[0];
        assert_eq!((ended.side, ended.port, ended.flows, ended.idle_ms), (FlowSide::Guest, 80, 1, 3000));
    }

    #[test]
    fn an_evicted_flow_is_counted_and_what_was_not_read_of_it_is_unseen() {
        let mut world = World::new();
        world.moved(100, 1);
        world.read(&[(key(80, 1), flow(1, 100, SYN | ACK))], 0);
        // It moved another 20 before it went, and a second one came and went unread.
        world.moved(20, 0);
        world.moved(7, 1);
        world.read(&[], 1);
        let sample = world.sample(1);
        assert_eq!(sample.flows_evicted, 2);
        assert_eq!(sample.unseen.sent_bytes, 27);
        assert_eq!(sample.ended[0].traffic.sent_bytes, 100);
    }

    #[test]
    fn the_same_ports_again_are_another_flow() {
        let mut world = World::new();
        world.moved(100, 1);
        world.read(&[(key(80, 1), flow(1, 100, SYN | ACK))], 0);
        world.moved(5, 1);
        world.read(&[(key(80, 1), flow(2, 5, SYN | ACK))], 1);
        let sample = world.sample(1);
        assert_eq!((sample.flows.len(), sample.ended.len(), sample.flows_evicted), (1, 1, 1));
        assert_eq!(sample.flows[0].traffic.sent_bytes, 5);
    }

    #[test]
    fn established_connections_stay_and_idle_datagrams_go() {
        let mut world = World::new();
        world.moved(2, 2);
        let table = [(key(22, 1), flow(1, 1, SYN | ACK)), (key(53, 1), flow(2, 1, 0))];
        world.read(&table, 0);
        assert_eq!(world.read(&table, 119), []);
        assert_eq!(world.read(&table, 3600), [key(53, 1)]);
    }

    #[test]
    fn ports_are_bounded() {
        let mut world = World::new();
        for port in 1..1000 {
            world.moved(3, 1);
            world.read(&[(key(port, 50000), flow(u64::from(port), 3, SYN | ACK))], 0);
        }
        world.read(&[], 1);
        let sample = world.sample(1);
        assert!(sample.ended.len() <= PORTS + 1, "{}", sample.ended.len());
        assert_eq!(sample.ended.iter().map(|ended| ended.flows).sum::<u64>(), 999);
    }

    #[test]
    fn states_follow_the_flags() {
        let of = |sent_flags, received_flags| state(&Flow { sent_flags, received_flags, ..Flow::default() });
        assert_eq!(of(SYN, 0), FlowState::Opening);
        assert_eq!(of(SYN | ACK, SYN | ACK), FlowState::Established);
        assert_eq!(of(0, 0), FlowState::Established, "no TCP, or seen from the middle");
        assert_eq!(of(ACK, 0), FlowState::Established);
        assert_eq!(of(SYN | ACK | FIN, SYN | ACK), FlowState::Closing);
        assert_eq!(of(SYN | ACK | FIN, SYN | ACK | FIN), FlowState::Closed);
        assert_eq!(of(SYN, RST | ACK), FlowState::Closed);
    }
}
