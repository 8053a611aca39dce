//! The gateway against libvirt's own test driver, which lives in this process and needs no daemon.

use std::time::{Duration, Instant};

use kvmpilot_core::CpuSet;
use kvmpilot_core::sample::{DomainState, PolicySample};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use super::{DomainEvent, ErrorKind, Events, Libvirt, Lifecycle, Options, Scope, Status};

/// All connections to `test:///default` in a process see the same domain, so tests that use it take turns.
static TURN: Mutex<()> = Mutex::const_new(());

const PATIENCE: Duration = Duration::from_secs(10);

async fn connected(options: Options) -> (Libvirt, MutexGuard<'static, ()>) {
    let turn = TURN.lock().await;
    let libvirt = Libvirt::start("test:///default", options);
    let mut status = libvirt.status_changes();
    tokio::time::timeout(PATIENCE, status.wait_for(Status::is_up)).await.unwrap().unwrap();
    (libvirt, turn)
}

/// The next event of a domain. That of the connection itself comes right after the status, before or after us.
async fn next_of_domain(events: &mut Events) -> DomainEvent {
    loop {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.unwrap().unwrap();
        if event != DomainEvent::Resync {
            return event;
        }
    }
}

async fn only_domain(libvirt: &Libvirt) -> Uuid {
    let domains = libvirt.domains().await.unwrap();
    assert_eq!(domains.len(), 1, "{domains:?}");
    assert_eq!(domains[0].name, "test");
    domains[0].uuid
}

#[tokio::test]
async fn reads_a_domain() {
    let (libvirt, _turn) = connected(Options::default()).await;
    let Status::Up { uri, libvirt_version, .. } = libvirt.status() else { panic!("{}", libvirt.status()) };
    assert_eq!(uri, "test:///default");
    assert_eq!(libvirt_version.split('.').count(), 3, "{libvirt_version}");

    let uuid = only_domain(&libvirt).await;
    let reading = libvirt.read_domain(uuid).await.unwrap();
    assert_eq!(reading.sample.state, DomainState::Running);
    assert_eq!(reading.sample.accel, "test");
    assert_eq!(reading.sample.vcpus.len(), 2);
    assert!(reading.sample.memory_maximum_kib >= 1024 * 1024, "{}", reading.sample.memory_maximum_kib);
    assert_eq!(reading.sample.balloon_refusal, None);
    assert_eq!(reading.sample.agent_connected, None);
    assert_eq!(reading.sample.interfaces[0].device, "testnet0");
    // What the test driver cannot tell is named, and the rest is there all the same.
    let missing: Vec<_> = reading.missing.iter().map(|error| error.call).collect();
    assert_eq!(missing, ["cpu_shares", "job"], "{:?}", reading.missing);
    assert_eq!(reading.missing[0].domain.as_deref(), Some("test"));
    assert!(libvirt.balloon_current_kib(uuid).await.unwrap() > 0);
}

#[tokio::test]
async fn the_list_tells_states_and_without_them_it_is_the_same() {
    let (libvirt, _turn) = connected(Options::default()).await;
    let uuid = only_domain(&libvirt).await;
    let listed = libvirt.domains().await.unwrap().remove(0);
    assert_eq!((listed.uuid, listed.id, listed.state), (uuid, Some(1), Some(DomainState::Running)));
    assert_eq!(libvirt.read_domain(uuid).await.unwrap().run, listed.id);
    let plain = libvirt.read("plain list", None, super::list::plain).await.unwrap().remove(0);
    assert_eq!(plain, super::ActiveDomain { state: None, ..listed });

    let suspend = move |session: &super::Session| Ok(session.domain(uuid)?.suspend()?);
    libvirt.read("suspend", Some(uuid), suspend).await.unwrap();
    assert_eq!(libvirt.domains().await.unwrap()[0].state, Some(DomainState::Paused));
    let resume = move |session: &super::Session| Ok(session.domain(uuid)?.resume()?);
    libvirt.read("resume", Some(uuid), resume).await.unwrap();
}

#[tokio::test]
async fn a_handle_serves_a_domain_in_all_its_lives_and_says_when_it_is_gone() {
    let (libvirt, _turn) = connected(Options::default()).await;
    let uuid = Uuid::from_u128(0x77);
    let lives = move |session: &super::Session| {
        let begin = |name: &str| -> Result<(), ErrorKind> {
            let xml = format!(
                "<domain type='test'><name>{name}</name><uuid>{uuid}</uuid><memory>8192</memory><os><type>hvm</type></os></domain>"
            );
            session.connection.define_domain_xml(&xml)?.create()?;
            Ok(())
        };
        let end = || -> Result<(), ErrorKind> {
            let domain = session.connection.lookup_domain_by_uuid(uuid)?;
            domain.destroy()?;
            Ok(domain.undefine()?)
        };
        begin("first")?;
        let first = session.domain(uuid)?;
        end()?;
        let gone = session.domain(uuid)?.info().map_err(ErrorKind::from).err();
        begin("second")?;
        let again = session.domain(uuid)?;
        let (serves, kept) = (again.info()?.max_mem, again.name()? == first.name()?);
        let (name, id) = (session.look_up(uuid)?.name()?, session.look_up(uuid)?.id());
        end()?;
        Ok((gone, serves, kept, name, id != first.id()))
    };
    let seen = libvirt.read("two lives", Some(uuid), lives).await.unwrap();
    assert_eq!(seen, (Some(ErrorKind::DomainGone), 8192, true, "second".to_owned(), true));
    assert!(!libvirt.is_active(uuid).await.unwrap());
}

#[tokio::test]
async fn a_domain_s_own_word_is_written_read_and_announced() {
    let (libvirt, _turn) = connected(Options::default()).await;
    let uuid = only_domain(&libvirt).await;
    assert_eq!(libvirt.read_domain(uuid).await.unwrap().sample.policy, None);
    let mut events = libvirt.events();
    let hostile = "<&\">]]>'";
    let settings: Vec<_> = [("class", "latency"), ("protected", hostile)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    libvirt.set_own_word(uuid, Scope::Live, &settings).await.unwrap();
    assert_eq!(next_of_domain(&mut events).await, DomainEvent::MetadataChanged { domain: uuid });
    let expected = PolicySample { settings, wrong: Vec::new() };
    assert_eq!(libvirt.read_domain(uuid).await.unwrap().sample.policy.as_ref(), Some(&expected));
    for name in ["test".to_owned(), uuid.to_string()] {
        let word = libvirt.own_word(&name).await.unwrap();
        assert_eq!((word.uuid, word.name.as_str()), (uuid, "test"));
        assert_eq!(word.said, [(Scope::Live, Some(expected.clone())), (Scope::Stored, None)]);
    }
    libvirt.set_own_word(uuid, Scope::Live, &[]).await.unwrap();
    assert_eq!(libvirt.read_domain(uuid).await.unwrap().sample.policy, None);

    for name in ["nobody", "", "te\0st", &Uuid::from_u128(1).to_string()] {
        assert_eq!(libvirt.own_word(name).await.unwrap_err().kind, ErrorKind::DomainGone, "{name:?}");
    }
    for (name, value) in [("a b", "x"), ("a='1' b", "x"), ("", "x"), ("class", "x\0"), ("class", "a\nb")] {
        let bad = [(name.to_owned(), value.to_owned())];
        let error = libvirt.set_own_word(uuid, Scope::Live, &bad).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Invalid(_)), "{error}");
    }
}

#[tokio::test]
async fn pins_and_reads_back() {
    let (libvirt, _turn) = connected(Options::default()).await;
    let uuid = only_domain(&libvirt).await;
    let pcpus = libvirt.host_pcpus().await.unwrap();
    assert!(pcpus >= 2, "{pcpus}");
    let before = libvirt.vcpu_pins(uuid).await.unwrap();
    let wanted: CpuSet = "1".parse().unwrap();
    libvirt.pin_vcpu(uuid, 1, &wanted).await.unwrap();
    let pins = libvirt.vcpu_pins(uuid).await.unwrap();
    assert_eq!(pins[1].pin.as_ref(), Some(&wanted));
    assert_eq!(pins[0], before[0]);
    libvirt.pin_vcpu(uuid, 1, before[1].pin.as_ref().unwrap()).await.unwrap();
    assert_eq!(libvirt.vcpu_pins(uuid).await.unwrap(), before);

    for bad in [CpuSet::default(), CpuSet::first(pcpus + 1)] {
        let error = libvirt.pin_vcpu(uuid, 1, &bad).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Invalid(_)), "{error}");
        assert!(error.to_string().starts_with("pinning a vcpu of domain test: refused"), "{error}");
    }
}

#[tokio::test]
async fn sees_what_happens_to_a_domain() {
    let (libvirt, _turn) = connected(Options::default()).await;
    let uuid = only_domain(&libvirt).await;
    let mut events = libvirt.events();
    let suspend = move |session: &super::Session| Ok(session.domain(uuid)?.suspend()?);
    let resume = move |session: &super::Session| Ok(session.domain(uuid)?.resume()?);

    libvirt.read("suspend", Some(uuid), suspend).await.unwrap();
    let event = next_of_domain(&mut events).await;
    assert_eq!(event, DomainEvent::Lifecycle { domain: uuid, change: Lifecycle::Suspended });
    assert_eq!(libvirt.read_domain(uuid).await.unwrap().sample.state, DomainState::Paused);

    libvirt.read("resume", Some(uuid), resume).await.unwrap();
    let event = next_of_domain(&mut events).await;
    assert_eq!(event, DomainEvent::Lifecycle { domain: uuid, change: Lifecycle::Resumed });
    assert_eq!(libvirt.read_domain(uuid).await.unwrap().sample.state, DomainState::Running);
}

#[tokio::test]
async fn a_slow_reader_is_told_to_read_again() {
    let (libvirt, _turn) = connected(Options { event_backlog: 1, ..Options::default() }).await;
    let uuid = only_domain(&libvirt).await;
    let mut slow = libvirt.events();
    let mut quick = libvirt.events();
    for _ in 0..2 {
        libvirt
            .read("suspend", Some(uuid), move |session| Ok(session.domain(uuid)?.suspend()?))
            .await
            .unwrap();
        next_of_domain(&mut quick).await;
        libvirt.read("resume", Some(uuid), move |session| Ok(session.domain(uuid)?.resume()?)).await.unwrap();
        next_of_domain(&mut quick).await;
    }
    assert_eq!(slow.next().await, Some(DomainEvent::Resync));
    assert!(slow.lost() >= 3, "{}", slow.lost());
    let last = DomainEvent::Lifecycle { domain: uuid, change: Lifecycle::Resumed };
    assert_eq!(slow.next().await, Some(last));
}

#[tokio::test]
async fn a_domain_that_is_not_there_is_gone() {
    let (libvirt, _turn) = connected(Options::default()).await;
    let error = libvirt.read_domain(Uuid::from_u128(7)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::DomainGone);
    assert!(error.to_string().contains(&Uuid::from_u128(7).to_string()), "{error}");
}

#[tokio::test]
async fn a_hung_call_costs_its_domain_only() {
    let (libvirt, _turn) =
        connected(Options { workers: 2, read_deadline: Duration::from_secs(1), ..Options::default() }).await;
    let uuid = only_domain(&libvirt).await;
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let error = libvirt
        .read("a call that hangs", Some(uuid), move |_| {
            let _ = hold.recv();
            Ok(())
        })
        .await
        .unwrap_err();
    let deadline = ErrorKind::Deadline { after: Duration::from_secs(1), started: true };
    assert_eq!(error.kind, deadline);
    assert_eq!(error.domain.as_deref(), Some("test"));

    let error = libvirt.read_domain(uuid).await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Quarantined(_)), "{error}");
    assert_eq!(libvirt.read_domain(Uuid::from_u128(7)).await.unwrap_err().kind, ErrorKind::DomainGone);
    only_domain(&libvirt).await;

    release.send(()).unwrap();
    let give_up = Instant::now() + PATIENCE;
    while let Err(error) = libvirt.read_domain(uuid).await {
        assert!(matches!(error.kind, ErrorKind::Quarantined(_)), "{error}");
        assert!(Instant::now() < give_up, "the quarantine never ended");
    }
}

#[tokio::test]
async fn without_libvirtd_it_says_what_to_do_and_tries_again() {
    let options = Options {
        retry_first: Duration::from_millis(20),
        retry_last: Duration::from_millis(80),
        ..Options::default()
    };
    let libvirt = Libvirt::start("qemu+unix:///system?socket=/nonexistent/libvirt-sock", options);
    let mut status = libvirt.status_changes();
    let mut tries = Vec::new();
    while tries.len() < 4 {
        let down = |status: &Status| matches!(status, Status::Down { next_try: Some(_), .. });
        let seen = tokio::time::timeout(PATIENCE, status.wait_for(down)).await.unwrap().unwrap().clone();
        let Status::Down { reason, advice, next_try: Some(next_try) } = seen else { unreachable!() };
        assert!(reason.contains("/nonexistent/libvirt-sock"), "{reason}");
        assert!(advice.contains("systemctl start libvirtd"), "{advice}");
        if tries.last() != Some(&next_try) {
            tries.push(next_try);
        }
        status.changed().await.unwrap();
    }
    let waits: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits[0] >= Duration::from_millis(40) && waits[2] >= Duration::from_millis(80), "{waits:?}");

    let error = libvirt.domains().await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::NotConnected(_)), "{error}");
}
