//! The programs run for real: this machine plays the guest.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use kvmpilot_core::sample::{Autogroup, FileFound, GuestSample, ProcessKey, ProcessSample, SocketState};

use super::*;
use crate::agent::{Agent, GroupChange, GroupResult, Limits, NiceChange, NiceResult};

/// An agent that runs programs here. `path`: where it finds them, if not in the usual places.
struct Here {
    path: Option<String>,
    outputs: Mutex<HashMap<i64, Value>>,
}

impl Here {
    fn agent(path: Option<String>, limits: Limits) -> Agent<Self> {
        Agent::new(Self { path, outputs: Mutex::default() }, limits)
    }

    fn run(&self, arguments: &Value) -> Value {
        let texts = |name: &str| {
            let list = arguments[name].as_array().into_iter().flatten();
            list.map(|text| text.as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let mut command = match &self.path {
            Some(path) => Command::new(format!("{path}/sh")),
            None => Command::new(arguments["path"].as_str().unwrap()),
        };
        command.args(texts("arg")).env_clear().current_dir("/").stdin(Stdio::null());
        command.envs(texts("env").iter().map(|entry| entry.split_once('=').unwrap()));
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        let output = command.output().unwrap();
        let (out, err) = (STANDARD.encode(output.stdout), STANDARD.encode(output.stderr));
        json!({"exited": true, "exitcode": output.status.code(), "out-data": out, "err-data": err})
    }
}

impl Transport for Here {
    async fn command(&self, command: &str, _: Duration) -> Answer {
        let request: Value = serde_json::from_str(command).unwrap();
        let mut outputs = self.outputs.lock().unwrap();
        match request["execute"].as_str().unwrap() {
            "guest-info" => ok(&info()),
            "guest-exec" => {
                let pid = 1 + i64::try_from(outputs.len()).unwrap();
                outputs.insert(pid, self.run(&request["arguments"]));
                ok(&json!({ "pid": pid }))
            }
            _ => ok(&outputs[&request["arguments"]["pid"].as_i64().unwrap()]),
        }
    }
}

/// A child of ours, gone with the test.
struct Victim(Child);

impl Victim {
    /// Starts a shell that gives itself a name, says so, and waits.
    fn start(name: &str, arguments: &[&str]) -> Self {
        let script = "printf '%s' \"$0\" >/proc/$$/comm; echo; read -r _";
        let mut child = Command::new("/bin/sh")
            .args(["-c", script, name])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        Self(child)
    }

    fn find<'a>(&self, sample: &'a GuestSample) -> &'a ProcessSample {
        sample.processes.iter().find(|process| process.key.pid == self.0.id()).unwrap()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory with busybox under the names that the programs use, or a reason why not.
fn busybox(programs: &[&str]) -> Result<tempfile::TempDir, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    // The lab's guests have one, which is there once a lab was.
    let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab");
    let packages = std::fs::read_dir(lab).into_iter().flatten().flatten();
    let busybox = packages
        .map(|entry| entry.path().join("bin/busybox"))
        .chain(["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from))
        .find(|path| path.exists());
    let busybox = busybox.ok_or("no busybox here: the lab's guests have one")?;
    for program in programs {
        symlink(&busybox, directory.path().join(program)).map_err(|error| error.to_string())?;
    }
    Ok(directory)
}

/// A directory in which `sh` is bash, as on RHEL and its kin, and the rest is as it is here.
fn bash() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    symlink("/bin/bash", directory.path().join("sh")).unwrap();
    for program in ["grep", "head", "ls", "df", "timeout", "renice"] {
        symlink(format!("/usr/bin/{program}"), directory.path().join(program)).unwrap();
    }
    directory
}

async fn check_inventory(path: Option<String>) {
    let mut agent = Here::agent(path, Limits::default());
    let hostile = Victim::start("a) R 1\n2 (b", &["x\ny", "--password=hunter2"]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_server, _) = listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    let sample = agent.inventory().await.unwrap();

    let found = hostile.find(&sample);
    assert_eq!(found.name, "a) R 1\u{fffd}2 (b");
    assert_eq!(found.parent, std::process::id());
    assert!(found.command.ends_with("x\u{fffd}y --password=***"), "{}", found.command);
    assert!(found.executable.is_some() && found.uid.is_some() && found.affinity.is_some(), "{found:?}");
    assert!(found.rss_kib > 0 && found.threads == 1 && found.state == 'S', "{found:?}");

    let own = sample.processes.iter().find(|process| process.key.pid == std::process::id()).unwrap();
    assert!(own.threads > 1 && own.key.start_ticks > 0, "{own:?}");
    assert!(sample.processes.iter().all(|process| !process.command.contains("loadavg")), "found itself");
    assert!(!sample.processes.iter().any(|process| process.name == "kthreadd"));

    let port = listener.local_addr().unwrap().port();
    let listening = sample.listeners.iter().find(|listener| listener.port == port).unwrap();
    assert_eq!(listening.owners, [std::process::id()]);
    let peer = client.local_addr().unwrap().port();
    let connection = sample.sockets.iter().find(|socket| socket.local_port == peer).unwrap();
    assert_eq!((connection.peer_port, connection.state), (port, SocketState::Established));
    assert_eq!(connection.owners, [std::process::id()]);

    let pcpus = std::thread::available_parallelism().unwrap().get();
    assert!(sample.vcpus_online.is_some_and(|vcpus| usize::try_from(vcpus).unwrap() >= pcpus));
    assert!(
        sample.busy_ticks.is_some_and(|busy| busy > 0) && sample.runnable.is_some() && sample.load1.is_some()
    );
    assert_eq!(sample.truncated, Vec::<String>::new());

    let later = agent.inventory().await.unwrap();
    assert!(later.uptime_cs > sample.uptime_cs);
    assert_eq!(hostile.find(&later).key, found.key);
}

async fn check_nice(path: Option<String>) {
    let mut agent = Here::agent(path, Limits::default());
    let (one, two, three) =
        (Victim::start("a) 1 (b", &[]), Victim::start("two", &[]), Victim::start("three", &[]));
    let sample = agent.inventory().await.unwrap();
    let change = |victim: &Victim, expect, to| NiceChange { key: victim.find(&sample).key, expect, to };
    let stranger = ProcessKey { start_ticks: 1, ..three.find(&sample).key };
    let changes = [
        change(&one, 0, 7),
        change(&two, 0, 3),
        change(&three, 5, 9),
        NiceChange { key: stranger, expect: 0, to: 11 },
        change(&three, 0, 40),
    ];
    let results: Vec<_> =
        agent.set_nice(&changes).await.unwrap().into_iter().map(|outcome| outcome.result).collect();
    let expected = [NiceResult::Applied, NiceResult::Applied, NiceResult::Drift { now: 0 }, NiceResult::Gone];
    assert_eq!(results[..4], expected);
    assert!(matches!(results[4], NiceResult::Failed(_)), "{:?}", results[4]);

    let sample = agent.inventory().await.unwrap();
    let nices = [&one, &two, &three].map(|victim| victim.find(&sample).nice);
    assert_eq!(nices, [7, 3, 0]);
}

#[tokio::test]
async fn inventory_of_this_machine() {
    check_inventory(None).await;
}

#[tokio::test]
async fn inventory_of_this_machine_by_busybox() {
    match busybox(&["sh", "grep", "head", "awk", "ls"]) {
        Ok(directory) => check_inventory(Some(directory.path().display().to_string())).await,
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

#[tokio::test]
async fn nice_on_this_machine() {
    check_nice(None).await;
}

#[tokio::test]
async fn nice_on_this_machine_by_busybox() {
    match busybox(&["sh", "grep", "head", "ls", "renice"]) {
        Ok(directory) => check_nice(Some(directory.path().display().to_string())).await,
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

/// A session of its own is an autogroup of its own, where the kernel has them.
async fn check_autogroups(path: Option<String>) {
    let look = Command::new("sh").args(["-c", "cd /proc && test -e self/autogroup"]).status().unwrap();
    if !look.success() {
        eprintln!("skipped: this kernel has no autogroups");
        return;
    }
    let mut child = Command::new("setsid").args(["sleep", "1000"]).spawn().unwrap();
    let mut agent = Here::agent(path, Limits::default());
    let pid = child.id();
    let found = |sample: &GuestSample| {
        let found = sample.processes.iter().find(|process| process.key.pid == pid).cloned();
        found.filter(|process| process.name == "sleep").map(|process| process.autogroup)
    };
    let mut before = None;
    for _ in 0..50 {
        before = found(&agent.inventory().await.unwrap());
        if before.is_some() {
            break;
        }
    }
    let before = before.flatten().unwrap();
    let change = |group, expect, to| GroupChange { group, expect, to };
    let results = agent.set_autogroups(&[change(before.id, 0, 3), change(u64::MAX, 0, 3)]).await.unwrap();
    let drifted = agent.set_autogroups(&[change(before.id, 5, 7)]).await.unwrap();
    let sample = agent.inventory().await.unwrap();
    let after = found(&sample).flatten();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(results, [GroupResult::Applied, GroupResult::Gone]);
    assert_eq!(drifted, [GroupResult::Drift { now: 3 }]);
    assert_eq!(after, Some(Autogroup { nice: 3, ..before }));
    let results = agent.set_autogroups(&[change(before.id, 3, 0)]).await.unwrap();
    assert_eq!(results, [GroupResult::Gone], "its last process has ended");
}

#[tokio::test]
async fn autogroups_of_this_machine() {
    check_autogroups(None).await;
}

#[tokio::test]
async fn autogroups_of_this_machine_by_busybox() {
    match busybox(&["sh", "grep", "head", "ls"]) {
        Ok(directory) => check_autogroups(Some(directory.path().display().to_string())).await,
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

#[tokio::test]
async fn inventory_stops_at_its_bounds() {
    let _victims = ["one", "two", "three"].map(|name| Victim::start(name, &[]));
    let few = Limits { processes: 2, ..Limits::default() };
    let sample = Here::agent(None, few).inventory().await.unwrap();
    assert!(sample.processes.len() <= 2, "{:?}", sample.processes);
    assert_eq!(sample.truncated, ["processes"]);
    let short = Limits { output_bytes: 2000, ..Limits::default() };
    let sample = Here::agent(None, short).inventory().await.unwrap();
    assert!(sample.uptime_cs > 0);
    assert_eq!(sample.truncated, ["output after 2000 bytes"]);
}

async fn check_files(path: Option<String>) {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let odd = "a b'c\"d$(touch x)\n;e";
    std::fs::write(at(odd), "hello\n").unwrap();
    std::fs::write(at("full"), vec![0; 1 << 20]).unwrap();
    std::fs::write(at("large"), vec![0; (1 << 20) + 1]).unwrap();
    symlink(at(odd), at("link")).unwrap();
    symlink("/nowhere/at/all", at("dangling")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    let names = [odd, "full", "large", "link", "dangling", "pipe", "-n", "."];
    let paths: Vec<String> = names.iter().map(|name| at(name)).collect();
    let found: Vec<_> = Here::agent(path, Limits::default())
        .files(&paths)
        .await
        .unwrap()
        .into_iter()
        .map(|file| file.found)
        .collect();
    let hello = FileFound::Sha256("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03".into());
    let zeros = FileFound::Sha256("30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58".into());
    let irregular = FileFound::Unreadable("it is no regular file".into());
    let expected = [
        hello.clone(),
        zeros,
        FileFound::TooLarge,
        hello,
        FileFound::Missing,
        irregular.clone(),
        FileFound::Missing,
        irregular,
    ];
    assert_eq!(found, expected);
    assert!(!directory.path().join("x").exists());
}

#[tokio::test]
async fn files_of_this_machine() {
    check_files(None).await;
}

#[tokio::test]
async fn files_of_this_machine_by_busybox() {
    match busybox(&["sh", "head", "wc", "sha256sum"]) {
        Ok(directory) => check_files(Some(directory.path().display().to_string())).await,
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

async fn check_system(path: Option<String>) {
    let mut agent = Here::agent(path, Limits::default());
    let system = agent.system().await.unwrap();
    assert_eq!(system.users.get(&0).map(String::as_str), Some("root"));
    let uname = nix::sys::utsname::uname().unwrap();
    assert_eq!(system.kernel.as_deref(), uname.release().to_str());
    assert_eq!(system.host_name.as_deref(), uname.nodename().to_str());
    assert!(
        system.os.is_some() && system.interfaces.iter().any(|interface| interface.name == "lo"),
        "{system:?}"
    );
    assert_eq!(system.missing, Vec::<String>::new());
}

#[tokio::test]
async fn system_of_this_machine() {
    check_system(None).await;
}

#[tokio::test]
async fn system_of_this_machine_by_busybox() {
    match busybox(&["sh", "grep", "head", "df", "timeout"]) {
        Ok(directory) => check_system(Some(directory.path().display().to_string())).await,
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

#[tokio::test]
async fn inventory_and_system_of_this_machine_by_bash() {
    let directory = bash();
    let path = directory.path().display().to_string();
    check_inventory(Some(path.clone())).await;
    check_system(Some(path)).await;
}

/// CPU time of one inventory at 300 processes more than there are, as a guest with this machine's speed would pay it.
async fn check_cost(shell: &str, path: Option<String>) {
    const MORE: usize = 300;
    const POLLS: u32 = 5;
    let mut children: Vec<Child> =
        (0..MORE).map(|_| Command::new("sleep").arg("1000").spawn().unwrap()).collect();
    let used = || {
        let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_CHILDREN).unwrap();
        let (user, system) = (usage.user_time(), usage.system_time());
        user.tv_sec() as f64 + system.tv_sec() as f64 + (user.tv_usec() + system.tv_usec()) as f64 / 1e6
    };
    let mut agent = Here::agent(path, Limits::default());
    let before = used();
    let mut processes = 0;
    for _ in 0..POLLS {
        processes = agent.inventory().await.unwrap().processes.len();
    }
    let cost = (used() - before) * 1e3 / f64::from(POLLS);
    for child in &mut children {
        let _ = child.kill();
        let _ = child.wait();
    }
    println!("{shell}: {cost:.0} ms of CPU for an inventory of {processes} processes");
    assert!(processes >= MORE);
}

#[tokio::test]
#[ignore = "a measurement: cargo test -p kvmpilot --lib cost_of -- --ignored --nocapture --test-threads=1"]
async fn cost_of_an_inventory() {
    check_cost("sh", None).await;
    check_cost("bash", Some(bash().path().display().to_string())).await;
    match busybox(&["sh", "grep", "head", "awk", "ls"]) {
        Ok(directory) => check_cost("busybox", Some(directory.path().display().to_string())).await,
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}
