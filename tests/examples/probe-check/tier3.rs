//! Tier 3: the socket programs on a tap of our own, in a network namespace of our own, against the tap's statistics.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot::kernel::Kernel;
use kvmpilot::probes::flows::{DomainNetwork, FlowOptions, FlowProbes, Hook};
use kvmpilot_core::Uuid;
use kvmpilot_core::sample::Traffic;
use kvmpilot_tests::probe_report::{TierOutcome, TierReport};
use kvmpilot_tests::tap::{Tap, own_network};

const DEVICE: &str = "kpcheck0";
const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const EVERYBODY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 255);
const PACKETS: u64 = 10;

pub(crate) fn check(kernel: &Kernel) -> TierReport {
    let report = |outcome, note| TierReport { tier: 3, outcome, note };
    let options = FlowOptions {
        max_per_domain: 256,
        confidential: kernel.is_confidential(),
        hook: Hook::Unknown,
        without_tracepoints: false,
        without_batches: false,
    };
    match FlowProbes::new(options) {
        Err(error) => report(TierOutcome::Off, format!("{:#}", anyhow::Error::from(error))),
        Ok(probes) => match count(probes) {
            Ok(note) => report(TierOutcome::Ok, note),
            Err(error) => report(TierOutcome::Wrong, format!("{error:#}")),
        },
    }
}

fn count(mut probes: FlowProbes) -> Result<String> {
    own_network()?;
    let tap = Tap::new(DEVICE, "10.9.0.1/24")?;
    let (domain, began) = (Uuid::from_u128(3), Instant::now());
    let network = DomainNetwork { taps: [DEVICE.to_owned()].into(), ..DomainNetwork::default() };
    if let Some(error) = probes.follow(&BTreeMap::from([(domain, network)]), began.elapsed()).first() {
        bail!("{}", error.words());
    }
    let link = || -> Result<Traffic> {
        let counters = tap.counters()?;
        Ok(Traffic {
            sent_bytes: counters.sent_bytes,
            sent_packets: counters.sent_packets,
            received_bytes: counters.received_bytes,
            received_packets: counters.received_packets,
        })
    };
    let before = link()?;
    let socket = UdpSocket::bind((HOST, 5000))?;
    socket.set_broadcast(true)?;
    for _ in 0..PACKETS {
        tap.send(&frame())?;
        // Nobody has to be asked for an address.
        socket.send_to(&[1; 200], (EVERYBODY, 4001))?;
    }
    tap.receive_all()?;
    probes.read(domain, began.elapsed()).map_err(|error| anyhow::anyhow!(error.words()))?;
    let sample = probes.sample(domain, began.elapsed()).context("nothing was sampled")?;
    let moved = link()?.less(before);
    ensure!(moved.sent_packets >= PACKETS && moved.received_packets >= PACKETS, "the tap moved {moved:?}");
    ensure!(sample.total == moved, "the probes saw {:?}, the tap {moved:?}", sample.total);
    let flow =
        sample.flows.iter().find(|flow| flow.guest_port == 4000).context("the guest's flow is missing")?;
    ensure!(flow.traffic.sent_packets == PACKETS, "{flow:?}");
    let bytes = moved.sent_bytes + moved.received_bytes;
    Ok(format!("{bytes} bytes of {} flows, exactly the tap's, by {:?}", sample.flows.len(), probes.hook()))
}

/// A datagram from the guest's port 4000 to the host's 5000.
fn frame() -> Vec<u8> {
    const PAYLOAD: u8 = 100;
    let mut frame = vec![0xff; 6];
    frame.extend([0x52, 0x54, 0, 0, 0, 2, 0x08, 0x00]);
    frame.extend([0x45, 0, 0, 28 + PAYLOAD, 0, 0, 0, 0, 64, 17, 0, 0]);
    frame.extend(GUEST.octets());
    frame.extend(HOST.octets());
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(5000_u16.to_be_bytes());
    frame.extend([0, 8 + PAYLOAD, 0, 0]);
    frame.extend([7; PAYLOAD as usize]);
    frame
}
