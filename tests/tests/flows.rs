//! Flows on real guests: every byte against the taps' own statistics and against what the client transferred, joined with
//! the guest's processes; what is left when devices, domains and the daemon go.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kvmpilot::probes::flows::remains;
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::tap::link_counters;
use kvmpilot_tests::{HttpLoad, Lab, LabOptions, guests, output_of, wait_for};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str =
    "[modes]\ndefault = \"observe\"\n[loops]\ncycle = \"5s\"\nguest = \"5s\"\n[agent]\ntimeout = \"20s\"\n";
/// Ethernet, IPv4, and TCP with its time stamps.
const HEADERS: u64 = 14 + 20 + 32;
/// Seconds between two readings.
const READING: f64 = 5.0;
/// What a SYN, and the answer to it, has beyond that.
const SYN_OPTIONS: u64 = 8;

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

/// What device and daemon say at a moment of which nobody can say that they were read at different times: nothing moved
/// around the daemon's reading.
fn still(lab: &Lab, daemon: &Daemon<'_>, tap: &str) -> Result<(Bytes, Value)> {
    wait_for("the tap to be still", PATIENCE, || {
        let before = link(lab, tap)?;
        let begin = daemon.json(&["flows", "web"])?["watched_s"].as_f64().context("not watched yet")?;
        // What is shown next may have been read before we began; the one after it was not.
        let flows = wait_for("two more readings", Duration::from_secs(25), || {
            let flows = daemon.json(&["flows", "web"])?;
            ensure!(flows["watched_s"].as_f64() > Some(begin + READING * 1.5), "not yet");
            Ok(flows)
        })?;
        ensure!(before == link(lab, tap)?, "the tap moves");
        Ok((before, flows))
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
    let lab = Lab::start(&LabOptions { guests: vec![guests::web()] })?;
    lab.wait_agents(BOOT)?;
    let (_, loaded_before) = inside(&lab, "web", || Ok(remains("lo")?))?;
    let daemon = lab.start_daemon("d", CONFIG)?;
    let result = measure(&lab, &daemon)
        .and_then(|()| come_and_go(&lab, &daemon))
        .and_then(|()| user_mode(&lab, &daemon));
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

    // Short connections, as many as the guest can take: they end, their bytes stay.
    let load = HttpLoad { guest: "web".to_owned(), connections: 8, seconds: 12 };
    let busy = thread::scope(|scope| {
        let load = scope.spawn(|| lab.http_load(&load));
        let busy = wait_for("the server's rate", PATIENCE, || {
            let processes = daemon.json(&["processes", "web"])?;
            let all = processes["applications"].as_array().into_iter().flatten();
            let server =
                all.flat_map(|application| application["processes"].as_array().into_iter().flatten());
            let server = server.into_iter().find(|process| process["name"] == "httpd").context("no httpd")?;
            let rate = server["traffic"]["sent_bytes_per_s"].as_f64().context("no rate")?;
            ensure!(rate > 1000.0, "{rate} B/s");
            Ok((rate, processes.to_string()))
        });
        let load = load.join().map_err(|_| anyhow!("the load panicked"))??;
        ensure!(load.errors == 0 && load.requests > 100, "{load:?}");
        println!("{} short connections", load.requests);
        Ok((busy?, load.requests))
    })?;
    let ((_, processes), requests) = busy;
    ensure!(
        processes.contains("serves 10.77.0.1 on port 80") || processes.contains("served port 80"),
        "{processes}"
    );
    let (link_last, last) = still(lab, daemon, &tap)?;
    let total = Bytes::of(&last["total"])?.since(Bytes::of(&after["total"])?);
    ensure!(total == link_last.since(link_after), "{total:?} {:?}", link_last.since(link_after));
    let count = |flows: &Value, name: &str| flows[name].as_u64().with_context(|| format!("no {name}"));
    ensure!(count(&last, "flows_made")? - count(&after, "flows_made")? >= requests, "{last:#}");
    ensure!(
        count(&last, "flows_evicted")? == 0 && Bytes::of(&last["unseen"])? == Bytes::default(),
        "{last:#}"
    );
    let all = of_owner(&last, |_| true)?;
    ensure!(all == Bytes::of(&last["total"])?, "{all:?} in flows: {last:#}");
    let served = of_owner(&last, is_httpd)?.since(of_owner(&after, is_httpd)?);
    close_to(
        "all that moved is the server's",
        served.sent + served.received,
        total.sent + total.received,
        0.01,
    )?;
    println!("{}\n{}", daemon.text(&["flows", "web"])?, daemon.text(&["processes", "web"])?);
    Ok(())
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
