//! The libvirt and agent gateways against a real libvirtd and real guests.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kvmpilot::agent::{Agent, AgentError, Limits, NiceChange, NiceResult, Transport, TransportError};
use kvmpilot::libvirt::{DomainEvent, ErrorKind, Events, Libvirt, Options, Status};
use kvmpilot_core::sample::{DomainState, GuestSample, ProcessSample};
use kvmpilot_core::{CpuSet, Uuid};
use kvmpilot_tests::{Accel, GuestSpec, HttpLoad, Lab, LabOptions, Work, guests, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(120);

/// libvirt's socket in the lab's mount namespace, reached from outside through a process inside.
async fn connect(lab: &Lab, guest: &str) -> Result<Libvirt> {
    let socket = format!("/proc/{}/root/run/libvirt/libvirt-sock", lab.qemu_pid(guest)?);
    let libvirt = Libvirt::start(&format!("qemu+unix:///system?socket={socket}"), Options::default());
    wait_up(&libvirt).await?;
    Ok(libvirt)
}

async fn wait_up(libvirt: &Libvirt) -> Result<()> {
    let mut status = libvirt.status_changes();
    tokio::time::timeout(PATIENCE, status.wait_for(Status::is_up))
        .await
        .with_context(|| libvirt.status().to_string())??;
    Ok(())
}

async fn uuid_of(libvirt: &Libvirt, guest: &str) -> Result<Uuid> {
    let domains = libvirt.domains().await?;
    let domain = domains.iter().find(|domain| domain.name == guest);
    Ok(domain.with_context(|| format!("no {guest} in {domains:?}"))?.uuid)
}

async fn wait_event(events: &mut Events, wanted: impl Fn(DomainEvent) -> bool) -> Result<()> {
    let seen = async {
        while !wanted(events.next().await.context("no more events")?) {}
        Ok(())
    };
    tokio::time::timeout(PATIENCE, seen).await.context("the event never came")?
}

struct Wire(Libvirt, Uuid);

impl Transport for Wire {
    async fn command(&self, command: &str, timeout: Duration) -> Result<String, TransportError> {
        self.0.agent_command(self.1, command, timeout).await.map_err(|error| match error.kind {
            ErrorKind::AgentTimeout => TransportError::TimedOut,
            ErrorKind::AgentRefused(message) => TransportError::Refused(message),
            kind => TransportError::NotConnected(kind.to_string()),
        })
    }
}

fn find<'a>(sample: &'a GuestSample, name: &str) -> Result<&'a ProcessSample> {
    let process = sample.processes.iter().find(|process| process.name == name);
    process.with_context(|| format!("no {name} in {:?}", sample.processes))
}

/// CPU time of the guest's agent with all the programs that it has run, in clock ticks.
fn agent_ticks(sample: &GuestSample) -> Result<u64> {
    let agent = find(sample, "qemu-ga")?;
    Ok(agent.cpu_ticks + agent.children_cpu_ticks)
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_changes_a_domain() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![guests::web()] })?;
    let libvirt = connect(&lab, "web").await?;
    let uuid = uuid_of(&libvirt, "web").await?;
    let mut events = libvirt.events();
    if libvirt.read_domain(uuid).await?.sample.agent_connected != Some(true) {
        wait_event(&mut events, |event| event == DomainEvent::Agent { domain: uuid, connected: true })
            .await?;
    }

    let reading = libvirt.read_domain(uuid).await?;
    ensure!(reading.missing.is_empty(), "{:?}", reading.missing);
    let before = reading.sample;
    ensure!(before.name == "web" && before.state == DomainState::Running, "{before:?}");
    ensure!(before.accel == if lab.accel() == Accel::Kvm { "kvm" } else { "qemu" }, "{before:?}");
    ensure!(before.vcpus.len() == 2 && before.agent_connected == Some(true), "{before:?}");
    ensure!(
        before.interfaces.len() == 1 && !before.job_active && before.balloon_refusal.is_none(),
        "{before:?}"
    );
    let host = CpuSet::first(libvirt.host_pcpus().await?);
    ensure!(before.vcpus.iter().all(|vcpu| vcpu.pin.as_ref() == Some(&host)), "{before:?}");
    ensure!(before.emulator_pin.as_ref() == Some(&host), "{before:?}");

    let shares = before.cpu_shares.context("no cpu_shares")?;
    libvirt.set_cpu_shares(uuid, 2048).await?;
    wait_event(&mut events, |event| event == DomainEvent::Tuned { domain: uuid }).await?;
    ensure!(libvirt.cpu_shares(uuid).await? == 2048);
    ensure!(lab.virsh(&["schedinfo", "web"])?.contains(": 2048"), "virsh sees another weight");
    libvirt.set_cpu_shares(uuid, shares).await?;

    let last: CpuSet = host.iter().last().into_iter().collect();
    libvirt.pin_vcpu(uuid, 1, &last).await?;
    libvirt.pin_emulator(uuid, &last).await?;
    let pins = libvirt.vcpu_pins(uuid).await?;
    ensure!(pins[0].pin.as_ref() == Some(&host) && pins[1].pin.as_ref() == Some(&last), "{pins:?}");
    ensure!(libvirt.emulator_pin(uuid).await? == last);
    libvirt.pin_vcpu(uuid, 1, &host).await?;
    libvirt.pin_emulator(uuid, &host).await?;

    let image = lab.state_dir().join("disk.raw");
    fs::File::create(&image)?.set_len(64 << 20)?;
    let image = image.display().to_string();
    lab.virsh(&["attach-disk", "web", &image, "vdb", "--targetbus", "virtio", "--live"])?;
    wait_event(&mut events, |event| event == DomainEvent::DevicesChanged { domain: uuid }).await?;
    let disks = libvirt.read_disks(uuid).await?;
    let [disk] = &disks[..] else { anyhow::bail!("{disks:?}") };
    ensure!(disk.target == "vdb" && disk.source.as_deref() == Some(&*image), "{disk:?}");
    ensure!(disk.capacity_bytes == 64 << 20 && disk.allocation_bytes == 0, "{disk:?}");
    ensure!(disk.counters.is_some(), "{disk:?}");

    let maximum = before.memory_maximum_kib;
    libvirt.set_balloon(uuid, maximum - 64 * 1024).await?;
    let smaller =
        |event| matches!(event, DomainEvent::BalloonChanged { current_kib, .. } if current_kib < maximum);
    wait_event(&mut events, smaller).await?;
    settle(&libvirt, uuid, maximum - 64 * 1024).await?;
    let balloon = libvirt.read_balloon(uuid).await?;
    ensure!(balloon.current_kib == maximum - 64 * 1024, "{balloon:?}");
    ensure!(balloon.usable_kib.is_some() && balloon.available_kib.is_some(), "{balloon:?}");
    ensure!(balloon.last_update_unix_s.is_some() && balloon.rss_kib > Some(100_000), "{balloon:?}");
    libvirt.set_balloon(uuid, maximum).await?;
    settle(&libvirt, uuid, maximum).await?;
    let refused = libvirt.set_balloon(uuid, maximum * 2).await.unwrap_err();
    ensure!(matches!(refused.kind, ErrorKind::Invalid(_)), "{refused}");

    let after = libvirt.read_domain(uuid).await?.sample;
    ensure!(after == before, "{after:?} instead of {before:?}");
    ensure!(
        !lab.virsh(&["dumpxml", "web", "--inactive"])?.contains("cputune"),
        "the stored configuration changed"
    );
    a_balloon_is_where_qemu_says(&lab, &libvirt, uuid, maximum).await?;

    lab.virsh(&["destroy", "web"])?;
    wait_event(&mut events, |event| matches!(event, DomainEvent::Lifecycle { domain, .. } if domain == uuid))
        .await?;
    let gone = libvirt.set_cpu_shares(uuid, 2048).await.unwrap_err();
    ensure!(gone.kind == ErrorKind::DomainGone && gone.domain.as_deref() == Some("web"), "{gone}");
    ensure!(libvirt.domains().await?.is_empty());
    lab.stop()
}

/// Saved within the second for which QEMU holds its event back, so that libvirt remembers another value when it runs again.
async fn a_balloon_is_where_qemu_says(lab: &Lab, libvirt: &Libvirt, uuid: Uuid, maximum: u64) -> Result<()> {
    // The last event has come.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let sent = maximum - 24 * 1024;
    let began = Instant::now();
    libvirt.set_balloon(uuid, sent).await?;
    while libvirt.read_balloon(uuid).await?.current_kib != sent {
        ensure!(began.elapsed() < PATIENCE, "the balloon does not get to {sent} KiB");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("the balloon took {:?}", began.elapsed());
    lab.virsh(&["managedsave", "web"])?;
    lab.virsh(&["start", "web"])?;
    let now = libvirt.balloon_current_kib(uuid).await?;
    println!(
        "{now} KiB of {maximum} after it was saved; libvirt remembers:\n{}",
        lab.virsh(&["dominfo", "web"])?
    );
    ensure!(now == sent, "{now} KiB instead of {sent}");
    libvirt.set_balloon(uuid, maximum).await?;
    settle(libvirt, uuid, maximum).await
}

async fn settle(libvirt: &Libvirt, uuid: Uuid, kib: u64) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let now = libvirt.balloon_current_kib(uuid).await?;
        if now == kib {
            return Ok(());
        }
        ensure!(Instant::now() < give_up, "the balloon stays at {now} KiB instead of {kib}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sees_and_changes_the_inside_of_a_guest() -> Result<()> {
    let lab = Lab::start(&LabOptions { guests: vec![guests::web()] })?;
    lab.wait_agents(PATIENCE)?;
    let libvirt = connect(&lab, "web").await?;
    let uuid = uuid_of(&libvirt, "web").await?;
    let mut agent = Agent::new(Wire(libvirt.clone(), uuid), Limits::default());

    let first = agent.inventory().await?;
    let httpd = find(&first, "httpd")?;
    let listener =
        first.listeners.iter().find(|listener| listener.port == 80).context("nobody listens on 80")?;
    ensure!(listener.owners == [httpd.key.pid], "{listener:?} {httpd:?}");
    ensure!(httpd.command == "/bin/httpd -f -p 80 -h /www" && httpd.uid == Some(0), "{httpd:?}");
    ensure!(httpd.executable.as_deref() == Some("/bin/busybox") && httpd.rss_kib > 0, "{httpd:?}");
    ensure!(first.vcpus_online == Some(2) && first.truncated.is_empty() && !first.systemd, "{first:?}");

    let report = lab.http_load(&HttpLoad { guest: "web".to_owned(), connections: 2, seconds: 3 })?;
    ensure!(report.requests > 0, "{report:?}");
    let second = agent.inventory().await?;
    let served =
        second.sockets.iter().any(|s| s.local_port == 80 && s.peer_address.to_string() == "10.77.0.1");
    ensure!(served, "nothing shows that httpd served: {:?}", second.sockets);
    let ticks = |sample, name| find(sample, name).map(|process| process.cpu_ticks);
    let elapsed = second.uptime_cs - first.uptime_cs;
    let hog = ticks(&second, "hog")? - ticks(&first, "hog")?;
    ensure!(hog > elapsed / 4, "hog used {hog} of {elapsed} ticks");
    ensure!(ticks(&second, "sleeper")? - ticks(&first, "sleeper")? <= 1);

    let hog = find(&second, "hog")?;
    let ga = find(&second, "qemu-ga")?;
    ensure!(ga.threads > 1, "the test needs a process with threads: {ga:?}");
    let change = |process: &ProcessSample, expect, to| NiceChange { key: process.key, expect, to };
    let outcomes = agent.set_nice(&[change(hog, 0, 10), change(ga, 0, -1), change(httpd, 3, 5)]).await?;
    let results: Vec<_> = outcomes.into_iter().map(|outcome| outcome.result).collect();
    ensure!(
        results == [NiceResult::Applied, NiceResult::Applied, NiceResult::Drift { now: 0 }],
        "{results:?}"
    );
    let nices = |pid| {
        let script = format!(
            "for t in /proc/{pid}/task/*/stat; do s=$(cat $t); set -- ${{s##*) }}; echo ${{17}}; done"
        );
        lab.guest_exec("web", &script, PATIENCE)
    };
    ensure!(nices(hog.key.pid)? == "10\n", "{}", nices(hog.key.pid)?);
    ensure!(nices(ga.key.pid)? == "-1\n".repeat(usize::try_from(ga.threads)?), "{}", nices(ga.key.pid)?);
    let third = agent.inventory().await?;
    ensure!(find(&third, "hog")?.nice == 10 && find(&third, "qemu-ga")?.nice == -1);
    let outcomes = agent.set_nice(&[change(hog, 10, 0), change(ga, -1, 0)]).await?;
    ensure!(outcomes.iter().all(|outcome| outcome.result == NiceResult::Applied), "{outcomes:?}");

    let before = agent_ticks(&agent.inventory().await?)?;
    let polls = 10;
    let begin = Instant::now();
    let mut last = GuestSample::default();
    for _ in 0..polls {
        last = agent.inventory().await?;
    }
    let wall = begin.elapsed() / polls;
    let cost = (agent_ticks(&last)? - before) * 10 / u64::from(polls);
    println!("one inventory of {} processes: {wall:?} wall, {cost} ms of vcpu time", last.processes.len());
    ensure!(cost < 1000, "an inventory costs the guest {cost} ms");
    let before = agent_ticks(&agent.inventory().await?)?;
    let system = agent.system().await?;
    let rare = (agent_ticks(&agent.inventory().await?)? - before) * 10;
    println!("what changes rarely, with one more inventory: {rare} ms of vcpu time");
    ensure!(system.os.as_deref() == Some("kvmpilot lab guest") && system.kernel.is_some(), "{system:?}");
    ensure!(system.users.get(&0).is_some_and(|name| name == "root"), "{:?}", system.users);
    let eth0 = system.interfaces.iter().find(|interface| interface.name == "eth0").context("no eth0")?;
    ensure!(eth0.addresses.iter().any(|address| *address == "10.77.0.11/24"), "{eth0:?}");

    // An agent that hangs: its own calls end in time, other calls do not notice.
    let ga = find(&last, "qemu-ga")?.key.pid;
    lab.guest_start("web", &format!("sleep 1; kill -STOP {ga}"))?;
    let begin = Instant::now();
    let hung = loop {
        match agent.inventory().await {
            Ok(_) if begin.elapsed() < PATIENCE => {}
            Ok(_) => bail!("the agent does not stop"),
            Err(error) => break error,
        }
        ensure!(libvirt.read_domain(uuid).await.is_ok());
    };
    ensure!(matches!(hung, AgentError::TimedOut { .. }), "{hung}");
    let begin = Instant::now();
    ensure!(matches!(agent.inventory().await, Err(AgentError::TimedOut { .. })));
    ensure!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    lab.stop()
}

#[tokio::test(flavor = "multi_thread")]
async fn outlives_a_hung_qemu_and_a_restart_of_libvirtd() -> Result<()> {
    let mute = |name, octet| GuestSpec::new(name, octet).without_agent();
    let with_agent = GuestSpec::new("late", 23).runs(Work::Sleeper("sleeper".to_owned()));
    let lab = Lab::start(&LabOptions { guests: vec![mute("hung", 21), mute("well", 22), with_agent] })?;
    let libvirt = connect(&lab, "well").await?;
    let (hung, well) = (uuid_of(&libvirt, "hung").await?, uuid_of(&libvirt, "well").await?);
    let ping = r#"{"execute":"guest-ping"}"#;
    let absent = libvirt.agent_command(well, ping, Duration::from_secs(1)).await.unwrap_err();
    ensure!(absent.kind == ErrorKind::AgentAbsent, "{absent}");

    let qemu = Pid::from_raw(i32::try_from(lab.qemu_pid("hung")?)?);
    kill(qemu, Signal::SIGSTOP)?;
    let begin = Instant::now();
    let stuck = libvirt.read_balloon(hung).await.unwrap_err();
    ensure!(matches!(stuck.kind, ErrorKind::Deadline { started: true, .. }), "{stuck}");
    ensure!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    let again = libvirt.read_domain(hung).await.unwrap_err();
    ensure!(matches!(again.kind, ErrorKind::Quarantined(_)), "{again}");
    libvirt.read_balloon(well).await?;
    libvirt.read_domain(well).await?;
    ensure!(libvirt.domains().await?.len() == 3);
    kill(qemu, Signal::SIGCONT)?;
    let begin = Instant::now();
    while let Err(error) = libvirt.read_balloon(hung).await {
        ensure!(begin.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let late = uuid_of(&libvirt, "late").await?;
    wait_for("the agent", PATIENCE, || lab.wait_agent("late", Duration::ZERO))?;
    let reply = libvirt.agent_command(late, ping, Duration::from_secs(5)).await?;
    ensure!(reply.trim() == r#"{"return":{}}"#, "{reply}");
    let unknown =
        libvirt.agent_command(late, r#"{"execute":"guest-nope"}"#, Duration::from_secs(5)).await.unwrap_err();
    ensure!(
        matches!(&unknown.kind, ErrorKind::AgentRefused(said) if said.contains("guest-nope")),
        "{unknown}"
    );
    let mut events = libvirt.events();
    lab.guest_start("late", "sleep 1; killall qemu-ga")?;
    wait_event(&mut events, |event| event == DomainEvent::Agent { domain: late, connected: false }).await?;
    let gone = libvirt.agent_command(late, ping, Duration::from_secs(1)).await.unwrap_err();
    ensure!(gone.kind == ErrorKind::AgentDisconnected, "{gone}");

    let mut status = libvirt.status_changes();
    lab.end_libvirtd(Signal::SIGKILL)?;
    let down = tokio::time::timeout(PATIENCE, status.wait_for(|status| !status.is_up())).await??.clone();
    ensure!(down.to_string().contains("not connected"), "{down}");
    let error = libvirt.read_domain(well).await.unwrap_err();
    ensure!(matches!(error.kind, ErrorKind::NotConnected(_)), "{error}");
    // It ends with the lab.
    lab.start_libvirtd()?;
    wait_up(&libvirt).await?;
    wait_event(&mut events, |event| event == DomainEvent::Resync).await?;
    ensure!(libvirt.read_domain(well).await?.sample.state == DomainState::Running);
    // Events of the new connection arrive.
    lab.virsh(&["suspend", "well"])?;
    wait_event(&mut events, |event| matches!(event, DomainEvent::Lifecycle { domain, .. } if domain == well))
        .await?;
    ensure!(libvirt.read_domain(well).await?.sample.state == DomainState::Paused);
    lab.stop()
}
