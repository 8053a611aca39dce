//! Sockets of the host that stand for a guest, counted against what went through them: this very process plays QEMU, and
//! both ends of each connection are its own. Also a part of `tests/tests/taps.rs`.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use kvmpilot::probes::flows::{DomainNetwork, FlowOptions, FlowProbes};
use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{FlowSample, FlowState, FlowsSample, Traffic};

const DOMAIN: Uuid = Uuid::from_u128(8);
const UP: usize = 300_000;
const DOWN: usize = 5_000_000;

/// Counts by tracepoints or by functions, as `options` say. Needs root, and a loopback device that is up, with IPv4 and
/// IPv6.
pub(crate) fn check(options: FlowOptions) -> Result<String> {
    let mut probes = FlowProbes::new(options)?;
    let network = |pid| DomainNetwork { processes: [pid].into(), ..DomainNetwork::default() };
    let began = Instant::now();
    let own = std::process::id();
    probes.follow(&BTreeMap::from([(DOMAIN, network(own))]), began.elapsed());
    ensure!(probes.trouble().is_empty(), "{:?}", probes.trouble());
    let (udp, other) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    udp.connect(other.local_addr()?)?;
    udp.send(&[7; 100])?;
    other.recv(&mut [0; 200])?;
    let (udp6, other6) = (UdpSocket::bind("[::1]:0")?, UdpSocket::bind("[::1]:0")?);
    udp6.connect(other6.local_addr()?)?;
    udp6.send(&[7; 50])?;
    other6.recv(&mut [0; 200])?;
    let conversations = [converse("127.0.0.1:0", UP, DOWN)?, converse("[::1]:0", UP, DOWN)?];
    let sample = read(&mut probes, began)?;
    for (client, server) in conversations {
        let (out, back) = (find(&sample, client, server)?, find(&sample, server, client)?);
        let moved = |flow: &FlowSample| (flow.traffic.sent_bytes, flow.traffic.received_bytes);
        let (up, down) = (UP as u64, DOWN as u64);
        ensure!(moved(out) == (up, down) && moved(back) == (down, up), "{out:?} {back:?}");
        ensure!(out.state >= FlowState::Closing, "its end was not seen: {out:?}");
    }
    for (sender, receiver, bytes) in [(&udp, &other, 100), (&udp6, &other6, 50)] {
        let flow = find(&sample, sender.local_addr()?, receiver.local_addr()?)?;
        ensure!((flow.traffic.sent_bytes, flow.ip_protocol) == (bytes, Some(17)), "{flow:?}");
    }
    let seen = sample.flows.iter().map(|flow| flow.traffic);
    let seen = seen.chain(sample.ended.iter().map(|ended| ended.traffic)).fold(sample.unseen, Traffic::plus);
    ensure!(seen == sample.total, "{seen:?} seen of {:?}", sample.total);

    // Nobody's sockets are counted any more.
    probes.follow(&BTreeMap::from([(DOMAIN, network(1))]), began.elapsed());
    converse("127.0.0.1:0", 1000, 1000)?;
    let after = read(&mut probes, began)?;
    ensure!(after.flows.is_empty(), "counted for nobody: {:?}", after.flows);
    let bytes = sample.total.sent_bytes + sample.total.received_bytes;
    Ok(format!("{bytes} bytes of {} sockets, exactly what they moved", sample.flows.len()))
}

fn read(probes: &mut FlowProbes, began: Instant) -> Result<FlowsSample> {
    probes.read_sockets(began.elapsed()).map_err(|error| anyhow!(error.words()))?;
    probes.sample(DOMAIN, began.elapsed()).context("nothing was sampled")
}

fn find(sample: &FlowsSample, guest: SocketAddr, peer: SocketAddr) -> Result<&FlowSample> {
    let same = |flow: &&FlowSample| {
        (flow.guest_address, flow.guest_port) == (guest.ip(), guest.port())
            && (flow.peer_address, flow.peer_port) == (peer.ip(), peer.port())
    };
    sample.flows.iter().find(same).with_context(|| format!("no {guest} {peer} in {:?}", sample.flows))
}

/// Sends `up` bytes over a connection and gets `down` back; returns the client's and the server's address.
fn converse(server: &str, up: usize, down: usize) -> Result<(SocketAddr, SocketAddr)> {
    let listener = TcpListener::bind(server)?;
    let address = listener.local_addr()?;
    let mut client = TcpStream::connect(address)?;
    let (mut served, peer) = listener.accept()?;
    let writer = thread::spawn(move || {
        client.write_all(&vec![1; up])?;
        let mut answer = vec![0; down];
        // What is only looked at is not received.
        client.peek(&mut answer[..1])?;
        client.read_exact(&mut answer)
    });
    served.read_exact(&mut vec![0; up])?;
    served.write_all(&vec![2; down])?;
    writer.join().map_err(|_| anyhow!("the client panicked"))??;
    Ok((peer, address))
}
