//! The fast cycle over processes that look like QEMUs: their threads are found, named, counted, and gone when they are
//! gone. Needs root. The benchmark of the same name does the same with hundreds of them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvmpilot::kernel::Kernel;
use kvmpilot::probes::{Capacity, Ground, Probes, ThreadKey, Totals};
use kvmpilot::sense::{Cadence, Entries, HostSense, InventoryEntry};
use kvmpilot_core::Uuid;
use kvmpilot_core::sample::{DomainSample, Sample, ThreadRole, ThreadSample, ThreadSource};
use kvmpilot_tests::{Farm, farm, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
const DOMAINS: usize = 20;
const WAKE: Duration = Duration::from_millis(5);
const RECORDING: &str = include_str!("../benches/domain.json");

fn uuid(farm: &Farm, number: usize) -> Uuid {
    Uuid::from_u128(farm.uuid(number.try_into().unwrap()))
}

fn inventory(uuid: impl Fn(usize) -> Uuid) -> Entries {
    let recorded: DomainSample = serde_json::from_str(RECORDING).unwrap();
    (0..DOMAINS)
        .map(|number| {
            let domain = DomainSample { uuid: uuid(number), name: format!("d{number}"), ..recorded.clone() };
            (uuid(number), Arc::new(InventoryEntry::read(domain, Instant::now().into(), Vec::new())))
        })
        .collect()
}

fn probes() -> Probes {
    let kernel = Kernel::default();
    let own_thread = |tid| {
        let pid = std::process::id();
        let stat = kernel.schedstat(pid, tid)?;
        let key = ThreadKey { tid, start_ticks: kernel.thread(pid, tid)?.start_ticks };
        let (on_cpu_ns, runq_wait_ns) = (stat.on_cpu_ns, stat.runq_wait_ns);
        Ok((key, Totals { on_cpu_ns, runq_wait_ns, arrivals: stat.arrivals }))
    };
    let ground = Ground {
        pid_max: kernel.pid_max().unwrap(),
        confidential: kernel.lockdown().as_deref() == Some("confidentiality"),
        own_thread: &own_thread,
    };
    Probes::load(&ground, Capacity { threads: 256, domains: 64 })
        .unwrap_or_else(|err| panic!("{:#}", anyhow::Error::from(err)))
}

/// A farm and what is sensed of it, with one look after the other.
struct Scene {
    farm: Farm,
    pids: Vec<u32>,
    inventory: Entries,
    sense: HostSense,
}

impl Scene {
    fn start(probes: Option<Probes>) -> Self {
        let mut farm = Farm::new(Path::new(env!("CARGO_BIN_EXE_qemu-like"))).unwrap();
        let mut pids = Vec::new();
        for number in 0..DOMAINS {
            let uuid = uuid(&farm, number).to_string();
            pids.push(farm.add(&uuid, WAKE).unwrap());
        }
        let inventory = inventory(|number| uuid(&farm, number));
        Self { farm, pids, inventory, sense: HostSense::new(Kernel::default(), probes) }
    }

    fn uuid(&self, number: usize) -> Uuid {
        uuid(&self.farm, number)
    }

    fn look(&mut self) -> Sample {
        let (sample, unread) = self.sense.sample(&self.inventory, |_| None, Cadence::Detail);
        let unread: Vec<_> = unread.into_iter().filter(|text| !text.contains("pressure")).collect();
        assert_eq!(unread, [""; 0]);
        sample
    }

    /// Looks until what is seen of one domain is as wanted.
    fn until(&mut self, what: &str, number: usize, wanted: impl Fn(&DomainSample) -> bool) {
        let uuid = self.uuid(number);
        wait_for(what, PATIENCE, || {
            let sample = self.look();
            let domain = sample.domains.iter().find(|domain| domain.uuid == uuid).unwrap();
            anyhow::ensure!(wanted(domain), "{:?}", domain.threads);
            Ok(())
        })
        .unwrap();
    }
}

fn roles(domain: &DomainSample) -> Vec<ThreadRole> {
    let mut roles: Vec<_> = domain.threads.iter().map(|thread| thread.role).collect();
    roles.sort();
    roles
}

/// Waits by the histogram, switches away, time in the row of the steal matrix and time waited.
fn counted(thread: &ThreadSample) -> Option<[u64; 4]> {
    let waits = thread.runq_wait_histogram.as_ref()?.iter().sum();
    let switches = thread.switches_preempted? + thread.switches_blocked?;
    let stolen = thread.stolen.as_ref()?.iter().map(|part| part.ns).sum();
    Some([waits, switches, stolen, thread.runq_wait_ns])
}

/// [`counted`] by thread id.
fn figures(sample: &Sample) -> BTreeMap<u32, [u64; 4]> {
    let threads = sample.domains.iter().flat_map(|domain| &domain.threads);
    threads.filter_map(|thread| Some((thread.tid, counted(thread)?))).collect()
}

/// What is read in detail keeps up with the counters although it is read only after they have moved. Those that are meant
/// have moved.
fn agree(scene: &mut Scene, begin: &Sample, meant: impl Fn(&ThreadSample) -> bool) {
    let first = figures(begin);
    let mut last = first.clone();
    let mut right = BTreeSet::new();
    // A thread may run between two figures that belong together, in the first look as in any other: then the window between
    // two other looks is right.
    wait_for("waits that agree", PATIENCE, || {
        let end = scene.look();
        let now = figures(&end);
        for (tid, now) in &now {
            for before in [first.get(tid), last.get(tid)].into_iter().flatten() {
                let [waits, switches, stolen, waited] = std::array::from_fn(|n| now[n] - before[n]);
                if waits > 0 && (waits, stolen) == (switches, waited) {
                    right.insert(*tid);
                }
            }
        }
        last.clone_from(&now);
        let mut moved = 0;
        for thread in end.domains.iter().flat_map(|domain| &domain.threads) {
            let Some((before, now)) = first.get(&thread.tid).zip(now.get(&thread.tid)) else { continue };
            let right = right.contains(&thread.tid);
            anyhow::ensure!(right || before == now, "{before:?} {now:?} {thread:?}");
            moved += usize::from(right && meant(thread));
        }
        anyhow::ensure!(moved >= DOMAINS / 2, "{moved} have moved");
        Ok(())
    })
    .unwrap();
}

/// Threads come, run and go.
fn follows(mut scene: Scene, source: ThreadSource) {
    use ThreadRole::{Emulator, Iothread, Vcpu, Worker};
    const ROLES: [ThreadRole; farm::THREADS] = [Vcpu(0), Vcpu(1), Emulator, Iothread(1), Worker];

    let first = scene.look();
    assert_eq!(first.domains.len(), DOMAINS);
    for (number, domain) in first.domains.iter().enumerate() {
        assert_eq!(domain.qemu_pid, Some(scene.pids[number]));
        assert_eq!(roles(domain), ROLES);
    }
    // The switch that sets the probe's baseline comes with the next wake-up, which only vcpu 0 has.
    scene.until("counters", 7, |domain| {
        domain.threads.iter().any(|thread| thread.role == Vcpu(0) && thread.source == source)
    });

    let begin = scene.look();
    let started = Instant::now();
    std::thread::sleep(Duration::from_millis(500));
    let end = scene.look();
    let most = started.elapsed() + Duration::from_millis(200);
    for (begin, end) in begin.domains.iter().zip(&end.domains) {
        for (before, after) in begin.threads.iter().zip(&end.threads) {
            assert_eq!((before.tid, before.start_ticks), (after.tid, after.start_ticks));
            let ran = after.on_cpu_ns.checked_sub(before.on_cpu_ns).unwrap();
            assert!(Duration::from_nanos(ran) < most, "{after:?}");
            // 50 us at each wake-up, so some 5 ms; a thread that only sleeps does not run at all.
            let moves = after.role == Vcpu(0);
            assert_eq!(ran > 500_000, moves, "{ran} ns of {after:?}");
            if source == ThreadSource::Probe && moves {
                assert!(after.switches_blocked > before.switches_blocked, "{after:?}");
            }
        }
    }

    if source == ThreadSource::Probe {
        agree(&mut scene, &begin, |thread| thread.role == Vcpu(0));
    }

    scene.farm.order(7, "fork").unwrap();
    scene.until("a new thread", 7, |domain| roles(domain).as_slice() == [&ROLES[..], &[Worker]].concat());
    scene.farm.order(7, "join").unwrap();
    scene.until("the new thread to be gone", 7, |domain| roles(domain) == ROLES);
    if source == ThreadSource::Probe {
        // Main threads that are known to rest since several looks wake up.
        let main = |thread: &ThreadSample| thread.role == Emulator;
        (0..DOMAINS).for_each(|number| scene.farm.order(number, "join").unwrap());
        scene.until("a main thread", 0, |domain| {
            domain.threads.iter().any(|it| main(it) && counted(it).is_some())
        });
        let rested = (scene.look(), scene.look()).1;
        (0..DOMAINS).for_each(|number| scene.farm.order(number, "join").unwrap());
        agree(&mut scene, &rested, main);
    }

    scene.farm.end(7).unwrap();
    let after = scene.look();
    let seventh = scene.uuid(7);
    let (gone, there): (Vec<_>, Vec<_>) = after.domains.iter().partition(|domain| domain.uuid == seventh);
    assert_eq!((gone[0].qemu_pid, gone[0].threads.len()), (None, 0));
    assert!(there.iter().all(|domain| roles(domain) == ROLES));

    // The domain starts again: another process, another life.
    let pid = scene.farm.add(&seventh.to_string(), WAKE).unwrap();
    scene.until("the new process", 7, |domain| domain.qemu_pid == Some(pid) && roles(domain) == ROLES);

    // A domain that libvirt does not know any more is nothing to us, although its process lives.
    let third = scene.uuid(3);
    scene.inventory.remove(&third);
    let after = scene.look();
    assert!(after.domains.len() == DOMAINS - 1 && after.domains.iter().all(|domain| domain.uuid != third));
}

#[test]
fn threads_are_followed_with_probes() {
    follows(Scene::start(Some(probes())), ThreadSource::Probe);
}

#[test]
fn threads_are_followed_without_probes() {
    follows(Scene::start(None), ThreadSource::Schedstat);
}

/// Writes the recording that tests and benchmark multiply: a domain of the lab as libvirt tells it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes a file of the repository"]
async fn record() -> anyhow::Result<()> {
    use kvmpilot::libvirt::{Libvirt, Options, Status};
    use kvmpilot_tests::{Lab, LabOptions, guests, workspace};

    let lab = Lab::start(&LabOptions { guests: vec![guests::web()] })?;
    lab.wait_agents(Duration::from_secs(180))?;
    let socket = format!("/proc/{}/root/run/libvirt/libvirt-sock", lab.qemu_pid("web")?);
    let libvirt = Libvirt::start(&format!("qemu+unix:///system?socket={socket}"), Options::default());
    tokio::time::timeout(PATIENCE, libvirt.status_changes().wait_for(Status::is_up)).await??;
    let uuid = libvirt.domains().await?[0].uuid;
    let mut domain = libvirt.read_domain(uuid).await?.sample;
    domain.balloon = Some(libvirt.read_balloon(uuid).await?);
    std::fs::write(
        workspace().join("tests/benches/domain.json"),
        serde_json::to_string_pretty(&domain)? + "\n",
    )?;
    Ok(())
}
