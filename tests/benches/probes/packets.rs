//! A packet through the program that counts flows, run by the kernel's own test (`BPF_PROG_TEST_RUN`): the program alone,
//! without the way to it. A TCP segment of a flow that is known already, as most are.

use std::fs;

use anyhow::{Context, Result, ensure};
use aya::maps::{PerCpuHashMap, PerCpuValues};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use kvmpilot_ebpf_common::flow::Totals;
use kvmpilot_tests::target_dir;

use crate::rounds::Quartiles;

const REPEAT: u32 = 100_000;
/// The test's packets seem to come from there.
const LOOPBACK: u32 = 1;

/// ns a packet.
#[derive(Clone, Copy)]
pub(crate) struct Packets {
    /// Through an empty program.
    pub(crate) floor: Quartiles,
    /// Through the flow program.
    pub(crate) flow: Quartiles,
}

pub(crate) fn measure(rounds: usize) -> Result<Packets> {
    let (mut empty, mut flows) = (load("kvmpilot-bench")?, load("kvmpilot-flows")?);
    classifier(&mut empty, "bench_packet")?.load()?;
    let mut taps: PerCpuHashMap<_, u32, Totals> = flows.map_mut("TAPS").context("no map TAPS")?.try_into()?;
    let pcpus = nr_cpus().map_err(|(_, error)| error).context("cannot count pcpus")?;
    taps.insert(LOOPBACK, PerCpuValues::try_from(vec![Totals::default(); pcpus])?, 0)?;
    classifier(&mut flows, "kvmpilot_sent")?.load()?;
    let packet = segment();
    let (mut floor, mut flow) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        floor.push(run(classifier(&mut empty, "bench_packet")?, &packet)?);
        flow.push(run(classifier(&mut flows, "kvmpilot_sent")?, &packet)?);
    }
    let taps: PerCpuHashMap<_, u32, Totals> = flows.map("TAPS").context("no map TAPS")?.try_into()?;
    let totals = taps.get(&LOOPBACK, 0)?;
    let (packets, made): (u64, u64) =
        totals.iter().fold((0, 0), |sum, of| (sum.0 + of.sent_packets, sum.1 + of.flows_made));
    let expected = u64::from(REPEAT) * u64::try_from(rounds)?;
    ensure!(packets == expected && made == 1, "{packets} packets of {made} flows counted, {expected} sent");
    let packets = Packets { floor: Quartiles::of(&floor), flow: Quartiles::of(&flow) };
    println!("a packet of a known flow, by the kernel's test of programs:");
    for (name, Quartiles { q1, median, q3 }) in
        [("empty program (floor)", packets.floor), ("flows", packets.flow)]
    {
        println!("  {name:24} {median:7.1} ns  (quartiles {q1:.1} to {q3:.1})");
    }
    Ok(packets)
}

/// Mean time of a run, which the kernel tells in whole ns.
fn run(program: &SchedClassifier, packet: &[u8]) -> Result<f64> {
    let options = TestRunOptions { data_in: Some(packet), repeat: REPEAT, ..TestRunOptions::default() };
    let result = program.test_run(options)?;
    ensure!(result.return_value == u32::MAX, "the program decided about the packet: {}", result.return_value);
    Ok(result.duration.as_secs_f64() * 1e9)
}

fn load(name: &str) -> Result<Ebpf> {
    let path = target_dir().join("ebpf/objects").join(name);
    let object = fs::read(&path).with_context(|| format!("no {}: cargo xtask build-ebpf", path.display()))?;
    Ok(EbpfLoader::new().btf(None).load(&object)?)
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

/// Ethernet, IPv4, TCP with ACK, and 1000 bytes of nothing.
fn segment() -> Vec<u8> {
    let mut packet = vec![0; 14 + 20 + 20 + 1000];
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    let (ip, tcp) = (14, 34);
    let length = u16::try_from(packet.len() - ip).unwrap_or(u16::MAX);
    packet[ip] = 0x45;
    packet[ip + 2..ip + 4].copy_from_slice(&length.to_be_bytes());
    packet[ip + 8] = 64;
    packet[ip + 9] = 6;
    packet[ip + 12..ip + 20].copy_from_slice(&[10, 77, 0, 11, 10, 77, 0, 1]);
    packet[tcp..tcp + 4].copy_from_slice(&[0, 80, 0x9c, 0x40]);
    packet[tcp + 12] = 0x50;
    packet[tcp + 13] = 0x10;
    packet
}
