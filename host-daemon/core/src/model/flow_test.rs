//! Tests of the join of flows with the guest's sockets.

use super::*;
use crate::sample::{
    FlowSource, GuestSample, Listener, ProcessKey, ProcessSample, SocketProtocol, SocketSample, SocketState,
};

const S: Duration = Duration::from_secs(1);

fn process(pid: u32, parent: u32, name: &str) -> ProcessSample {
    ProcessSample {
        key: ProcessKey { pid, start_ticks: 1 },
        parent,
        name: name.into(),
        executable: Some(format!("/bin/{name}")),
        command: name.into(),
        uid: Some(0),
        state: 'S',
        threads: 1,
        ..ProcessSample::default()
    }
}

fn listener(port: u16, owners: &[u32]) -> Listener {
    Listener { protocol: SocketProtocol::Tcp, address: "::".parse().unwrap(), port, owners: owners.to_vec() }
}

fn socket(local_port: u16, peer_port: u16, owners: &[u32]) -> SocketSample {
    SocketSample {
        protocol: SocketProtocol::Tcp,
        local_address: "::ffff:10.0.0.2".parse().unwrap(),
        local_port,
        peer_address: "10.0.0.1".parse().unwrap(),
        peer_port,
        state: SocketState::Established,
        owners: owners.to_vec(),
    }
}

/// httpd with two workers that share a port; a client; two that share the port of neither.
fn guest() -> GuestReading {
    let sample = GuestSample {
        uptime_cs: 100,
        ticks_per_second: 100,
        processes: vec![
            process(1, 0, "init"),
            process(10, 1, "httpd"),
            process(11, 10, "httpd"),
            process(20, 1, "client"),
            process(30, 1, "sshd"),
            process(40, 1, "other"),
        ],
        listeners: vec![listener(80, &[10, 11]), listener(22, &[30]), listener(99, &[30, 40])],
        sockets: vec![socket(5000, 443, &[20]), socket(22, 6000, &[30])],
        ..GuestSample::default()
    };
    GuestReading { at: 100 * S, host_cpu_ns: None, sample }
}

fn flow(guest_port: u16, peer_port: u16, bytes: u64) -> FlowSample {
    FlowSample {
        source: FlowSource::Tap,
        ip_protocol: Some(6),
        guest_address: "10.0.0.2".parse().unwrap(),
        guest_port,
        peer_address: "10.0.0.1".parse().unwrap(),
        peer_port,
        opened_by: Some(FlowSide::Peer),
        state: FlowState::Established,
        age_ms: 1000,
        idle_ms: 0,
        first_ns: 7,
        traffic: Traffic { sent_bytes: bytes, received_bytes: bytes / 10, ..Traffic::default() },
    }
}

fn reading(at: u32, watched_s: u64, flows: Vec<FlowSample>, ended: Vec<EndedFlows>) -> FlowReading {
    let sample = FlowsSample { watched_ms: watched_s * 1000, flows, ended, ..FlowsSample::default() };
    FlowReading { at: at * S, sample }
}

fn ended(port: u16, flows: u64, bytes: u64) -> EndedFlows {
    EndedFlows {
        source: FlowSource::Tap,
        ip_protocol: Some(6),
        side: FlowSide::Guest,
        port,
        flows,
        idle_ms: 0,
        traffic: Traffic { sent_bytes: bytes, received_bytes: bytes / 10, ..Traffic::default() },
    }
}

fn join(begin: Option<&FlowReading>, end: &FlowReading) -> (FlowsModel, GuestModel) {
    let guest = guest();
    let mut model = GuestModel::new(None, &guest, "qemu-ga");
    let flows = FlowsModel::new(begin, end, Some((&guest, &model)));
    model.add_traffic(&guest, &flows);
    (flows, model)
}

fn owner_of(flow: FlowSample) -> Owner {
    join(None, &reading(101, 10, vec![flow], vec![])).0.flows[0].owner.clone()
}

fn process_named(owner: &Owner) -> Option<u32> {
    if let Owner::Process { pid, .. } = owner { Some(*pid) } else { None }
}

#[test]
fn a_flow_is_of_whoever_holds_its_socket_else_of_whoever_listens() {
    assert_eq!(process_named(&owner_of(flow(22, 6000, 1))), Some(30));
    let outgoing = FlowSample { opened_by: Some(FlowSide::Guest), ..flow(5000, 443, 1) };
    assert_eq!(process_named(&owner_of(outgoing)), Some(20));
    // Too short for the agent: the listener tells.
    assert_eq!(process_named(&owner_of(flow(22, 6001, 1))), Some(30));
    let shared = Owner::Application { name: "httpd (/bin/httpd)".into(), pids: vec![10, 11] };
    assert_eq!(owner_of(flow(80, 1234, 1)), shared);
    assert_eq!(owner_of(flow(99, 1234, 1)), Owner::Shared { pids: vec![30, 40] });
}

#[test]
fn what_nobody_tells_is_nobodys() {
    let reason = |flow| if let Owner::Nobody(reason) = owner_of(flow) { reason } else { "" };
    assert!(reason(flow(8080, 1, 1)).contains("no process"), "{}", reason(flow(8080, 1, 1)));
    let short = FlowSample { opened_by: Some(FlowSide::Guest), ..flow(22, 53, 1) };
    assert!(
        reason(short).contains("shorter"),
        "a client that happens to use a server's port is not the server"
    );
    assert!(reason(FlowSample { ip_protocol: Some(1), guest_port: 0, ..flow(0, 0, 1) }).contains("no ports"));
    // It was there when the agent looked, and the agent did not see it: a container behind port 80.
    let container = FlowSample { age_ms: 50_000, ..flow(80, 1234, 1) };
    assert!(reason(container).contains("namespace"), "{}", reason(container));
    // A connection of IPv6 is not the IPv4 listener's.
    let v6 = FlowSample { guest_address: "fd00::2".parse().unwrap(), ..flow(22, 1, 1) };
    assert_eq!(process_named(&owner_of(v6)), Some(30), ":: takes both");
}

#[test]
fn rates_of_flows_and_of_what_ended_are_counted_once() {
    let begin = reading(100, 10, vec![flow(80, 1, 1000), flow(22, 6000, 500)], vec![ended(80, 5, 5000)]);
    // The first moved 200 more and ended; the second moved 100; a third came and ended in between.
    let end = reading(105, 15, vec![flow(22, 6000, 600)], vec![ended(80, 7, 5000 + 1200 + 300)]);
    let (flows, guest) = join(Some(&begin), &end);
    assert_eq!(flows.window, Some(5 * S));
    assert_eq!(flows.flows[0].rate.sent_bytes_per_s, Some(20.0));
    assert_eq!(flows.ended[0].rate.sent_bytes_per_s, Some(100.0));
    let httpd = guest.applications.iter().find(|application| application.name.starts_with("httpd")).unwrap();
    assert_eq!(httpd.traffic.unwrap().sent_bytes_per_s, Some(100.0));
    assert_eq!(httpd.processes[0].traffic.unwrap().sent_bytes_per_s, Some(0.0), "which of them is not known");
    let sshd = guest.applications.iter().find(|application| application.name.starts_with("sshd")).unwrap();
    assert_eq!(sshd.processes[0].traffic.unwrap().sent_bytes_per_s, Some(20.0));
    // Watched anew in between: no window, no rates.
    let (anew, _) = join(Some(&begin), &reading(105, 2, vec![flow(22, 6000, 600)], vec![]));
    assert_eq!((anew.window, anew.flows[0].rate.sent_bytes_per_s), (None, None));
}

#[test]
fn only_who_moved_bytes_communicates() {
    let names = |model: &GuestModel| {
        let talking = model.applications.iter().filter(|application| application.communicating());
        talking.map(|application| application.processes[0].sample.name.clone()).collect::<Vec<_>>()
    };
    let silent = FlowSample { idle_ms: 300_000, ..flow(22, 6000, 500) };
    let (_, model) = join(None, &reading(101, 1000, vec![silent, flow(80, 1, 10)], vec![]));
    assert_eq!(names(&model), ["httpd"], "ssh is silent, and the client's connection is on no tap for long");
    // Not watched for long enough to know: what the agent saw counts.
    let (_, model) = join(None, &reading(101, 5, vec![flow(80, 1, 10)], vec![]));
    assert_eq!(names(&model), ["client", "httpd", "sshd"]);
    // Connections through a device that is not watched count by being there.
    let elsewhere = FlowSample { guest_address: "192.168.0.9".parse().unwrap(), ..flow(80, 1, 10) };
    let (_, model) = join(None, &reading(101, 1000, vec![elsewhere], vec![]));
    assert_eq!(names(&model), ["client", "httpd", "sshd"]);
    // What ended in the window, and was served, counts; a SYN alone and a broadcast do not.
    let opening = FlowSample { state: FlowState::Opening, ..flow(22, 9, 60) };
    let (_, model) = join(None, &reading(101, 1000, vec![opening], vec![ended(80, 3, 10)]));
    assert_eq!(names(&model), ["httpd"]);
    let broadcast = FlowSample { peer_address: "255.255.255.255".parse().unwrap(), ..flow(22, 9, 60) };
    let (_, model) = join(None, &reading(101, 1000, vec![broadcast], vec![]));
    assert!(names(&model).is_empty(), "{:?}", names(&model));
}
