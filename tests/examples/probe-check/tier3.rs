//! Tier 3: the programs on a tap of our own, in a network namespace of our own, against the tap's statistics; and those at
//! the host's sockets, both ways: at tracepoints (Linux 6.3), and at functions, as before.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use kvmpilot::kernel::Kernel;
use kvmpilot::probes::flows::{DomainNetwork, FlowOptions, FlowProbes, Hook};
use kvmpilot_core::Uuid;
use kvmpilot_core::sample::Traffic;
use kvmpilot_tests::bpf::may_trace_functions;
use kvmpilot_tests::probe_report::{TierOutcome, TierReport};
use kvmpilot_tests::run;
use kvmpilot_tests::tap::{Tap, own_network};

use crate::sockets;

const BTF: &str = "/sys/kernel/btf/vmlinux";
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
        // The host's sockets first: then this thread goes to a network of its own.
        Ok(probes) => match count_sockets(options).and_then(|note| Ok(format!("{}; {note}", count(probes)?)))
        {
            Ok(note) => report(TierOutcome::Ok, note),
            Err(error) => report(TierOutcome::Wrong, format!("{error:#}")),
        },
    }
}

fn count_sockets(options: FlowOptions) -> Result<String> {
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let native = match sockets::check(options) {
        // Taps need no type information, sockets do.
        Err(error) if !Path::new(BTF).exists() && format!("{error:#}").contains("no type information") => {
            return Ok("sockets are not counted: no type information".to_owned());
        }
        counted => counted.context("sockets, as this kernel has it")?,
    };
    if !may_trace_functions()? {
        return Ok(format!(
            "{native}; at functions they cannot be counted: this kernel lets nobody trace them"
        ));
    }
    let functions = FlowOptions { without_tracepoints: true, ..options };
    let functions = sockets::check(functions).context("sockets at functions")?;
    Ok(format!("{native}; at functions: {functions}"))
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
