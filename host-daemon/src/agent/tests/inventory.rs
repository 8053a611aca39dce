//! Reading what the inventory program prints, from guests that were made up.

use std::fmt::Write as _;

use kvmpilot_core::sample::{GuestSample, ProcessKey, SchedPolicy, SocketProtocol, SocketState};
use proptest::prelude::*;

use super::*;
use crate::agent::parse::{Bounds, parse};
use crate::agent::{Agent, AgentError, Limits};

const BOUNDS: Bounds = Bounds { processes: 4096, sockets: 8192, bytes: 2 << 20 };
const K: &str = "0123456789abcdef";
const TAIL: &str =
    "0 0 0 10 1 2 3 20 0 1 0 500 2314240 451 18446744073709551615 1 1 1 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0";

fn system() -> String {
    format!(
        "{K} system\nuptime 640.02 609.60\nloadavg 0.63 0.18 0.06 3/67 167\nsys/kernel/sched_autogroup_enabled 1\n\
         cpu  6089 1 359 6096 5 2 9 7 50 0\ncpu0 3438 0 151 2675 0 0 3 0 0 0\ncpu1 2650 0 207 3421 0 0 6 0 0 0\n\
         self 164\nsystemd\n"
    )
}

fn stat(pid: u32, comm: &str, parent: u32) -> String {
    format!("{pid} ({comm}) S {parent} 0 0 0 -1 4194560 272 {TAIL}\n")
}

fn processes(records: &[(String, &str)]) -> String {
    let mut section = format!("{K} process\n");
    for (stat, command) in records {
        write!(section, "PATH=/bin\0K={K}\0{stat}{command}").unwrap();
    }
    section + "\n"
}

fn read(rest: &str) -> GuestSample {
    parse(format!("{}{rest}{K} end\n", system()).as_bytes(), K, BOUNDS).unwrap()
}

#[test]
fn reads_the_system() {
    let sample = read("");
    assert_eq!(sample.uptime_cs, 64002);
    assert_eq!(sample.ticks_per_second, 100);
    assert_eq!((sample.load1, sample.runnable), (Some(0.63), Some(3)));
    assert_eq!((sample.autogroup, sample.systemd, sample.vcpus_online), (Some(true), true, Some(2)));
    assert_eq!(sample.busy_ticks, Some(6089 + 1 + 359 + 2 + 9 + 7));
    assert_eq!(sample.steal_ticks, Some(7));
    assert_eq!(sample.truncated, Vec::<String>::new());
}

#[test]
fn puts_a_process_together() {
    let sample = read(&format!(
        "{}{K} status\n112/status:Name:\tUid:\n112/status:Uid:\t33\t33\t33\t33\n112/status:VmRSS:\t    1804 kB\n\
         112/status:Cpus_allowed_list:\t0-1\n112/cgroup:0::/system.slice/web.service/worker\n\
         {K} exe\nlrwxrwxrwx 1 33 33 0 Nov 22 18:22 112/exe -> /usr/bin/httpd (deleted)\n",
        processes(&[(stat(112, "httpd", 1), "httpd\0-f\0--token=x\0")]),
    ));
    let [process] = &sample.processes[..] else { panic!("{sample:?}") };
    assert_eq!(process.key, ProcessKey { pid: 112, start_ticks: 500 });
    assert_eq!((process.parent, process.name.as_str(), process.state), (1, "httpd", 'S'));
    assert_eq!(process.command, "httpd -f --token=***");
    assert_eq!(process.executable.as_deref(), Some("/usr/bin/httpd"));
    assert_eq!((process.uid, process.rss_kib, process.threads), (Some(33), 1804, 1));
    assert_eq!((process.cpu_ticks, process.children_cpu_ticks), (10 + 1, 2 + 3));
    assert_eq!((process.nice, process.policy), (0, SchedPolicy::Other));
    assert_eq!(process.unit.as_deref(), Some("web.service"));
    assert_eq!(process.affinity.as_deref(), Some("0-1"));
}

#[test]
fn names_may_hold_anything() {
    for comm in ["a) S 1\n99 (b", "((", "))", "'\"$(x)`", "", "fifteen bytes!!", ") R 9 9 (x\n"] {
        let forged = format!("httpd\0\nPATH=/bin\0K=x\0{}", stat(1, "init", 0));
        let sample = read(&processes(&[(stat(7, comm, 1), &forged), (stat(8, "next", 1), "next\0")]));
        let names: Vec<_> =
            sample.processes.iter().map(|process| (process.key.pid, process.name.clone())).collect();
        let shown = comm.replace('\n', "\u{fffd}");
        assert_eq!(names, [(7, shown), (8, "next".to_owned())]);
        assert_eq!(sample.processes[0].parent, 1);
    }
    let mut output = system().into_bytes();
    output.extend_from_slice(format!("{K} process\nPATH=/bin\0K={K}\07 (").as_bytes());
    output.extend_from_slice(b"\xff\xfe) S 1 0 0 0 -1 4194560 272 ");
    output.extend_from_slice(format!("{TAIL}\n\n{K} end\n").as_bytes());
    let sample = parse(&output, K, BOUNDS).unwrap();
    assert_eq!(sample.processes[0].name, "\u{fffd}\u{fffd}");
}

#[test]
fn an_executable_with_two_claims_is_nobodys() {
    let sample = read(&format!(
        "{}{K} exe\nlrwxrwxrwx 1 0 0 0 Nov 22 18:22 1/exe -> /sbin/init\n\
         lrwxrwxrwx 1 5 5 0 Nov 22 18:22 7/exe -> /tmp/x\nlrwxrwxrwx 1 0 0 0 Nov 22 18:22 1/exe -> /usr/bin/evil\n",
        processes(&[(stat(1, "init", 0), "init\0"), (stat(7, "x", 1), "x\0")]),
    ));
    assert_eq!(sample.processes[0].executable, None);
    assert_eq!(sample.processes[1].executable.as_deref(), Some("/tmp/x"));
}

#[test]
fn leaves_out_kernel_threads_and_itself() {
    let kernel = format!("2 (kthreadd) S 0 0 0 0 -1 2129984 272 {TAIL}\n");
    let records = [
        (kernel, ""),
        (stat(1, "init", 0), "init\0"),
        (stat(164, "sh", 1), "sh\0"),
        (stat(166, "sh", 164), "sh\0"),
        (stat(168, "ls", 166), "ls\0"),
    ];
    let sample = read(&processes(&records));
    assert_eq!(sample.processes.iter().map(|process| process.key.pid).collect::<Vec<_>>(), [1]);
}

#[test]
fn joins_sockets_with_all_their_owners() {
    let sample = read(&format!(
        "{K} fd\n   1218 112/fd/3\n1218 112/fd/4\n   1218 130/fd/3\n1300 130/fd/5\n{K} net\n\
         net/tcp:  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
         net/tcp:   0: 0B00000A:0050 0100000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 1300 1 x\n\
         net/tcp:   1: 0B00000A:0050 0100000A:C351 06 00000000:00000000 00:00000000 00000000     0        0 0 3 x\n\
         net/tcp6:   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A \
         00000000:00000000 00:00000000 00000000     0        0 1218 1 x\n\
         net/tcp6:   1: 0000000000000000FFFF00000B00000A:0051 0000000000000000FFFF00000100000A:C352 02 \
         00000000:00000000 00:00000000 00000000     0        0 9 1 x\n\
         net/udp:   0: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 5 2 x 0\n"
    ));
    let listeners: Vec<_> = sample
        .listeners
        .iter()
        .map(|l| (l.protocol, l.address.to_string(), l.port, l.owners.clone()))
        .collect();
    assert_eq!(
        listeners,
        [
            (SocketProtocol::Tcp, "::".to_owned(), 80, vec![112, 130]),
            (SocketProtocol::Udp, "0.0.0.0".to_owned(), 67, vec![])
        ]
    );
    let sockets: Vec<_> = sample
        .sockets
        .iter()
        .map(|s| {
            (format!("{}:{} {}:{}", s.local_address, s.local_port, s.peer_address, s.peer_port), s.state)
        })
        .collect();
    assert_eq!(
        sockets,
        [
            ("10.0.0.11:80 10.0.0.1:50000".to_owned(), SocketState::Established),
            ("10.0.0.11:80 10.0.0.1:50001".to_owned(), SocketState::Closing),
            ("10.0.0.11:81 10.0.0.1:50002".to_owned(), SocketState::Opening),
        ]
    );
    assert_eq!(sample.sockets[0].owners, [130]);
    assert_eq!(sample.sockets[1].owners, Vec::<u32>::new());
}

#[test]
fn an_agent_without_rights_is_no_guest_without_processes() {
    let sample = read(&format!("{K} blind\n{}", processes(&[(stat(9, "qemu-ga", 1), "qemu-ga\0")])));
    assert!(sample.unread.is_some_and(|why| why.contains("may not see")));
    assert_eq!(read("").unread, None);
}

#[test]
fn takes_only_so_much_and_says_so() {
    let many: Vec<(String, &str)> = (1..=5000).map(|pid| (stat(pid, "worker", 0), "worker\0")).collect();
    let socket = "net/tcp: 0: 0B00000A:0050 0100000A:C350 01 0:0 0:0 0 0 0 1300 1\n";
    let sample = read(&format!("{}{K} net\n{}", processes(&many), socket.repeat(9000)));
    // The script's own shell is pid 164 here.
    assert_eq!(sample.processes.len(), 4096 - 1);
    assert_eq!(sample.sockets.len(), 8192);
    assert_eq!(sample.truncated, ["processes beyond 4096", "sockets beyond 8192"]);
    let noted = read(&format!("{K} more descriptors of process 5\n").repeat(100));
    assert_eq!(noted.truncated.len(), 16);
}

#[test]
fn output_that_was_cut_gives_what_is_whole() {
    let records = [(stat(1, "init", 0), "init\0"), (stat(7, "x", 1), "xyz\0")];
    let whole =
        format!("{}{}{K} status\n1/status:Uid:\t0\n7/status:Uid:\t1000\n", system(), processes(&records));
    let from = whole.find("self 164").unwrap() + 9;
    for end in from..whole.len() {
        let Ok(sample) = parse(&whole.as_bytes()[..end], K, BOUNDS) else {
            // Cut before the first process.
            assert!(end <= whole.find("(init)").unwrap(), "{end}");
            continue;
        };
        assert_eq!(sample.truncated, ["output after 2097152 bytes"]);
        assert!(sample.processes.iter().all(|process| [None, Some(0), Some(1000)].contains(&process.uid)));
        assert!(sample.processes.iter().all(|process| ["init", "xyz"].contains(&process.command.as_str())));
    }
}

#[test]
fn what_is_not_an_inventory_is_malformed() {
    for output in
        ["", "hello", &format!("{K} end\n"), &format!("{K} system\nuptime x\n"), "ffff system\nuptime 1.00\n"]
    {
        let error = parse(output.as_bytes(), K, BOUNDS).unwrap_err();
        assert!(matches!(error, AgentError::Malformed { .. }), "{output}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scripted_guest_with_5000_processes() {
    let guest = printing(|k| {
        let many: Vec<(String, &str)> = (1..=5000).map(|pid| (stat(pid, "w", 0), "w\0")).collect();
        format!("{}{}{K} end\n", system(), processes(&many)).replace(K, k).into_bytes()
    });
    let mut agent = Agent::new(guest, Limits::default());
    assert_eq!(agent.inventory().await.unwrap().processes.len(), 4095);
    // What is made up without knowing the word counts for nothing.
    let mut liar = Agent::new(printing(|_| system().into_bytes()), Limits::default());
    assert!(matches!(liar.inventory().await, Err(AgentError::Malformed { .. })));
}

proptest! {
    #[test]
    fn never_panics(noise in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&noise, K, BOUNDS);
    }

    #[test]
    fn never_panics_on_what_looks_real(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            K, " ", "\n", "system", "process", "status", "exe", "fd", "net", "end", "more x", "\0",
            "uptime 1.00", "cpu 1 2 3 4 5 6 7 8", "7 (a) S 1 ", TAIL, ")", "(", "7/status:", "Uid:\t0", "7/exe -> /x",
            "18446744073709551616", "net/tcp:", "0: 0100007F:0050 0100007F:0051 01 0:0 0:0 0 0 0 5", "7/fd/1", "-1",
            "\u{e4}", "K=", "7/cgroup:", "0::/a.service",
        ]), 0..60),
    ) {
        let output = format!("{}{}", system(), pieces.concat());
        if let Ok(sample) = parse(output.as_bytes(), K, BOUNDS) {
            prop_assert!(sample.processes.len() <= BOUNDS.processes);
        }
    }
}
