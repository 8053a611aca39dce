//! Guests and agents that mean no good, or forbid nearly all: nothing of what they say is run, nobody waits for them, and
//! what cannot be read is not taken for nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kvmpilot_tests::daemon::Daemon;
use kvmpilot_tests::{GuestSpec, Lab, LabOptions, Work, wait_for};
use serde_json::Value;

const BOOT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(120);
const CONFIG: &str =
    "[modes]\ndefault = \"auto\"\n[loops]\ncycle = \"5s\"\nguest = \"3s\"\n[agent]\ntimeout = \"30s\"\n";

/// As RHEL's package blocks them.
const BLOCKED: [&str; 9] = [
    "guest-file-open",
    "guest-file-close",
    "guest-file-read",
    "guest-file-write",
    "guest-file-seek",
    "guest-file-flush",
    "guest-exec",
    "guest-exec-status",
    "guest-set-user-password",
];

fn guest(name: &str, octet: u8) -> GuestSpec {
    let hog = |n| Work::Hog(format!("cruncher{n}"));
    GuestSpec::new(name, octet).memory_mib(256).runs(hog(1)).runs(hog(2))
}

/// Waits until what the daemon says of a guest is so, and returns it.
fn until(daemon: &Daemon<'_>, what: &str, command: &[&str], is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_for(what, PATIENCE, || {
        let said = daemon.json(command)?;
        ensure!(is_so(&said), "{said}");
        Ok(said)
    })
    .with_context(|| daemon.log())
}

/// From now on the agent's programs have the rights of nobody.
const MEEK: &str = r#"
echo nobody:x:65534:65534::/:/bin/sh >>/etc/passwd
rm /bin/sh
printf '#!/bin/busybox sh\nexec /bin/busybox su -s /bin/ash nobody "$@"\n' >/bin/sh
chmod +x /bin/sh
"#;

#[test]
fn agents_that_say_no_tell_what_they_may() -> Result<()> {
    let guests = vec![guest("rhel", 40).blocks(&BLOCKED), guest("open", 41), guest("meek", 45)];
    let lab = Lab::start(&LabOptions { guests })?;
    lab.wait_agents(BOOT)?;
    lab.guest_exec("meek", MEEK, PATIENCE)?;
    let user = lab.guest_exec("meek", "id -u", PATIENCE)?;
    ensure!(user == "65534\n", "{user}");
    let daemon = lab.start_daemon("d", CONFIG)?;
    let told = |said: &Value| said["guest"]["system"]["os"].is_string();
    let rhel = until(&daemon, "word of the agent that says no", &["domain", "rhel"], |said| {
        told(said) && said["guest"]["load1"].as_f64() > Some(0.0)
    })?;
    let inside = &rhel["guest"];
    ensure!(inside["vcpus_online"] == 1 && inside["system"]["os"] == "kvmpilot lab guest", "{inside}");
    let why = inside["unread"].as_str().unwrap_or_default();
    ensure!(why.contains("guest-exec is switched off"), "{inside}");
    ensure!(rhel["agent"]["usable"] == false && rhel["agent"]["message"] == why, "{}", rhel["agent"]);
    ensure!(rhel["communicating"].is_null(), "who is not known to talk is said not to");
    let addresses = &inside["system"]["interfaces"];
    ensure!(addresses.to_string().contains("10.77.0.40/24"), "{addresses}");
    let processes = daemon.json(&["processes", "rhel"])?;
    ensure!(processes["message"] == why && processes["applications"] == Value::Array(vec![]), "{processes}");

    let meek = until(&daemon, "word of the agent without rights", &["domain", "meek"], |said| {
        said["guest"]["load1"].as_f64() > Some(1.0) && said["guest"]["unread"].is_string()
    })?;
    let why = meek["guest"]["unread"].as_str().unwrap_or_default();
    ensure!(why.contains("qemu-ga has to run as root") && meek["communicating"].is_null(), "{meek}");

    let doctor = daemon.command(&["doctor", "--json"])?.output()?;
    let doctor = String::from_utf8(doctor.stdout)?;
    for words in [
        "agent of rhel",
        "has switched off guest-exec",
        "/etc/sysconfig/qemu-ga",
        "agent of meek",
        "run as root",
    ] {
        ensure!(doctor.contains(words), "no {words} in {doctor}");
    }
    let open = until(&daemon, "word of the other", &["domain", "open"], told)?;
    ensure!(open["agent"]["usable"] == true && open["guest"]["unread"].is_null(), "{open}");
    // Hogs want more than the one vcpu of each, and yet nothing is done where nobody knows who talks.
    let inside_others =
        |order: &&Value| order["domain_name"] != "open" && order["action"]["application"].is_string();
    ensure!(!daemon.orders()?.iter().any(|order| inside_others(&order)), "{:?}", daemon.orders()?);
    let inside =
        until(&daemon, "its users", &["processes", "open"], |said| said.to_string().contains("\"root\""))?;
    ensure!(inside["applications"].as_array().is_some_and(|all| all.len() >= 2), "{inside}");
    ensure!(daemon.stop()?.success(), "a bad end");
    lab.stop()
}

/// Processes whose names and arguments are code for whoever takes them for that, two that want to fork 1000 times a second
/// each, and no place to write.
const STORM: &str = r#"
mount -t tmpfs -o ro none /tmp
start() { sh -c 'printf %s "$0" >/proc/$$/comm; while :; do sleep 1000; done' "$@" & }
{
start 'a b;touch /p1' 'x' '$(touch /run/pwned)'
start '$(touch /p2)' '`touch /run/pwned`' '; touch /run/pwned #'
start "q'u\"o|te" "'; touch /run/pwned; '" '" && touch /run/pwned'
start 'n
1 (x) R 1' 'PATH=/bin
lrwxrwxrwx 1 0 0 0 Nov 22 18:22 1/exe -> /run/pwned'
start "$(printf 'u\377\376')" "$(printf '\377\033[31m')" --password=hunter2
/lab/forks 1000 &
/lab/forks 1000 &
} >/dev/null 2>&1 </dev/null
"#;

/// 5000 processes. Each waits at a pipe that nobody opens: without a program of its own, so that emulation can make them.
const CROWD: &str = r#"
exec >/dev/null 2>&1 </dev/null
mkfifo /run/never
for part in 1 2 3 4 5; do
    (i=0; while [ $i -lt 1000 ]; do : </run/never & i=$((i + 1)); done; sleep 100000) &
done
"#;

/// Processes that were ever forked in the storm.
fn forks(lab: &Lab) -> Result<u64> {
    Ok(lab.guest_exec("storm", "sed -n 's/^processes //p' /proc/stat", PATIENCE)?.trim().parse()?)
}

#[test]
fn hostile_guests_are_bounded_and_nothing_of_them_is_run() -> Result<()> {
    let storm = GuestSpec::new("storm", 42).vcpus(2).memory_mib(256);
    let crowd = GuestSpec::new("crowd", 43).vcpus(2).memory_mib(2048);
    let lab = Lab::start(&LabOptions { guests: vec![storm, crowd] })?;
    lab.wait_agents(BOOT)?;
    lab.guest_exec("storm", STORM, PATIENCE)?;
    let daemon = lab.start_daemon("d", CONFIG)?;

    let storm = until(&daemon, "the processes of the storm", &["processes", "storm"], |said| {
        said["message"].is_null() && said["applications"].as_array().is_some_and(|all| all.len() > 5)
    })?;
    let text = storm.to_string();
    for name in ["a b;touch /p1", "$(touch /p2)", "q'u\\\"o|te", "n\u{fffd}1 (x) R 1", "u\u{fffd}\u{fffd}"] {
        ensure!(text.contains(name), "no {name} in {text}");
    }
    ensure!(!text.contains("hunter2") && !text.contains("\\u001b"), "{text}");
    let (before, began) = (forks(&lab)?, Instant::now());
    std::thread::sleep(Duration::from_secs(5));
    let rate = (forks(&lab)? - before) as f64 / began.elapsed().as_secs_f64();
    println!("the storm: {rate:.0} forks a second");
    ensure!(rate > 1000.0, "{rate:.0} forks a second are no storm");
    let age = daemon.json(&["domain", "storm"])?["agent"]["last_poll_age_s"].as_f64();
    ensure!(age < Some(60.0), "the storm was last asked {age:?} s ago");

    lab.guest_exec("crowd", CROWD, PATIENCE)?;
    // Too many, and said so; under emulation it may also take too long, and that is said.
    let many = until(&daemon, "the crowd", &["processes", "crowd"], |said| {
        said["truncated"].as_array().is_some_and(|cut| !cut.is_empty())
            || said["message"].as_str().is_some_and(|message| message.contains("longer than"))
    })?;
    let seen: usize = many["applications"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|application| application["processes"].as_array().map(Vec::len))
        .sum();
    println!("the crowd: {seen} processes seen; left out: {}; {}", many["truncated"], many["message"]);
    ensure!(seen <= 4096, "{seen} processes");
    let own = daemon.json(&["status"])?["own_cost"].clone();
    println!("own cost: {own}");
    ensure!(own["rss_kib"].as_u64() < Some(256 << 10), "memory: {own}");

    ensure!(daemon.stop()?.success(), "a bad end");
    let traces = lab.guest_exec("storm", "ls -d /run/pwned /p1 /p2 2>/dev/null; :", PATIENCE)?;
    ensure!(traces.is_empty(), "something of it was run: {traces}");
    lab.stop()
}
