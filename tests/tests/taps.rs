//! The flow probes on taps that the tests make themselves: every byte against the device's own statistics, frames that
//! no sane guest sends, and what is left behind. Needs root.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use kvmpilot::probes::flows::{DomainNetwork, FlowOptions, FlowProbes, Hook, remains};
use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{FlowSample, FlowSide, FlowState, FlowsSample, Traffic};
use kvmpilot_tests::tap::{Tap, own_network};
use kvmpilot_tests::{output_of, wait_for};

#[path = "../examples/probe-check/sockets.rs"]
mod sockets;

const DOMAIN: Uuid = Uuid::from_u128(7);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

struct World {
    tap: Tap,
    probes: FlowProbes,
    began: Instant,
}

fn options(max_per_domain: u32) -> FlowOptions {
    FlowOptions {
        max_per_domain,
        confidential: false,
        hook: Hook::Unknown,
        without_tracepoints: false,
        without_batches: false,
    }
}

impl World {
    fn new(name: &str, options: FlowOptions) -> Self {
        own_network().unwrap();
        let tap = Tap::new(name, "10.9.0.1/24").unwrap();
        let mut world = Self { tap, probes: FlowProbes::new(options).unwrap(), began: Instant::now() };
        world.follow(&[name]);
        world
    }

    /// The host takes frames as meant for it, and knows where its answers go.
    fn answers(self) -> Self {
        let name = self.tap.name();
        ip(&["link", "set", name, "address", "52:54:00:00:00:01"]);
        ip(&["neigh", "add", "10.9.0.2", "lladdr", "52:54:00:00:00:02", "dev", name, "nud", "permanent"]);
        self
    }

    fn follow(&mut self, taps: &[&str]) {
        let taps = taps.iter().map(|tap| (*tap).to_owned()).collect();
        let wanted = BTreeMap::from([(DOMAIN, DomainNetwork { taps, ..DomainNetwork::default() })]);
        let errors = self.probes.follow(&wanted, self.began.elapsed());
        assert!(errors.is_empty(), "{errors:?}");
    }

    fn read_at(&mut self, now: Duration) -> FlowsSample {
        self.probes.read(DOMAIN, now).unwrap();
        self.probes.sample(DOMAIN, now).unwrap()
    }

    fn read(&mut self) -> FlowsSample {
        self.read_at(self.began.elapsed())
    }

    fn link(&self) -> Traffic {
        let link = self.tap.counters().unwrap();
        Traffic {
            sent_bytes: link.sent_bytes,
            sent_packets: link.sent_packets,
            received_bytes: link.received_bytes,
            received_packets: link.received_packets,
        }
    }

    /// Nothing is counted twice or lost, and it is what the device says.
    fn check(&mut self, since: Traffic) -> FlowsSample {
        let _ = self.tap.receive_all().unwrap();
        let sample = self.read();
        assert_eq!(sample.total, self.link().less(since));
        assert_eq!(seen(&sample), sample.total);
        sample
    }
}

fn seen(sample: &FlowsSample) -> Traffic {
    let flows = sample.flows.iter().map(|flow| flow.traffic);
    flows.chain(sample.ended.iter().map(|ended| ended.traffic)).fold(sample.unseen, Traffic::plus)
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x52, 0x54, 0, 0, 0, 1, 0x52, 0x54, 0, 0, 0, 2];
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()).to_be_bytes()
}

fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(GUEST.octets());
    packet.extend(HOST.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

fn udp(from: u16, to: u16, payload: usize) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend(u16::try_from(8 + payload).unwrap().to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(vec![7; payload]);
    packet
}

fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([0x50, flags]);
    packet.extend([0; 6]);
    let pseudo = [&GUEST.octets()[..], &HOST.octets(), &[0, 6, 0, 20], &packet].concat();
    packet[16..18].copy_from_slice(&checksum(&pseudo));
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2).octets());
    packet.extend(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).octets());
    packet.extend(payload);
    packet
}

fn ip(args: &[&str]) {
    output_of(Command::new("ip").args(args)).unwrap();
}

fn find(sample: &FlowsSample, protocol: u8, guest_port: u16) -> FlowSample {
    let found = |flow: &&FlowSample| flow.ip_protocol == Some(protocol) && flow.guest_port == guest_port;
    *sample.flows.iter().find(found).unwrap_or_else(|| panic!("no {protocol} {guest_port} in {sample:#?}"))
}

#[test]
fn both_directions_are_counted_as_the_device_counts_them() {
    for without_batches in [false, true] {
        let mut world = World::new("kpt0", FlowOptions { without_batches, ..options(1024) }).answers();
        let before = world.link();
        let socket = UdpSocket::bind((HOST, 5000)).unwrap();
        for n in 0..10 {
            world.tap.send(&ethernet(0x0800, &ipv4(17, &udp(4000, 5000, 100 + n)))).unwrap();
            socket.send_to(&vec![1; 200 + n], (GUEST, 4000)).unwrap();
        }
        let sample = world.check(before);
        let flow = find(&sample, 17, 4000);
        assert_eq!((flow.traffic.sent_packets, flow.traffic.received_packets), (10, 10));
        let frames = |payload: u64| (0..10).map(|n| 14 + 20 + 8 + payload + n).sum::<u64>();
        assert_eq!((flow.traffic.sent_bytes, flow.traffic.received_bytes), (frames(100), frames(200)));
        assert_eq!((flow.guest_address, flow.peer_address), (IpAddr::V4(GUEST), IpAddr::V4(HOST)));
        assert_eq!(flow.peer_port, 5000);
        let programs = world.probes.programs();
        assert_eq!(
            programs.iter().map(|program| (program.attached, program.runs)).collect::<Vec<_>>(),
            [(1, Some(sample.total.sent_packets)), (1, Some(sample.total.received_packets))]
        );
    }
}

#[test]
fn connections_have_a_state_an_opener_and_an_end() {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    const FIN: u8 = 1;
    let mut world = World::new("kpt1", options(1024)).answers();
    let before = world.link();
    // The host has nobody there and resets both; who opened the second was not seen.
    world.tap.send(&ethernet(0x0800, &ipv4(6, &tcp(1000, 81, SYN)))).unwrap();
    world.tap.send(&ethernet(0x0800, &ipv4(6, &tcp(81, 2000, SYN | ACK)))).unwrap();
    world.tap.send(&ethernet(0x0800, &ipv4(6, &tcp(81, 2000, ACK | FIN)))).unwrap();
    let sample = world.check(before);
    assert_eq!(find(&sample, 6, 1000).opened_by, Some(FlowSide::Guest));
    assert_eq!(find(&sample, 6, 1000).state, FlowState::Closed);
    let served = find(&sample, 6, 81);
    assert_eq!((served.opened_by, served.service()), (None, (FlowSide::Guest, 81)));
    assert_eq!(served.state, FlowState::Closed);
    let silent = ethernet(0x0800, &ipv4(6, &tcp(3000, 82, SYN)));
    ip(&["link", "set", "kpt1", "address", "52:54:00:00:00:99"]);
    world.tap.send(&silent).unwrap();
    assert_eq!(find(&world.check(before), 6, 3000).state, FlowState::Opening);
    // The same ports again are another connection.
    world.tap.send(&ethernet(0x0800, &ipv4(6, &tcp(1000, 81, SYN)))).unwrap();
    assert_eq!(find(&world.check(before), 6, 1000).state, FlowState::Opening);
    let now = world.began.elapsed();
    let sample = world.read_at(now + Duration::from_secs(10));
    assert_eq!(sample.flows.iter().filter(|flow| flow.guest_port == 81).count(), 0, "it is closed");
    assert_eq!(sample.flows.len(), 2);
    assert_eq!(seen(&sample), sample.total, "what ended is not lost");
    let sample = world.read_at(now + Duration::from_secs(200));
    assert!(sample.flows.is_empty(), "{sample:#?}");
    assert_eq!((seen(&sample), sample.flows_evicted), (sample.total, 0));
}

#[test]
fn frames_that_no_sane_guest_sends() {
    let mut world = World::new("kpt2", options(1024));
    let before = world.link();
    let v4 = |payload: &[u8]| ethernet(0x0800, payload);
    let v6 = |payload: &[u8]| ethernet(0x86dd, payload);
    let good = ipv4(17, &udp(7, 9, 40));
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet
    };
    // No IP at all, or none that can be read: one common entry.
    let nothing = [
        ethernet(0x0806, &[0; 28]),
        ethernet(0x1234, &[]),
        v4(&[]),
        v4(&good[..19]),
        v4(&with(0, 0x44)),
        v4(&with(0, 0x65)),
        v6(&ipv6(17, &[])[..39]),
        v6(&good),
    ];
    for frame in &nothing {
        world.tap.send(frame).unwrap();
    }
    let sample = world.check(before);
    assert_eq!(sample.flows.len(), 1, "{sample:#?}");
    assert_eq!(sample.flows[0].ip_protocol, None);
    assert_eq!(sample.flows[0].traffic.sent_packets, nothing.len() as u64);

    // IP that is well-formed as far as it goes: without ports.
    let fragment = with(7, 1);
    let mut first = with(6, 0x20);
    first[9] = 17;
    let mut long = ipv4(17, &udp(7, 9, 4));
    long[0] = 0x4f;
    let extension = |next: u8, body: &[u8]| [&[next, 0, 0, 0, 0, 0, 0, 0], body].concat();
    let chain = (0..9).fold(udp(3, 4, 9), |body, n| extension(if n == 0 { 17 } else { 60 }, &body));
    for frame in [
        v4(&fragment),
        v4(&first),
        v4(&long),
        v4(&ipv4(6, &[0; 13])),
        v4(&ipv4(17, &[0; 3])),
        v4(&ipv4(132, &[0; 40])),
        v6(&ipv6(0, &[17])),
        v6(&ipv6(44, &extension(17, &[])[..7])),
        v6(&ipv6(44, &[17, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 2])),
        v6(&ipv6(60, &chain)),
        v6(&ipv6(51, &[17, 255, 0, 0])),
        v6(&ipv6(59, &[])),
    ] {
        world.tap.send(&frame).unwrap();
    }
    let sample = world.check(before);
    assert!(sample.flows.iter().all(|flow| flow.guest_port == 0), "{sample:#?}");

    // And what can be read behind odd headers is read.
    let options = [&[0x46_u8][..], &good[1..20], &[1, 1, 1, 0], &udp(11, 12, 5)].concat();
    world.tap.send(&v4(&options)).unwrap();
    let routed = extension(43, &extension(60, &extension(17, &udp(21, 22, 5))));
    world.tap.send(&v6(&ipv6(0, &routed))).unwrap();
    let atomic = extension(17, &udp(31, 32, 5));
    world.tap.send(&v6(&ipv6(44, &atomic))).unwrap();
    let authenticated = [&[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &udp(41, 42, 5)].concat();
    world.tap.send(&v6(&ipv6(51, &authenticated))).unwrap();
    let sample = world.check(before);
    for (port, peer_port) in [(11, 12), (21, 22), (31, 32), (41, 42)] {
        assert_eq!(find(&sample, 17, port).peer_port, peer_port);
    }
}

#[test]
fn tags_count_and_do_not_hide_the_ports() {
    let mut world = World::new("kpt3", options(1024));
    let before = world.link();
    let packet = |port| [&0x0800_u16.to_be_bytes()[..], &ipv4(17, &udp(port, 9, 50))].concat();
    let tag = |kind: u16, inner: &[u8]| [&kind.to_be_bytes()[..], &[0, 5], inner].concat();
    let frame = |kind: u16, rest: &[u8]| ethernet(kind, &[&[0, 7], rest].concat());
    world.tap.send(&frame(0x8100, &packet(101))).unwrap();
    world.tap.send(&frame(0x88a8, &tag(0x8100, &packet(102)))).unwrap();
    world.tap.send(&frame(0x88a8, &tag(0x8100, &tag(0x8100, &packet(103))))).unwrap();
    let sample = world.check(before);
    for (port, tags) in [(101, 1), (102, 2), (103, 3)] {
        assert_eq!(find(&sample, 17, port).traffic.sent_bytes, 14 + tags * 4 + 20 + 8 + 50, "{port}");
    }
    // On its way to another guest of the same bridge the outer tag travels beside the frame.
    let other = Tap::new("kpt3b", "10.12.0.1/24").unwrap();
    world.follow(&["kpt3", "kpt3b"]);
    ip(&["link", "add", "kptbr", "type", "bridge"]);
    for device in ["kpt3", "kpt3b"] {
        ip(&["link", "set", device, "master", "kptbr"]);
    }
    ip(&["link", "set", "kptbr", "up"]);
    let frames = wait_for("a frame to be passed on", Duration::from_secs(5), || {
        world.tap.send(&frame(0x88a8, &tag(0x8100, &packet(104))))?;
        let frames: Vec<Vec<u8>> = other.receive_all()?;
        anyhow::ensure!(!frames.is_empty());
        Ok(frames)
    })
    .unwrap();
    let bytes = frames.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(frames[0].len(), 14 + 8 + 20 + 8 + 50);
    let sample = world.read();
    let device = sample.devices.iter().find(|device| device.device == "kpt3b").unwrap();
    assert_eq!(device.traffic.received_bytes, other.counters().unwrap().received_bytes);
    assert_eq!(device.traffic.received_bytes, bytes);
}

#[test]
fn a_full_table_loses_flows_but_no_bytes() {
    let mut world = World::new("kpt4", options(64));
    let before = world.link();
    for port in 1..=1000 {
        world.tap.send(&ethernet(0x0800, &ipv4(17, &udp(port, 9, 30)))).unwrap();
        if port % 250 == 0 {
            let sample = world.check(before);
            assert!(sample.flows.len() <= 64, "{} flows", sample.flows.len());
        }
    }
    let sample = world.check(before);
    let present = u64::try_from(sample.flows.len()).unwrap();
    assert_eq!(sample.flows_made, sample.flows_evicted + present);
    assert!(sample.flows_made >= 1000 && sample.unseen.sent_bytes > 0, "{sample:#?}");
}

#[test]
fn ten_thousand_short_connections_leave_totals_and_no_memory() {
    let mut world = World::new("kpt5", options(1024)).answers();
    let before = world.link();
    let port = |n: u16| 20_000 + n % 30_000;
    let connection = |world: &World, n: u16| {
        for flags in [2, 16, 24, 17] {
            world.tap.send(&ethernet(0x0800, &ipv4(6, &tcp(port(n), 80, flags)))).unwrap();
        }
        // The host answers with resets: nobody listens there.
        let _ = world.tap.receive_all().unwrap();
    };
    let begin = world.began.elapsed();
    let mut now = begin;
    let mut resident = 0;
    for n in 0..10_000 {
        connection(&world, n);
        // As many as come in a second when there are 10 000 a minute.
        if n % 167 == 166 {
            now += Duration::from_secs(1);
            let sample = world.read_at(now);
            assert!(sample.flows.len() <= 1024);
        }
        if n == 2_000 {
            resident = resident_kib();
        }
    }
    world.read_at(now + Duration::from_secs(5));
    world.read_at(now + Duration::from_secs(10));
    let sample = world.read_at(now + Duration::from_secs(15));
    assert_eq!(sample.total, world.link().less(before));
    assert_eq!(seen(&sample), sample.total);
    assert_eq!((sample.flows_made, sample.flows_evicted, sample.unseen), (10_000, 0, Traffic::default()));
    assert_eq!(sample.flows.len(), 0);
    let [ended] = sample.ended[..] else { panic!("{:#?}", sample.ended) };
    assert_eq!((ended.side, ended.port, ended.flows), (FlowSide::Peer, 80, 10_000));
    let grown = resident_kib().saturating_sub(resident);
    assert!(grown < 1024, "{grown} KiB more resident after 8000 more connections");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim_end_matches("kB").trim().parse().unwrap()
}

#[test]
fn devices_come_and_go_and_nothing_is_left() {
    let mut world = World::new("kpt6", options(64));
    let other = Tap::new("kpt7", "10.11.0.1/24").unwrap();
    world.follow(&["kpt6", "kpt7", "kpt8"]);
    world.tap.send(&ethernet(0x0800, &ipv4(17, &udp(1, 2, 10)))).unwrap();
    other.send(&ethernet(0x0800, &ipv4(17, &udp(3, 4, 20)))).unwrap();
    let sample = world.read();
    let devices: Vec<_> = sample.devices.iter().map(|device| device.device.as_str()).collect();
    assert_eq!(devices, ["kpt6", "kpt7"]);
    assert_eq!(sample.total.sent_packets, 2);
    assert_eq!(remains("kpt7").unwrap().0, ["kvmpilot_sent", "kvmpilot_rcvd"]);

    // The same name again is another device; what the old one moved still counts.
    drop(other);
    let other = Tap::new("kpt7", "10.11.0.1/24").unwrap();
    assert_eq!(remains("kpt7").unwrap().0, Vec::<String>::new());
    world.follow(&["kpt6", "kpt7"]);
    other.send(&ethernet(0x0800, &ipv4(17, &udp(3, 4, 20)))).unwrap();
    let sample = world.read();
    assert_eq!((sample.devices.len(), sample.total.sent_packets), (2, 3));

    world.follow(&["kpt7"]);
    assert_eq!(remains("kpt6").unwrap().0, Vec::<String>::new());
    assert_eq!(world.read().total.sent_packets, 3);
    world.probes.set_enabled(false);
    assert_eq!(remains("kpt7").unwrap().0, Vec::<String>::new());
    world.follow(&["kpt7"]);
    assert!(world.probes.sample(DOMAIN, Duration::ZERO).is_none(), "watched although switched off");
    world.probes.set_enabled(true);
    world.follow(&["kpt7"]);
    assert_eq!(remains("kpt7").unwrap().0.len(), 2);
    // A domain without devices, and one that is gone.
    world.follow(&[]);
    assert_eq!(remains("kpt7").unwrap().0, Vec::<String>::new());
    drop(world);
}

#[test]
fn before_tcx_filters_do_and_are_taken_away() {
    let hook = Hook::Clsact;
    let filters = |device: &str| {
        let of = |way| output_of(Command::new("tc").args(["filter", "show", "dev", device, way])).unwrap();
        of("ingress") + &of("egress")
    };
    let qdiscs = |device: &str| output_of(Command::new("tc").args(["qdisc", "show", "dev", device])).unwrap();
    let mut world = World::new("kpt9", FlowOptions { hook, ..options(64) });
    let before = world.link();
    world.tap.send(&ethernet(0x0800, &ipv4(17, &udp(1, 2, 10)))).unwrap();
    assert_eq!(find(&world.check(before), 17, 1).traffic.sent_packets, 1);
    assert_eq!(filters("kpt9").matches("direct-action").count(), 2, "{}", filters("kpt9"));

    // A second daemon replaces what a killed one has left, and leaves alone the qdisc that it did not make.
    let mut second = FlowProbes::new(FlowOptions { hook, ..options(64) }).unwrap();
    let wanted = BTreeMap::from([(
        DOMAIN,
        DomainNetwork { taps: ["kpt9".to_owned()].into(), ..DomainNetwork::default() },
    )]);
    assert!(second.follow(&wanted, Duration::ZERO).is_empty());
    assert_eq!(filters("kpt9").matches("direct-action").count(), 2, "{}", filters("kpt9"));
    drop(second);
    assert_eq!(filters("kpt9").matches("direct-action").count(), 0, "{}", filters("kpt9"));
    assert!(qdiscs("kpt9").contains("clsact"));
    world.follow(&[]);
    assert!(!qdiscs("kpt9").contains("clsact"), "{}", qdiscs("kpt9"));
}

#[test]
fn sockets_of_user_mode_networking_are_counted() {
    println!("{}", sockets::check(options(1024)).unwrap());
}

/// Some kernels let nobody trace functions, root included: there it is said, and `cargo xtask matrix` shows on others
/// that the sockets are counted.
#[test]
fn sockets_are_counted_at_functions_before_there_were_tracepoints() {
    let counted = sockets::check(FlowOptions { without_tracepoints: true, ..options(1024) });
    if kvmpilot_tests::bpf::may_trace_functions().unwrap() {
        println!("{}", counted.unwrap());
    } else {
        let reason = format!("{:#}", counted.unwrap_err());
        assert!(reason.contains("lets nobody trace its functions"), "{reason}");
    }
}
