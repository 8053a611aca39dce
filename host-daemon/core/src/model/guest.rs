//! The inside of a guest over the window between two polls: applications, who communicates, virtualisation loss.
//!
//! An *application* is the processes of one systemd unit, else a process with the descendants that run the same
//! executable (a server and its workers). Grouping by executable alone would make one application of all of busybox.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::task_group::{self, UnitModel};
use super::{TrafficRate, part_of, rise, rise_of};
use crate::sample::{Autogroup, GuestSample, Listener, ProcessKey, ProcessSample, SocketSample};
use crate::units::Ratio;

/// One poll with what the host knew at the same moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuestReading {
    /// When it was taken, on the daemon's monotonic clock.
    pub at: Duration,
    /// CPU time of all of the domain's QEMU threads at that moment, if known.
    pub host_cpu_ns: Option<u64>,
    /// What the agent told.
    pub sample: GuestSample,
}

/// The inside of a guest.
#[derive(Clone, Debug, Default)]
pub struct GuestModel {
    /// When the later poll was taken, on the daemon's monotonic clock.
    pub at: Duration,
    /// Window between the two polls; `None` with only one.
    pub window: Option<Duration>,
    /// vcpus online.
    pub vcpus_online: Option<u32>,
    /// Threads that wanted to run at the poll, the poll's own left out: running processes, and of a process with
    /// several threads as many as the vcpus that it used over the window. Of a guest that does not tell its processes it is
    /// the load average, rounded.
    pub runnable: Option<u32>,
    /// One-minute load average.
    pub load1: Option<f64>,
    /// Part of the vcpus' time that was not idle.
    pub busy: Option<Ratio>,
    /// Host CPU time of the domain less the guest's busy time, as a part of the vcpus' time: what virtualisation costs.
    pub virtualisation_loss: Option<Ratio>,
    /// Whether nice is void between sessions.
    pub autogroup: Option<bool>,
    /// Whether systemd's cgroups rule.
    pub systemd: bool,
    /// Whether it can set the vcpus of processes.
    pub sets_affinity: bool,
    /// Applications by name.
    pub applications: Vec<Application>,
    /// What the poll had to cut.
    pub truncated: Vec<String>,
    /// The poll itself; sockets without an owner are only in there.
    pub reading: Option<Arc<GuestReading>>,
    /// Why its processes are not known, so that no applications does not mean that there are none.
    pub unread: Option<String>,
}

/// A server and its workers, or a systemd unit.
#[derive(Clone, Debug, Default)]
pub struct Application {
    /// The unit, or name and executable of the root process; unique inside the guest.
    pub name: String,
    /// Its processes, root first.
    pub processes: Vec<ProcessModel>,
    /// How it was found talking to another node; empty where it was not.
    pub conversations: Vec<String>,
    /// What it moved in the window of the flows, shared sockets included; `None` without flow probes.
    pub traffic: Option<TrafficRate>,
    /// Its systemd unit, where it is one with a cgroup that the guest's kernel accounts for.
    pub unit: Option<UnitModel>,
    /// Autogroups that are its alone; none where autogroup is off.
    pub autogroups: Vec<Autogroup>,
}

/// One process over the window.
#[derive(Clone, Debug)]
pub struct ProcessModel {
    /// As read at the later poll.
    pub sample: ProcessSample,
    /// Part of one vcpu that it used over the window, waited-for children included.
    pub cpu: Option<f64>,
    /// Part of the window in which its main thread waited for a vcpu.
    pub waits: Option<f64>,
    /// Connections that it owns.
    pub connections: Vec<SocketSample>,
    /// Sockets that it listens on.
    pub listeners: Vec<Listener>,
    /// What it moved by itself in the window of the flows; `None` without flow probes.
    pub traffic: Option<TrafficRate>,
}

impl Application {
    /// Whether it was found talking to another node.
    #[must_use]
    pub fn communicating(&self) -> bool {
        !self.conversations.is_empty()
    }

    /// Part of one vcpu that it used over the window.
    #[must_use]
    pub fn cpu(&self) -> Option<f64> {
        let of_unit = self.unit.as_ref().and_then(|unit| unit.cpu);
        of_unit.or_else(|| sum(self.processes.iter().filter_map(|process| process.cpu)))
    }

    /// Part of the window in which it waited for a vcpu of the guest.
    #[must_use]
    pub fn waits(&self) -> Option<f64> {
        let of_unit = self.unit.as_ref().and_then(|unit| unit.waits);
        of_unit.or_else(|| sum(self.processes.iter().filter_map(|process| process.waits)))
    }
}

/// `None` of nothing.
fn sum(parts: impl Iterator<Item = f64>) -> Option<f64> {
    parts.fold(None, |sum, part| Some(sum.unwrap_or(0.0) + part))
}

impl GuestModel {
    /// Derives the window between two polls. `agent` is the name of the agent's process: it and its children, which
    /// are this very poll, are left out.
    #[must_use]
    pub fn new(begin: Option<&GuestReading>, end: &GuestReading, agent: &str) -> Self {
        let sample = &end.sample;
        // A guest that was rebooted between the polls has no common window; nor has one that began or ceased to tell its
        // processes: then another clock counts.
        let window = begin
            .filter(|begin| begin.sample.ticks_per_second == sample.ticks_per_second)
            .and_then(|begin| rise(begin.sample.uptime_cs, sample.uptime_cs))
            .filter(|cs| *cs > 0)
            .map(|cs| Duration::from_millis(cs.saturating_mul(10)));
        let begin = begin.filter(|_| window.is_some());
        let vcpu_window = window.zip(sample.vcpus_online).map(|(window, vcpus)| window * vcpus.max(1));
        let busy_ns = begin
            .and_then(|begin| rise_of(begin.sample.busy_ticks, sample.busy_ticks))
            .and_then(|ticks| ticks_to_ns(ticks, sample.ticks_per_second));
        let host_ns = begin.and_then(|begin| rise_of(begin.host_cpu_ns, end.host_cpu_ns));
        let processes = processes_of_interest(sample, agent);
        let applications = applications(sample, &processes, begin, window);
        Self {
            at: end.at,
            window,
            vcpus_online: sample.vcpus_online,
            runnable: match sample.unread {
                None => Some(runnable(&applications)),
                Some(_) => sample.load1.map(whole),
            },
            load1: sample.load1,
            busy: busy_ns.zip(vcpu_window).and_then(|(busy, window)| part_of(busy, window)).map(Ratio),
            virtualisation_loss: host_ns
                .zip(busy_ns)
                .zip(vcpu_window)
                .and_then(|((host, busy), window)| part_of(host.saturating_sub(busy), window))
                .map(Ratio),
            autogroup: sample.autogroup,
            systemd: sample.systemd,
            sets_affinity: sample.sets_affinity,
            applications,
            truncated: sample.truncated.clone(),
            reading: None,
            unread: sample.unread.clone(),
        }
    }

    /// Whether one of its applications talks to another node; `None` where they are not known.
    #[must_use]
    pub fn communicating(&self) -> Option<bool> {
        self.unread.is_none().then(|| self.applications.iter().any(Application::communicating))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates; loads and shares of CPU are positive"
)]
fn whole(number: f64) -> u32 {
    number.round() as u32
}

/// The kernel's own count has the poll's shell and its pipeline in it, so it is counted from the processes.
fn runnable(applications: &[Application]) -> u32 {
    let wants = |process: &ProcessModel| {
        let used = whole(process.cpu.unwrap_or(0.0));
        u32::from(process.sample.state == 'R').max(used.min(process.sample.threads))
    };
    applications.iter().flat_map(|application| &application.processes).map(wants).sum()
}

fn ticks_to_ns(ticks: u64, ticks_per_second: u64) -> Option<u64> {
    ticks.checked_mul(1_000_000_000)?.checked_div(ticks_per_second)
}

type ByPid<'a> = BTreeMap<u32, &'a ProcessSample>;

/// All processes but those that are ending, the agent and what it started.
fn processes_of_interest<'a>(sample: &'a GuestSample, agent: &str) -> ByPid<'a> {
    let all: ByPid = sample.processes.iter().map(|process| (process.key.pid, process)).collect();
    let of_agent = |process: &ProcessSample| ancestry(process, &all).any(|ancestor| ancestor.name == agent);
    // One that ends loses its executable before its entry. An agent without rights sees none of its user's at all.
    let readable = sample.processes.iter().filter(|process| process.executable.is_some());
    let readable: BTreeSet<u32> = readable.filter_map(|process| process.uid).collect();
    let lives = |process: &ProcessSample| {
        !matches!(process.state, 'Z' | 'X')
            && (process.executable.is_some() || process.uid.is_some_and(|uid| !readable.contains(&uid)))
    };
    all.values()
        .filter(|process| lives(process) && !of_agent(process))
        .map(|process| (process.key.pid, *process))
        .collect()
}

/// The process and its parents, nearest first. A guest may lie about parents, so a circle ends after 64 steps.
fn ancestry<'a>(process: &'a ProcessSample, all: &ByPid<'a>) -> impl Iterator<Item = &'a ProcessSample> {
    std::iter::successors(Some(process), |process| all.get(&process.parent).copied()).take(64)
}

/// The process that stands for the application of `process`.
fn root<'a>(process: &'a ProcessSample, all: &ByPid<'a>) -> &'a ProcessSample {
    ancestry(process, all)
        .take_while(|ancestor| ancestor.key.pid != 1 && ancestor.executable == process.executable)
        .last()
        .unwrap_or(process)
}

fn applications(
    sample: &GuestSample,
    processes: &ByPid<'_>,
    begin: Option<&GuestReading>,
    window: Option<Duration>,
) -> Vec<Application> {
    let earlier: BTreeMap<ProcessKey, &ProcessSample> = begin
        .iter()
        .flat_map(|begin| &begin.sample.processes)
        .map(|process| (process.key, process))
        .collect();
    let mut by_name: BTreeMap<String, Application> = BTreeMap::new();
    for process in processes.values() {
        let root = root(process, processes);
        let name = process.unit.clone().unwrap_or_else(|| {
            root.executable
                .as_ref()
                .map_or_else(|| root.name.clone(), |path| format!("{} ({path})", root.name))
        });
        let application = by_name.entry(name).or_default();
        let pid = process.key.pid;
        let before = earlier.get(&process.key);
        let model = ProcessModel {
            sample: (*process).clone(),
            waits: before
                .zip(window)
                .and_then(|(before, window)| part_of(rise_of(before.wait_ns, process.wait_ns)?, window)),
            cpu: before.zip(window).and_then(|(before, window)| {
                let ticks = rise(
                    before.cpu_ticks.saturating_add(before.children_cpu_ticks),
                    process.cpu_ticks.saturating_add(process.children_cpu_ticks),
                )?;
                part_of(ticks_to_ns(ticks, sample.ticks_per_second)?, window)
            }),
            connections: sample
                .sockets
                .iter()
                .filter(|socket| socket.owners.contains(&pid))
                .cloned()
                .collect(),
            listeners: sample
                .listeners
                .iter()
                .filter(|listener| listener.owners.contains(&pid))
                .cloned()
                .collect(),
            traffic: None,
        };
        if pid == root.key.pid {
            application.processes.insert(0, model);
        } else {
            application.processes.push(model);
        }
    }
    let mut units = task_group::units(begin.map(|begin| &begin.sample), sample, window);
    for (name, application) in &mut by_name {
        application.conversations = conversations(application, sample, |_| true);
        application.unit = units.remove(name);
        application.name.clone_from(name);
    }
    let mut applications: Vec<Application> = by_name.into_values().collect();
    if sample.autogroup == Some(true) {
        task_group::share_out_autogroups(&mut applications);
    }
    applications
}

/// How the application talks to other nodes: connections that it owns, and connections to a port that it listens on,
/// whose worker may be gone by now. Only those that `count`.
pub(super) fn conversations(
    application: &Application,
    sample: &GuestSample,
    count: impl Fn(&SocketSample) -> bool,
) -> Vec<String> {
    let own: BTreeSet<IpAddr> = sample.sockets.iter().map(|socket| canonical(socket.local_address)).collect();
    let serves = |socket: &SocketSample| {
        application.processes.iter().flat_map(|process| &process.listeners).any(|listener| {
            listener.protocol == socket.protocol
                && listener.port == socket.local_port
                && (listener.address.is_unspecified()
                    || canonical(listener.address) == canonical(socket.local_address))
        })
    };
    let owns = |socket: &SocketSample| {
        application.processes.iter().any(|process| socket.owners.contains(&process.sample.key.pid))
    };
    let remote = |socket: &&SocketSample| {
        let peer = canonical(socket.peer_address);
        !peer.is_loopback() && !peer.is_unspecified() && !own.contains(&peer) && count(socket)
    };
    let mut served: BTreeMap<(u16, IpAddr), usize> = BTreeMap::new();
    let mut lines = Vec::new();
    for socket in sample.sockets.iter().filter(remote) {
        if serves(socket) {
            *served.entry((socket.local_port, canonical(socket.peer_address))).or_default() += 1;
        } else if owns(socket) {
            lines.push(format!("connected to {} port {}", canonical(socket.peer_address), socket.peer_port));
        }
    }
    let served = served
        .into_iter()
        .map(|((port, peer), count)| format!("serves {peer} on port {port} ({count} connections)"));
    shorten(served.chain(lines).collect())
}

/// The first few lines, and how many more there are.
pub(super) fn shorten(mut lines: Vec<String>) -> Vec<String> {
    const SHOWN: usize = 4;
    if lines.len() > SHOWN {
        let more = lines.len() - SHOWN;
        lines.truncate(SHOWN);
        lines.push(format!("and {more} more"));
    }
    lines
}

/// IPv4 addresses in IPv6 clothes are IPv4.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{SocketProtocol, SocketState};

    fn process(pid: u32, parent: u32, name: &str, executable: &str) -> ProcessSample {
        ProcessSample {
            key: ProcessKey { pid, start_ticks: u64::from(pid) },
            parent,
            name: name.into(),
            executable: Some(executable.into()),
            command: name.into(),
            uid: Some(0),
            state: 'S',
            threads: 1,
            ..ProcessSample::default()
        }
    }

    fn socket(local: &str, local_port: u16, peer: &str, owners: &[u32]) -> SocketSample {
        SocketSample {
            protocol: SocketProtocol::Tcp,
            local_address: local.parse().unwrap(),
            local_port,
            peer_address: peer.parse().unwrap(),
            peer_port: 40000,
            state: SocketState::Established,
            owners: owners.to_vec(),
        }
    }

    fn busybox_guest() -> GuestSample {
        GuestSample {
            uptime_cs: 1000,
            ticks_per_second: 100,
            vcpus_online: Some(2),
            processes: vec![
                process(1, 0, "init", "/bin/busybox"),
                process(50, 1, "qemu-ga", "/bin/qemu-ga"),
                process(60, 1, "httpd", "/bin/busybox"),
                process(61, 1, "hog", "/bin/busybox"),
                process(70, 60, "work.cgi", "/bin/busybox"),
                process(80, 50, "sh", "/bin/busybox"),
                ProcessSample { executable: None, ..process(90, 60, "httpd", "") },
                ProcessSample { state: 'Z', ..process(91, 60, "gone", "/bin/busybox") },
            ],
            listeners: vec![Listener {
                protocol: SocketProtocol::Tcp,
                address: "::".parse().unwrap(),
                port: 80,
                owners: vec![60],
            }],
            sockets: vec![socket("::ffff:10.0.0.2", 80, "::ffff:10.0.0.1", &[])],
            ..GuestSample::default()
        }
    }

    fn model(sample: GuestSample) -> GuestModel {
        GuestModel::new(None, &GuestReading { at: Duration::ZERO, host_cpu_ns: None, sample }, "qemu-ga")
    }

    #[test]
    fn a_server_and_its_workers_are_one_application_and_the_poll_is_none() {
        let model = model(busybox_guest());
        let names: Vec<_> = model.applications.iter().map(|application| application.name.as_str()).collect();
        assert_eq!(names, ["hog (/bin/busybox)", "httpd (/bin/busybox)", "init (/bin/busybox)"]);
        assert_eq!(model.applications[1].processes.len(), 2);
        assert_eq!(model.applications[1].processes[0].sample.name, "httpd");
    }

    #[test]
    fn a_listener_that_was_served_communicates_without_an_owner_of_the_connection() {
        let model = model(busybox_guest());
        assert_eq!(model.applications[1].conversations, ["serves 10.0.0.1 on port 80 (1 connections)"]);
        assert!(!model.applications[0].communicating());
    }

    #[test]
    fn loopback_and_own_addresses_are_no_other_node() {
        let mut sample = busybox_guest();
        sample.sockets =
            vec![socket("127.0.0.1", 80, "127.0.0.1", &[60]), socket("10.0.0.2", 80, "10.0.0.2", &[60])];
        assert!(model(sample).applications.iter().all(|application| !application.communicating()));
    }

    #[test]
    fn a_guest_that_does_not_tell_its_processes_has_load_and_no_opinion_on_who_talks() {
        let sample = GuestSample {
            load1: Some(3.4),
            unread: Some("switched off".into()),
            processes: vec![],
            ..busybox_guest()
        };
        let silent = model(sample);
        assert_eq!((silent.runnable, silent.communicating()), (Some(3), None));
        assert_eq!(model(busybox_guest()).communicating(), Some(true));
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let mut sample = busybox_guest();
        sample.processes.push(process(90, 91, "a", "/x"));
        sample.processes.push(process(91, 90, "b", "/x"));
        assert!(model(sample).applications.len() >= 3);
    }

    #[test]
    fn loss_is_host_time_less_guest_time() {
        let reading = |at: u64, uptime_cs, busy_ticks, host_cpu_ns| GuestReading {
            at: Duration::from_secs(at),
            host_cpu_ns: Some(host_cpu_ns),
            sample: GuestSample {
                uptime_cs,
                ticks_per_second: 100,
                vcpus_online: Some(2),
                busy_ticks: Some(busy_ticks),
                ..GuestSample::default()
            },
        };
        let model =
            GuestModel::new(Some(&reading(0, 0, 0, 0)), &reading(10, 1000, 1000, 12_000_000_000), "qemu-ga");
        assert_eq!(model.busy, Some(Ratio(0.5)));
        assert_eq!(model.virtualisation_loss, Some(Ratio(0.1)));
        let rebooted = GuestModel::new(Some(&reading(0, 5000, 0, 0)), &reading(10, 1000, 1000, 0), "qemu-ga");
        assert_eq!(rebooted.window, None);
    }
}
