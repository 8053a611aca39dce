//! Flows on real guests: every byte against the taps' own statistics and against what the client transferred, joined with
//! the guest's processes; what is left when devices, domains and the daemon go.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use kvmpilot::probes::flows::remains;
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::tap::link_counters;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Work, output_of, wait_for};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str =
    "[modes]\ndefault = \"observe\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"20s\"\n";
/// Ethernet, IPv4, and TCP with its time stamps.
const HEADERS: u64 = 14 + 20 + 32;
/// More than a reading takes.
const READING: Duration = Duration::from_millis(500);
/// What a SYN, and the answer to it, has beyond that.
const SYN_OPTIONS: u64 = 8;

/// Where the guest's smallest server listens.
const PORT: u16 = 7000;
/// How long the daemon gets to show what went on a moment ago.
const SHOWN: Duration = Duration::from_secs(20);
/// Short connections that are tried, in so much time, by so many clients at once; and those that any guest can take.
const MOST: u64 = 10_000;
/// Those that are begun in a second at most: a table of this size is for a sixth of it.
const PER_SECOND: u64 = 1_000;
const RUSH: Duration = Duration::from_secs(60);
const CLIENTS: usize = 8;
const LEAST: u64 = 2_000;
/// Flows that the daemon remembers.
const TABLE: usize = 1024;
/// `BPF_MAP_TYPE_LRU_HASH`.
const LRU_HASH: u32 = 9;
/// A table may be fuller than before, and needs 1 MiB in all its forms; 20 000 flows that stay would need 3.
const GROWTH_KIB: u64 = 2048;

/// Both directions, from the guest's point of view.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Bytes {
    sent: u64,
    received: u64,
    sent_packets: u64,
    received_packets: u64,
}

impl Bytes {
    fn of(value: &Value) -> Result<Self> {
        let number = |name: &str| value[name].as_u64().with_context(|| format!("no {name} in {value}"));
        Ok(Self {
            sent: number("sent_bytes")?,
            received: number("received_bytes")?,
            sent_packets: number("sent_packets")?,
            received_packets: number("received_packets")?,
        })
    }

    fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent + other.sent,
            received: self.received + other.received,
            sent_packets: self.sent_packets + other.sent_packets,
            received_packets: self.received_packets + other.received_packets,
        }
    }

    fn since(self, other: Self) -> Self {
        Self {
            sent: self.sent - other.sent,
            received: self.received - other.received,
            sent_packets: self.sent_packets - other.sent_packets,
            received_packets: self.received_packets - other.received_packets,
        }
    }
}

fn taps_of(lab: &Lab, guest: &str) -> Result<Vec<String>> {
    let list = lab.virsh(&["domiflist", guest])?;
    Ok(list.split_whitespace().filter(|word| word.starts_with("vnet")).map(str::to_owned).collect())
}

/// What the device itself has counted.
fn link(lab: &Lab, tap: &str) -> Result<Bytes> {
    let text = output_of(lab.command("cat").arg("/proc/self/net/dev"))?;
    let counters = link_counters(&text, tap)?;
    Ok(Bytes {
        sent: counters.sent_bytes,
        received: counters.received_bytes,
        sent_packets: counters.sent_packets,
        received_packets: counters.received_packets,
    })
}

/// What device and daemon say of a moment of which nobody can say that they were read at different times: nothing moved
/// around the daemon's reading.
fn still(lab: &Lab, daemon: &Daemon<'_>, tap: &str) -> Result<(Bytes, Value)> {
    // Begin and end of each look at the device, and what it showed.
    let mut looks = Vec::new();
    // A view is as old as the daemon's last tick: only one that has just become another tells when it was read.
    let (mut last, mut found) = (None, None);
    wait_for("the tap to be still", PATIENCE, || {
        let begin = Instant::now();
        looks.push((begin, link(lab, tap)?, Instant::now()));
        let asked = Instant::now();
        let flows = daemon.json(&["flows", "web"])?;
        let told = Instant::now();
        let number = |name: &str| flows[name].as_f64().context("not watched yet");
        let (age, reading) = (Duration::from_secs_f64(number("age_s")?), number("watched_s")?.to_bits());
        let earlier = last.replace((reading, asked));
        if let Some((_, earliest)) = earlier.filter(|(other, _)| *other != reading) {
            found = Some((earliest, told, age, flows));
        }
        let (earliest, latest, age, flows) = found.as_ref().context("no reading yet")?;
        let before = looks.iter().rev().find(|(_, _, end)| *end + *age + READING <= *earliest);
        let after = looks.iter().find(|(begin, _, _)| *begin + *age >= *latest + READING);
        let ((_, before, _), (_, after, _)) =
            before.zip(after).context("no reading yet between two looks")?;
        ensure!(before == after, "the tap moves");
        Ok((*before, flows.clone()))
    })
}

/// What flows of these owners moved, those that ended included.
fn of_owner(flows: &Value, owner: impl Fn(&Value) -> bool) -> Result<Bytes> {
    let lists = ["flows", "ended"].into_iter().flat_map(|list| flows[list].as_array().into_iter().flatten());
    lists
        .filter(|flow| owner(&flow["owner"]))
        .try_fold(Bytes::default(), |sum, flow| Ok(sum.plus(Bytes::of(&flow["total"])?)))
}

fn is_httpd(owner: &Value) -> bool {
    owner["process"] == "httpd" && owner["pids"].as_array().is_some_and(|pids| pids.len() == 1)
}

/// Runs `work` in the lab's network namespace.
fn inside<T: Send>(lab: &Lab, guest: &str, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(format!("/proc/{}/ns/net", lab.qemu_pid(guest)?))?;
    let entered = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    thread::scope(|scope| scope.spawn(entered).join()).map_err(|_| anyhow!("it panicked"))?
}

/// Asks for a page as HTTP/1.0 would; returns the bytes asked with and the bytes of the answer, headers included.
fn get(address: &str, path: &str) -> Result<(u64, u64)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: guest\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
    Ok((request.len() as u64, answer.len() as u64))
}

fn close_to(what: &str, found: u64, truth: u64, tolerance: f64) -> Result<()> {
    #[expect(clippy::cast_precision_loss, reason = "megabytes")]
    let off = (found as f64 - truth as f64) / truth as f64;
    println!("{what}: {found} for {truth}, off by {:.3} %", off * 100.0);
    ensure!(off.abs() <= tolerance, "{what}: {found} instead of {truth}, off by {:.3} %", off * 100.0);
    Ok(())
}

#[test]
fn bytes_are_those_of_the_tap_and_belong_to_the_server() -> Result<()> {
    let guest = GuestSpec::new("web", 11).vcpus(2).runs(Work::Http).runs(Work::Answer);
    let lab = Lab::start(&LabOptions { guests: vec![guest] })?;
    lab.wait_agents(BOOT)?;
    let (_, loaded_before) = inside(&lab, "web", || Ok(remains("lo")?))?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    let result = measure(&lab, &daemon)
        .and_then(|()| come_and_go(&lab, &daemon))
        .and_then(|()| user_mode(&lab, &daemon))
        .and_then(|()| cost(&lab, &daemon));
    result.with_context(|| daemon.log())?;

    // The daemon goes: so does everything that it attached, whatever ends it.
    let tap = taps_of(&lab, "web")?.pop().context("no tap")?;
    let attached = || inside(&lab, "web", || Ok(remains(&tap)?));
    ensure!(attached()?.0 == ["kvmpilot_sent", "kvmpilot_rcvd"], "{:?}", attached()?);
    daemon.kill()?;
    ensure!(attached()?.0.is_empty(), "left by a killed daemon: {:?}", attached()?);
    let daemon = lab.start_daemon("e", CONFIG)?;
    wait_for("the tap to be watched again", PATIENCE, || {
        ensure!(attached()?.0.len() == 2);
        Ok(())
    })?;

    // The domain goes, and the daemon stays.
    lab.virsh(&["destroy", "web"])?;
    wait_for("the probes of the domain to go", PATIENCE, || {
        let (_, loaded) = remains("lo")?;
        ensure!(loaded == loaded_before, "{loaded} programs, {loaded_before} before");
        Ok(())
    })?;
    ensure!(daemon.stop()?.success());
    lab.stop()
}

fn measure(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let tap = taps_of(lab, "web")?.pop().context("no tap")?;
    lab.guest_exec("web", "dd if=/dev/zero of=/www/big bs=1024 count=256 2>/dev/null", PATIENCE)?;
    let (link_before, before) = still(lab, daemon, &tap)?;

    // Large answers, one after the other: the payload is what the client itself has counted.
    let asked = inside(lab, "web", || {
        (0..40).try_fold((0, 0), |(up, down), _| {
            let (more_up, more_down) = get("10.77.0.11:80", "/big")?;
            anyhow::Ok((up + more_up, down + more_down))
        })
    })?;
    let (link_after, after) = still(lab, daemon, &tap)?;
    let total = Bytes::of(&after["total"])?.since(Bytes::of(&before["total"])?);
    ensure!(total == link_after.since(link_before), "{total:?} {:?}", link_after.since(link_before));
    let served = of_owner(&after, is_httpd)?.since(of_owner(&before, is_httpd)?);
    let packets = served.sent_packets + served.received_packets;
    let payload = served.sent + served.received - HEADERS * packets - 2 * SYN_OPTIONS * 40;
    close_to("payload of the server", payload, asked.0 + asked.1, 0.01)?;

    short_connections(lab, daemon, &tap, (link_after, after))?;
    println!("{}\n{}", daemon.text(&["flows", "web"])?, daemon.text(&["processes", "web"])?);
    Ok(())
}

/// Thousands of them: they end, their bytes stay, and what the daemon holds does not grow.
fn short_connections(lab: &Lab, daemon: &Daemon<'_>, tap: &str, begin: (Bytes, Value)) -> Result<()> {
    let (link_before, before) = begin;
    let tables = tables_of(daemon)?;
    ensure!(tables.iter().any(|table| table.kind == LRU_HASH), "{tables:?}");
    let mut resident = vec![resident_kib(daemon)?];
    // What the first rush has needed serves the others, too.
    let mut made = 0;
    for first_port in [20_000, 30_000, 40_000] {
        made += rush(lab, daemon, first_port)?;
        wait_for("what has ended to leave the table", PATIENCE, || {
            let flows = daemon.json(&["flows", "web"])?;
            let left = flows["flows"].as_array().into_iter().flatten();
            let left = left.filter(|flow| ends_in(&flow["guest"], PORT)).count();
            ensure!(left == 0, "{left} flows are left");
            Ok(())
        })?;
        resident.push(resident_kib(daemon)?);
    }
    ensure!(tables_of(daemon)? == tables, "{:?} instead of {tables:?}", tables_of(daemon)?);
    println!("resident before the first rush and after each: {resident:?} KiB");
    ensure!(resident[3].saturating_sub(resident[1]) <= GROWTH_KIB, "the daemon grows: {resident:?} KiB");
    let (link_after, after) = still(lab, daemon, tap)?;

    // The total is the device's, and all of it is in flows, in ended ones, or told as unseen.
    let total = Bytes::of(&after["total"])?.since(Bytes::of(&before["total"])?);
    ensure!(total == link_after.since(link_before), "{total:?} {:?}", link_after.since(link_before));
    let count = |flows: &Value, name: &str| flows[name].as_u64().with_context(|| format!("no {name}"));
    let grown = |name: &str| anyhow::Ok(count(&after, name)? - count(&before, name)?);
    let (flows_made, evicted) = (grown("flows_made")?, grown("flows_evicted")?);
    let unseen = Bytes::of(&after["unseen"])?;
    println!("{flows_made} flows made, {evicted} evicted, unseen {unseen:?}");
    ensure!(flows_made >= made, "{flows_made} flows of {made} connections");
    // A thousand a second is six times what a table of this size is for, and still most are read in time.
    ensure!(evicted <= made / 4, "{evicted} of {flows_made} flows were evicted");
    ensure!(of_owner(&after, |_| true)?.plus(unseen) == Bytes::of(&after["total"])?, "lost: {after:#}");
    // No flow is lost either: what is neither there nor ended was evicted.
    let present = after["flows"].as_array().map_or(0, Vec::len) as u64;
    let ended: u64 =
        after["ended"].as_array().into_iter().flatten().filter_map(|ended| ended["flows"].as_u64()).sum();
    let all = count(&after, "flows_made")?;
    ensure!(present + ended <= all, "{present} present and {ended} ended of {all}");
    ensure!(
        present + ended + count(&after, "flows_evicted")? >= all,
        "{present}, {ended} of {all}: {after:#}"
    );

    // Everything of the server's port is the server's, and that is nearly all that moved.
    let of_port = |flow: &&Value| flow["port"] == PORT || ends_in(&flow["guest"], PORT);
    let lists = ["flows", "ended"].into_iter().flat_map(|list| after[list].as_array().into_iter().flatten());
    let strange: Vec<&Value> = lists.filter(of_port).filter(|flow| !is_answer(&flow["owner"])).collect();
    ensure!(strange.is_empty(), "not the server's: {strange:#?}");
    let served = of_owner(&after, is_answer)?.since(of_owner(&before, is_answer)?).plus(unseen);
    let (found, truth) = (served.sent + served.received, total.sent + total.received);
    close_to("all that moved is the server's", found, truth, 0.01)
}

/// The programs' own cost is counted and, once a minute, timed, if there are packets at that time.
fn cost(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    wait_for("the programs to be timed", Duration::from_secs(75), || {
        inside(lab, "web", || get("10.77.0.11:80", "/big"))?;
        let status = daemon.json(&["status"])?;
        let programs = status["own_cost"]["programs"].as_array().context("no programs")?;
        for name in ["kvmpilot_sent", "kvmpilot_rcvd"] {
            let program = programs.iter().find(|program| program["name"] == name);
            let program = program.with_context(|| format!("no {name} in {programs:?}"))?;
            let ns = program["ns_per_run"].as_f64().with_context(|| format!("not yet: {program}"))?;
            ensure!(program["tier"] == 3 && (10.0..50_000.0).contains(&ns), "{program}");
            println!("{name}: {ns} ns a run");
        }
        Ok(())
    })
}

/// Up to [`MOST`] connections; returns how many it were.
fn rush(lab: &Lab, daemon: &Daemon<'_>, first_port: u16) -> Result<u64> {
    let (mut largest, mut busy) = (0, None);
    let begin = Instant::now();
    let made = thread::scope(|scope| {
        let client = scope.spawn(|| inside(lab, "web", || ask_often(begin + RUSH, first_port)));
        let mut finished = None;
        loop {
            let flows = daemon.json(&["flows", "web"])?;
            largest = largest.max(flows["flows"].as_array().map_or(0, Vec::len));
            let processes = daemon.json(&["processes", "web"])?;
            if serves_now(&processes).is_some_and(|rate| rate > 1000.0) {
                busy = Some(processes.to_string());
            }
            if client.is_finished() {
                // A rate is shown when its window is over, and a quick rush is over before that.
                let finished = *finished.get_or_insert_with(Instant::now);
                if busy.is_some() || finished.elapsed() > SHOWN {
                    break;
                }
            }
            thread::sleep(Duration::from_millis(500));
        }
        client.join().map_err(|_| anyhow!("the client panicked"))?
    })?;
    let took = begin.elapsed().as_secs_f64();
    println!("{made} of {MOST} short connections in {took:.0} s, {largest} flows at most");
    ensure!(made >= LEAST, "the guest took {made} connections in {took:.0} s");
    ensure!(largest <= TABLE, "{largest} flows in a table of {TABLE}");
    let processes = busy.context("the server's rate was never shown")?;
    let words = ["serves 10.77.0.1 on port 7000", "served port 7000"];
    ensure!(words.iter().any(|words| processes.contains(words)), "{processes}");
    Ok(made)
}

/// Asks the guest's smallest server again and again until `end` or [`MOST`]; returns how often it was answered. Any
/// failure ends it. Each connection has a port of its own, from `first_port` on: one that comes again while the table still
/// holds it would go on with that flow.
fn ask_often(end: Instant, first_port: u16) -> Result<u64> {
    let (begin, begun) = (Instant::now(), AtomicU64::new(0));
    let ask = || {
        let mut answered = 0;
        while Instant::now() < end {
            let number = begun.fetch_add(1, Ordering::Relaxed);
            if number >= MOST {
                break;
            }
            // As quick as is said above, however quick the machine is.
            let turn = begin + Duration::from_millis(number * 1000 / PER_SECOND);
            thread::sleep(turn.saturating_duration_since(Instant::now()));
            let mut stream = connect_from(first_port + u16::try_from(number)?)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            stream.write_all(b"a short question\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            ensure!(answer == "a short answer\n", "the answer is {answer:?}");
            answered += 1;
        }
        Ok(answered)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().map(|client| client.join().map_err(|_| anyhow!("a client panicked"))?).sum()
    })
}

/// Connects to the guest's smallest server from this port.
fn connect_from(port: u16) -> Result<TcpStream> {
    let client = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&client, ReuseAddr, &true)?;
    bind(client.as_raw_fd(), &SockaddrIn::new(10, 77, 0, 1, port))?;
    connect(client.as_raw_fd(), &SockaddrIn::new(10, 77, 0, 11, PORT))?;
    Ok(client.into())
}

fn is_answer(owner: &Value) -> bool {
    owner["process"] == "answer" && owner["pids"].as_array().is_some_and(|pids| pids.len() == 1)
}

fn ends_in(address: &Value, port: u16) -> bool {
    address.as_str().is_some_and(|address| address.ends_with(&format!(":{port}")))
}

/// Bytes a second that the server sends, as `kvmpilot processes` shows it.
fn serves_now(processes: &Value) -> Option<f64> {
    let all = processes["applications"].as_array().into_iter().flatten();
    let mut all = all.flat_map(|application| application["processes"].as_array().into_iter().flatten());
    all.find(|process| process["name"] == "answer")?["traffic"]["sent_bytes_per_s"].as_f64()
}

/// A map of the kernel that the daemon holds.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Table {
    kind: u32,
    max_entries: u32,
}

fn tables_of(daemon: &Daemon<'_>) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", daemon.process_id()))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
        let number = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        if let (Some(kind), Some(max_entries)) = (number("map_type:"), number("max_entries:")) {
            tables.push(Table { kind, max_entries });
        }
    }
    tables.sort();
    Ok(tables)
}

fn resident_kib(daemon: &Daemon<'_>) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process_id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim_end_matches("kB").trim().parse()?)
}

/// A device that is plugged in is watched within seconds, and forgotten when it is unplugged.
fn come_and_go(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    let mac = "52:54:00:77:01:11";
    let plug = ["attach-interface", "web", "bridge", "br0", "--model", "virtio", "--mac", mac, "--live"];
    lab.virsh(&plug)?;
    let taps = taps_of(lab, "web")?;
    let [_, second] = &taps[..] else { return Err(anyhow!("{taps:?}")) };
    let attached = || inside(lab, "web", || Ok(remains(second)?.0));
    wait_for("the new device to be watched", Duration::from_secs(10), || {
        ensure!(attached()?.len() == 2);
        Ok(())
    })?;
    wait_for("the new device to be shown", PATIENCE, || {
        let flows = daemon.json(&["flows", "web"])?;
        let shown =
            flows["devices"].as_array().is_some_and(|all| all.iter().any(|one| one["device"] == **second));
        ensure!(shown, "{flows}");
        Ok(())
    })?;
    lab.virsh(&["detach-interface", "web", "bridge", "--mac", mac, "--live"])?;
    wait_for("the device to be unplugged", PATIENCE, || {
        let flows = daemon.json(&["flows", "web"])?;
        ensure!(flows["devices"].as_array().map(Vec::len) == Some(1), "{flows}");
        Ok(())
    })
}

/// A device whose network is QEMU's own: what the guest moves, QEMU's sockets move.
fn user_mode(lab: &Lab, daemon: &Daemon<'_>) -> Result<()> {
    const PORT: u16 = 8123;
    const ANSWER: usize = 4 << 20;
    let xml = lab.state_dir().join("user.xml");
    let text = "<interface type='user'><mac address='52:54:00:77:02:11'/><model type='virtio'/></interface>";
    std::fs::write(&xml, text)?;
    lab.virsh(&["attach-device", "web", &xml.to_string_lossy(), "--live"])?;
    let device =
        "for d in /sys/class/net/*; do [ \"$(cat $d/address)\" != 52:54:00:77:02:11 ] || echo ${d##*/}; done";
    let device = wait_for("the guest to see its new device", PATIENCE, || {
        let device = lab.guest_exec("web", device, PATIENCE)?;
        ensure!(!device.trim().is_empty(), "not yet");
        Ok(device.trim().to_owned())
    })?;
    wait_for("the sockets to be watched", PATIENCE, || {
        let devices = daemon.json(&["flows", "web"])?["devices"].to_string();
        ensure!(devices.contains("sockets of process"), "{devices}");
        Ok(())
    })?;
    let listener = inside(lab, "web", || Ok(TcpListener::bind(("127.0.0.1", PORT))?))?;
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut request = vec![0; 4096];
        let mut asked = 0;
        while !request[..asked].ends_with(b"\r\n\r\n") {
            let read = stream.read(&mut request[asked..])?;
            ensure!(read > 0, "the guest hung up");
            asked += read;
        }
        let head = format!("HTTP/1.0 200 OK\r\nContent-Length: {ANSWER}\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(&vec![7; ANSWER])?;
        Ok((asked, head.len() + ANSWER))
    });
    let fetch = format!(
        "ip addr add 10.0.2.15/24 dev {device}; ip link set {device} up; \
         wget -q -O /tmp/answer http://10.0.2.2:{PORT}/ && wc -c </tmp/answer"
    );
    let got = lab.guest_exec("web", &fetch, PATIENCE)?;
    ensure!(got.trim() == ANSWER.to_string(), "{got}");
    let (asked, answered) = server.join().map_err(|_| anyhow!("the server panicked"))??;
    let moved = wait_for("the sockets to be read", PATIENCE, || {
        let flows = daemon.json(&["flows", "web"])?;
        let live = flows["flows"].as_array().into_iter().flatten();
        let live =
            live.filter(|flow| flow["source"] == "socket" && flow["peer"] == format!("127.0.0.1:{PORT}"));
        let ended = flows["ended"].as_array().into_iter().flatten().filter(|ended| ended["port"] == PORT);
        let moved = live
            .chain(ended)
            .try_fold(Bytes::default(), |sum, flow| anyhow::Ok(sum.plus(Bytes::of(&flow["total"])?)))?;
        ensure!(moved.received >= answered as u64, "{moved:?} so far");
        Ok(moved)
    })?;
    close_to("payload through user-mode networking", moved.received, answered as u64, 0.001)?;
    close_to("the question", moved.sent, asked as u64, 0.001)
}
