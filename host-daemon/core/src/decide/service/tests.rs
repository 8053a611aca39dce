//! Services against guests that are made up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::learn::learn;
use super::*;
use crate::decide::tests::domain;
use crate::model::{FlowsModel, GuestReading};
use crate::policy::{ConnectionPolicy, FilePolicy};
use crate::sample::{
    DomainState, FileFound, FileSample, FilesSample, FlowReading, FlowSample, FlowSource, FlowState,
    FlowsSample, GuestSample, Listener, ProcessKey, ProcessSample, SocketProtocol, SocketSample, SocketState,
    Traffic,
};
use crate::service::DriftState;

const POLL: Duration = Duration::from_secs(60);

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

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

fn listener(port: u16, owner: u32) -> Listener {
    Listener { protocol: SocketProtocol::Tcp, address: ip(0), port, owners: vec![owner] }
}

fn socket(local: (u8, u16), peer: (u8, u16), state: SocketState, owners: &[u32]) -> SocketSample {
    SocketSample {
        protocol: SocketProtocol::Tcp,
        local_address: ip(local.0),
        local_port: local.1,
        peer_address: ip(peer.0),
        peer_port: peer.1,
        state,
        owners: owners.to_vec(),
    }
}

/// A web server in one guest that asks a database in another one.
struct Host {
    policy: Policy,
    history: History,
    web: Option<GuestSample>,
    db: Option<GuestSample>,
    flows: Option<(Traffic, Traffic)>,
    files: Option<FilesSample>,
    off: bool,
    round: u32,
    transitions: Vec<Transition>,
    findings: Vec<Finding>,
}

impl Host {
    fn new() -> Self {
        let component = |name: &str, domain: &str, process: &str, port| ComponentPolicy {
            name: name.into(),
            domain: domain.into(),
            process: Some(process.into()),
            port: Some(port),
            ..ComponentPolicy::default()
        };
        let service = ServicePolicy {
            name: "shop".into(),
            source: "shop.toml:1".into(),
            components: vec![component("web", "d1", "httpd", 80), component("db", "d2", "answer", 7000)],
            connections: vec![ConnectionPolicy {
                from: "web".into(),
                to: "db".into(),
                port: 7000,
                ..ConnectionPolicy::default()
            }],
            files: vec![FilePolicy { component: "web".into(), path: "/etc/app.conf".into(), sha256: None }],
        };
        let guest = |name: &str, port| GuestSample {
            uptime_cs: 100_000,
            ticks_per_second: 100,
            processes: vec![process(60, 1, name)],
            listeners: vec![listener(port, 60)],
            ..GuestSample::default()
        };
        let mut host = Self {
            policy: Policy { services: vec![service], ..Policy::default() },
            history: History::default(),
            web: Some(guest("httpd", 80)),
            db: Some(guest("answer", 7000)),
            flows: None,
            files: None,
            off: false,
            round: 0,
            transitions: Vec::new(),
            findings: Vec::new(),
        };
        // Both have been talked to by others, so that their addresses are known.
        host.web_mut().sockets.push(socket((1, 80), (9, 4000), SocketState::Established, &[60]));
        host.db_mut().sockets.push(socket((2, 22), (9, 4000), SocketState::Established, &[]));
        host
    }

    fn web_mut(&mut self) -> &mut GuestSample {
        self.web.get_or_insert_default()
    }

    fn db_mut(&mut self) -> &mut GuestSample {
        self.db.get_or_insert_default()
    }

    fn connect(&mut self, port: u16, state: SocketState) {
        let known = state == SocketState::Closing;
        let owner: &[u32] = if known { &[] } else { &[60] };
        self.web_mut().sockets.push(socket((1, port), (2, 7000), state, owner));
        if state != SocketState::Opening {
            self.db_mut().sockets.push(socket((2, 7000), (1, port), state, owner));
        }
    }

    fn disconnect(&mut self) {
        self.web_mut().sockets.retain(|socket| socket.peer_port != 7000);
        self.db_mut().sockets.retain(|socket| socket.local_port != 7000);
    }

    fn at(&self) -> Duration {
        POLL * self.round
    }

    /// One poll of each guest, and what comes of it.
    fn poll(&mut self) -> ServiceState {
        self.round += 1;
        let model = self.model();
        let (findings, transitions) = judge(&model, &self.policy, &mut self.history);
        self.transitions.extend(transitions);
        self.findings = findings;
        self.status().state
    }

    fn model(&self) -> Model {
        let at = self.at();
        let mut domains = vec![domain(1, 1, 0.1, 0.0, 0.0, 2)];
        if !self.off {
            domains.push(domain(2, 1, 0.1, 0.0, 0.0, 2));
        }
        for (domain, sample) in domains.iter_mut().zip([&self.web, &self.db]) {
            domain.agent_connected = Some(sample.is_some());
            domain.guest = sample.as_ref().map(|sample| {
                let reading = GuestReading { at, host_cpu_ns: None, sample: sample.clone() };
                let model = crate::model::GuestModel::new(None, &reading, "qemu-ga");
                let window = Some(Duration::from_secs(5));
                crate::model::GuestModel { reading: Some(Arc::new(reading)), window, ..model }
            });
        }
        if let Some((before, after)) = self.flows {
            domains[0].flows = Some(flows(at, before, after));
        }
        domains[0].files = self.files.clone().map(Arc::new);
        Model { at, wall_unix_s: at.as_secs(), domains, ..Model::default() }
    }

    fn status(&self) -> &ServiceStatus {
        &self.history.services["shop"].status
    }

    fn reasons(&self) -> String {
        self.status().reasons.join("; ")
    }
}

/// One flow from the web server to the database.
fn flows(at: Duration, before: Traffic, after: Traffic) -> FlowsModel {
    let reading = |at: Duration, watched_ms, traffic| FlowReading {
        at,
        sample: FlowsSample {
            watched_ms,
            flows: vec![FlowSample {
                source: FlowSource::Tap,
                ip_protocol: Some(6),
                guest_address: ip(1),
                guest_port: 5000,
                peer_address: ip(2),
                peer_port: 7000,
                opened_by: None,
                state: FlowState::Established,
                age_ms: 0,
                idle_ms: 0,
                first_ns: 1,
                traffic,
            }],
            ..FlowsSample::default()
        },
    };
    let begin = reading(at.saturating_sub(Duration::from_secs(5)), 1000, before);
    FlowsModel::new(Some(&begin), &reading(at, 6000, after), None)
}

const fn traffic(sent_bytes: u64, received_bytes: u64) -> Traffic {
    Traffic { sent_bytes, sent_packets: 1, received_bytes, received_packets: 1 }
}

#[test]
fn a_permanent_connection_makes_it_healthy_and_its_end_degraded() {
    let mut host = Host::new();
    host.connect(5000, SocketState::Established);
    assert_eq!(host.poll(), ServiceState::Healthy);
    assert_eq!((host.reasons().as_str(), host.findings.len()), ("", 0));
    assert_eq!(host.status().since_unix_ms, Some(60_000));
    host.disconnect();
    assert_eq!(host.poll(), ServiceState::Healthy, "one poll of grace");
    assert_eq!(host.poll(), ServiceState::Degraded);
    assert_eq!(host.reasons(), "web to db: no connection of web to TCP port 7000 of db for 120 s");
    assert_eq!(host.findings[0].name, "service_degraded");
    host.connect(5001, SocketState::Established);
    assert_eq!(host.poll(), ServiceState::Healthy);
    let [unknown, healthy, degraded] = [ServiceState::Unknown, ServiceState::Healthy, ServiceState::Degraded];
    let states: Vec<_> = host.transitions.iter().map(|step| (step.from, step.to)).collect();
    assert_eq!(states, [(unknown, healthy), (healthy, degraded), (degraded, healthy)]);
    // Up for two of three rounds.
    let connection = &host.status().connections[0];
    assert!((connection.watched_s - 180.0).abs() < 1.0, "{connection:?}");
    assert!((connection.up_ratio.unwrap() - 2.0 / 3.0).abs() < 0.01, "{connection:?}");
}

#[test]
fn short_connections_show_by_what_was_closed_since_the_poll_before() {
    let mut host = Host::new();
    for port in 5000..5005 {
        host.connect(port, SocketState::Closing);
        assert_eq!(host.poll(), ServiceState::Healthy);
    }
    // What was closed before is no news.
    assert_eq!(host.poll(), ServiceState::Healthy);
    assert_eq!(host.poll(), ServiceState::Degraded);
    assert_eq!(host.status().connections[0].present, Some(false));
    assert_eq!(host.status().connections[0].present_unix_ms, Some(300_000));
}

#[test]
fn tries_without_an_answer_need_no_grace() {
    let mut host = Host::new();
    host.connect(5000, SocketState::Closing);
    host.poll();
    host.connect(5001, SocketState::Opening);
    assert_eq!(host.poll(), ServiceState::Degraded);
    assert!(host.reasons().contains("tries to connect to TCP port 7000 of db and gets no answer"));
    // Caught in the act of connecting, while others work.
    let mut host = Host::new();
    for port in 5000..5010 {
        host.disconnect();
        host.connect(port, SocketState::Closing);
        if port == 5005 {
            host.connect(6000, SocketState::Opening);
        }
        assert_eq!(host.poll(), ServiceState::Healthy);
    }
}

#[test]
fn whoever_asks_only_now_and_then_is_not_missed_in_between() {
    let mut host = Host::new();
    let mut late = Vec::new();
    for round in 0..60_u16 {
        host.disconnect();
        if round % 5 == 0 {
            host.connect(5000 + round, SocketState::Closing);
        }
        if host.poll() == ServiceState::Degraded && round > 5 {
            late.push(round);
        }
    }
    assert!(late.is_empty(), "its usual silence was not learned: {late:?}");
    host.disconnect();
    let silent = (0..10).position(|_| host.poll() == ServiceState::Degraded);
    assert!(silent.is_some_and(|rounds| rounds < 8), "{silent:?}");
}

#[test]
fn flows_tell_where_no_socket_does_and_what_gets_no_answer() {
    let mut host = Host::new();
    host.flows = Some((traffic(100, 100), traffic(200, 300)));
    assert_eq!(host.poll(), ServiceState::Healthy);
    let connection = &host.status().connections[0];
    assert_eq!((connection.moving, connection.moving_unix_ms), (Some(true), Some(60_000)));
    assert_eq!(connection.present, Some(false));
    // The socket stays open for a quarter of an hour when the line is cut.
    host.connect(5000, SocketState::Established);
    host.poll();
    host.flows = Some((traffic(200, 300), traffic(400, 300)));
    assert_eq!(host.poll(), ServiceState::Degraded);
    assert!(host.reasons().contains("gets no answer"), "{}", host.reasons());
    // Nothing to say is no fault.
    host.flows = Some((traffic(400, 300), traffic(400, 300)));
    assert_eq!(host.poll(), ServiceState::Healthy);
}

#[test]
fn flows_alone_are_judged_where_no_agent_answers() {
    let mut host = Host::new();
    (host.web, host.db) = (None, None);
    host.flows = Some((traffic(0, 0), traffic(10, 10)));
    for _ in 0..5 {
        host.poll();
    }
    let connection = &host.status().connections[0];
    assert_eq!((connection.state, connection.present, connection.port_open), (PartState::Up, None, None));
    assert_eq!(host.status().state, ServiceState::Unknown, "the processes are not known");
    assert!(host.reasons().contains("web: no agent is connected in d1"), "{}", host.reasons());
}

#[test]
fn a_component_that_is_missing_means_failed() {
    let mut host = Host::new();
    host.connect(5000, SocketState::Established);
    host.poll();
    let running = host.db.clone();
    host.disconnect();
    host.db_mut().processes.clear();
    host.db_mut().listeners.clear();
    assert_eq!(host.poll(), ServiceState::Failed);
    assert!(
        host.reasons().starts_with("db: no process answer in d2; web to db: nobody listens"),
        "{}",
        host.reasons()
    );
    assert_eq!(host.findings[0].name, "service_failed");
    // Another one has its port.
    host.db_mut().processes = vec![process(60, 1, "answer"), process(70, 1, "thief")];
    host.db_mut().listeners = vec![listener(7000, 70)];
    assert_eq!(host.poll(), ServiceState::Failed);
    assert!(
        host.reasons().contains("thief listens on TCP port 7000 in d2, not process answer"),
        "{}",
        host.reasons()
    );
    host.db = running;
    host.connect(5001, SocketState::Established);
    assert_eq!(host.poll(), ServiceState::Healthy);
    host.off = true;
    assert_eq!(host.poll(), ServiceState::Failed);
    assert!(host.reasons().contains("db: domain d2 does not run on this host"), "{}", host.reasons());
}

#[test]
fn what_was_cut_from_a_poll_is_not_missing() {
    let mut host = Host::new();
    host.db_mut().processes.clear();
    host.db_mut().truncated = vec!["processes".into()];
    host.connect(5000, SocketState::Established);
    assert_eq!(host.poll(), ServiceState::Unknown);
}

#[test]
fn a_silent_agent_makes_it_unknown_but_not_at_once() {
    let mut host = Host::new();
    host.connect(5000, SocketState::Established);
    host.poll();
    let told = (host.web.take(), host.db.take());
    for _ in 0..3 {
        assert_eq!(host.poll(), ServiceState::Healthy);
    }
    assert_eq!(host.poll(), ServiceState::Unknown);
    assert!(host.findings.is_empty());
    (host.web, host.db) = told;
    assert_eq!(host.poll(), ServiceState::Healthy);
}

#[test]
fn connections_of_others_are_not_its_own() {
    let mut host = Host::new();
    // From another node, by another process, to another port.
    host.db_mut().sockets.push(socket((2, 7000), (9, 5000), SocketState::Established, &[60]));
    host.web_mut().processes.push(process(70, 1, "backup"));
    host.web_mut().sockets.push(socket((1, 5000), (2, 7000), SocketState::Established, &[70]));
    host.web_mut().sockets.push(socket((1, 5001), (2, 7001), SocketState::Established, &[60]));
    host.poll();
    host.poll();
    assert_eq!(host.poll(), ServiceState::Degraded);
    // A child of the server's is the server.
    host.web_mut().processes.push(process(80, 60, "cgi"));
    host.web_mut().processes.push(process(81, 80, "nc"));
    host.web_mut().sockets.push(socket((1, 5002), (2, 7000), SocketState::Established, &[81]));
    assert_eq!(host.poll(), ServiceState::Healthy);
}

#[test]
fn files_drift_from_what_was_found_first_or_configured() {
    let found = |found| {
        let file = FileSample { path: "/etc/app.conf".into(), found };
        Some(FilesSample { files: vec![file], trouble: None })
    };
    let sum = |digit: &str| FileFound::Sha256(digit.repeat(64));
    let mut host = Host::new();
    host.connect(5000, SocketState::Established);
    host.poll();
    assert_eq!(host.status().files[0].state, DriftState::Unknown);
    host.files = found(sum("a"));
    host.poll();
    assert_eq!((host.status().files[0].state, host.findings.len()), (DriftState::Same, 0));
    host.files = found(sum("b"));
    let state = host.poll();
    host.poll();
    let file = &host.status().files[0];
    assert_eq!(
        (file.state, file.since_unix_ms, state),
        (DriftState::Changed, Some(180_000), ServiceState::Healthy)
    );
    let finding = &host.findings[0];
    assert_eq!((finding.name.as_str(), finding.domain_name.as_deref()), ("file_drift", Some("d1")));
    let evidence: BTreeMap<_, _> = finding.evidence.iter().cloned().collect();
    assert_eq!((&evidence["expected_sha256"], &evidence["found_sha256"]), (&"a".repeat(64), &"b".repeat(64)));
    for (what, state) in [
        (FileFound::Missing, DriftState::Missing),
        (FileFound::TooLarge, DriftState::TooLarge),
        (FileFound::Unreadable("no".into()), DriftState::Unreadable),
        (sum("a"), DriftState::Same),
    ] {
        host.files = found(what);
        host.poll();
        assert_eq!(host.status().files[0].state, state);
    }
    // A sum in the configuration counts at once, whatever was found first.
    host.policy.services[0].files[0].sha256 = Some("C".repeat(64));
    host.poll();
    assert_eq!(host.status().files[0].state, DriftState::Changed);
    host.files = found(sum("c"));
    host.poll();
    assert_eq!((host.status().files[0].state, host.findings.len()), (DriftState::Same, 0));
}

#[test]
fn a_new_daemon_goes_on_where_the_old_one_was() {
    let mut host = Host::new();
    host.connect(5000, SocketState::Established);
    host.poll();
    host.poll();
    let kept = serde_json::to_string(host.status()).unwrap();
    let mut next = Host::new();
    next.history.services.insert("shop".into(), ServiceHistory::of(serde_json::from_str(&kept).unwrap()));
    next.connect(5000, SocketState::Established);
    assert_eq!((next.poll(), next.transitions.len()), (ServiceState::Healthy, 0));
    assert_eq!(next.status().since_unix_ms, Some(60_000));
    next.policy.services.clear();
    next.round += 1;
    judge(&Model { at: next.at(), ..Model::default() }, &next.policy, &mut next.history);
    assert!(next.history.services.is_empty());
}

#[test]
fn a_service_is_learned_from_what_runs_and_talks() {
    let mut host = Host::new();
    host.connect(5000, SocketState::Established);
    host.web_mut().listeners.push(Listener { address: "127.0.0.1".parse().unwrap(), ..listener(631, 60) });
    host.web_mut().listeners.push(listener(40_000, 60));
    let of = |id, sample: &Option<GuestSample>| {
        let reading = GuestReading { at: POLL, host_cpu_ns: None, sample: sample.clone().unwrap() };
        let mut domain = domain(id, 1, 0.1, 0.0, 0.0, 2);
        let model = crate::model::GuestModel::new(None, &reading, "qemu-ga");
        domain.guest = Some(crate::model::GuestModel { reading: Some(Arc::new(reading)), ..model });
        domain
    };
    let (web, db) = (of(1, &host.web), of(2, &host.db));
    let learned = learn("learned", &[&web, &db]);
    let names: Vec<_> =
        learned.service.components.iter().map(|part| (part.name.as_str(), part.port)).collect();
    assert_eq!(names, [("d1-httpd", Some(80)), ("d2-answer", Some(7000))]);
    let connection = ConnectionPolicy {
        from: "d1-httpd".into(),
        to: "d2-answer".into(),
        port: 7000,
        protocol: SocketProtocol::Tcp,
    };
    assert_eq!((learned.service.connections.as_slice(), learned.notes.len()), (&[connection][..], 0));
    host.policy.services = vec![ServicePolicy { name: "shop".into(), ..learned.service }];
    assert_eq!(host.poll(), ServiceState::Healthy);
    let silent = domain(3, 1, 0.0, 0.0, 0.0, 2);
    assert_eq!(learn("x", &[&silent]).notes.len(), 2);
    assert_eq!(web.state, DomainState::Running);
}

#[test]
fn rules_may_ask_for_the_service_and_members_come_first_to_the_budget() {
    let mut host = Host::new();
    host.db_mut().processes.clear();
    host.poll();
    // Both would be lowered, and only one may be.
    host.web_mut().processes.insert(0, process(50, 1, "aardvark"));
    let text = "[[rule]]\nname = \"mine\"\nwhen = \"service.name == 'shop' && service.state == 'failed'\"\n\
                then = { finding = { name = \"mine\", severity = \"info\", summary = \"{name}\" } }\n\
                [[rule]]\nname = \"push\"\nwhen = \"process.level != 'low'\"\nthen = { lower = \"process\" }\n\
                [[rule]]\nname = \"ladder.decay\"\nenabled = false\n";
    host.policy.rules =
        crate::rules::RuleSet::with_files(vec![crate::rules::read(text, "own").unwrap()]).unwrap();
    host.policy.ladder.max_processes = 1;
    host.round += 1;
    let decided = crate::decide::cycle(&host.model(), &host.policy, &mut host.history);
    let found = decided.findings.iter().filter(|finding| finding.name == "mine");
    assert_eq!(
        found.map(|finding| finding.domain_name.as_deref()).collect::<Vec<_>>(),
        [Some("d1"), Some("d2")]
    );
    let levels: Vec<_> =
        decided.proposals.iter().chain(decided.held.iter().map(|(proposal, _)| proposal)).collect();
    let of = |name: &str| levels.iter().any(|proposal| proposal.action.to_string().contains(name));
    assert!(of("httpd") && !of("aardvark"), "{levels:?}");
}
