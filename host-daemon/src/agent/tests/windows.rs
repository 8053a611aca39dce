//! Windows guests: recorded formats, and a scripted agent that runs "PowerShell".

use kvmpilot_core::sample::{GuestSample, ProcessKey, ProcessSample, SchedPolicy, ServiceState, SocketState};

use super::*;
use crate::agent::parse::Bounds;
use crate::agent::windows::{parse, parse_json};
use crate::agent::{Agent, AgentError, Limits, NiceChange, NiceResult};

const BOUNDS: Bounds = Bounds { processes: 4096, sockets: 8192, bytes: 2 << 20 };
const INSIDE: &[u8] = include_bytes!("../../../../fuzz/corpus/windows/json");
const SERVICES: &[u8] = include_bytes!("../../../../fuzz/corpus/windows/services");

fn find<'a>(sample: &'a GuestSample, name: &str) -> &'a ProcessSample {
    sample.processes.iter().find(|process| process.name == name).unwrap()
}

#[test]
fn reads_processes_and_sockets() {
    let sample = parse_json(INSIDE, BOUNDS).unwrap();
    assert_eq!((sample.uptime_cs, sample.ticks_per_second, sample.vcpus_online), (123_456, 1000, Some(2)));
    assert_eq!(sample.busy_ticks, Some(1_234_560 * 2 - 1_200_000));
    let httpd = find(&sample, "httpd");
    assert_eq!(httpd.key, ProcessKey { pid: 2000, start_ticks: 13_400_000_002_000 });
    assert_eq!((httpd.parent, httpd.cpu_ticks, httpd.rss_kib, httpd.threads), (700, 5000, 80_000, 30));
    assert_eq!(httpd.executable.as_deref(), Some(r"C:\Apps\httpd.exe"));
    assert_eq!(httpd.command, r#""C:\Apps\httpd.exe" -k --password=***"#);
    assert_eq!((httpd.nice, httpd.policy), (0, SchedPolicy::Other));
    // Never touched: what has the real-time class, and what Windows cannot do without.
    assert_eq!(find(&sample, "rt").policy, SchedPolicy::RealTime);
    assert_eq!(find(&sample, "lsass").policy, SchedPolicy::Unknown);
    assert!(sample.processes.iter().all(|process| process.key.pid != 0), "the idle process is none");
    assert_eq!(sample.listeners.len(), 2);
    assert_eq!((sample.listeners[0].port, &sample.listeners[0].owners[..]), (80, &[2000][..]));
    assert_eq!(sample.sockets[0].state, SocketState::Established);
    assert_eq!(sample.sockets[1].peer_address.to_string(), "fe80::2");
    assert_eq!((sample.unread, sample.truncated), (None, vec![]));
}

#[test]
fn base_priorities_are_the_ladders_steps() {
    let nices = [4, 6, 8, 10, 13].map(|priority| crate::agent::windows::level(priority).0);
    assert_eq!(nices, [10, 5, 0, -5, -10]);
}

#[test]
fn takes_only_so_much_and_says_so() {
    let few = Bounds { processes: 2, sockets: 1, ..BOUNDS };
    let sample = parse_json(INSIDE, few).unwrap();
    assert_eq!((sample.processes.len(), sample.sockets.len() + sample.listeners.len()), (2, 1));
    assert_eq!(sample.truncated, ["processes beyond 2", "sockets beyond 1"]);
    let exactly = parse_json(INSIDE, Bounds { sockets: 4, ..BOUNDS }).unwrap();
    assert_eq!(exactly.truncated, Vec::<String>::new());
    for noise in [&b"Access denied"[..], b"e30=", b"{}", b"\xff"] {
        assert!(matches!(parse(noise, BOUNDS), Err(AgentError::Malformed { .. })));
    }
}

/// The program that was sent, as text.
fn program(arguments: &Value) -> String {
    assert_eq!(arguments["path"], "powershell.exe");
    assert!(arguments.get("env").is_none(), "Windows' programs need their environment");
    let words: Vec<&str> =
        arguments["arg"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(words[..3], ["-NoProfile", "-NonInteractive", "-EncodedCommand"]);
    assert!(words[3].len() < 30_000, "more than Windows takes: {}", words[3].len());
    let utf16: Vec<u16> = STANDARD
        .decode(words[3])
        .unwrap()
        .chunks(2)
        .map(|pair| u16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    String::from_utf16(&utf16).unwrap()
}

/// A guest that says it is Windows, and whose programs print what `print` makes of them.
fn windows(
    print: impl Fn(&str) -> Vec<u8> + Send + Sync,
) -> Scripted<impl Fn(&str, &Value) -> Answer + Send + Sync> {
    let printed = Mutex::new(Vec::new());
    Scripted::new(move |command, arguments| match command {
        "guest-info" => {
            let commands = ["guest-exec", "guest-exec-status", "guest-get-osinfo", "guest-get-host-name"];
            let list = commands.map(|name| json!({"name": name, "enabled": true}));
            ok(&json!({"version": "100.0.0", "supported_commands": list}))
        }
        "guest-get-osinfo" => ok(&json!({"id": "mswindows", "name": "Microsoft Windows",
            "pretty-name": "Windows Server 2022 Standard", "version": "Microsoft Windows Server 2022",
            "kernel-release": "20348", "machine": "x86_64", "variant": "server"})),
        "guest-get-host-name" => ok(&json!({"host-name": "WIN-1"})),
        "guest-exec" => {
            *printed.lock().unwrap() = print(&program(arguments));
            ok(&json!({"pid": 4000}))
        }
        _ => ok(&exited(&printed.lock().unwrap())),
    })
}

#[tokio::test(start_paused = true)]
async fn a_windows_guest_is_asked_in_powershell() {
    let guest = windows(|program| {
        let inside = program.contains("Win32_Process");
        assert!(inside != program.contains("Win32_Service") && !program.contains("__"), "{program}");
        STANDARD.encode(if inside { INSIDE } else { SERVICES }).into_bytes()
    });
    let mut agent = Agent::new(guest, Limits::default());
    assert_eq!(find(&agent.poll().await.unwrap(), "httpd").threads, 30);
    let system = agent.system().await.unwrap();
    assert_eq!(
        (system.os.as_deref(), system.host_name.as_deref()),
        (Some("Windows Server 2022 Standard"), Some("WIN-1"))
    );
    assert_eq!((system.services[0].name.as_str(), system.services[0].state), ("sshd", ServiceState::Running));
    assert_eq!(
        (system.services[1].state, system.services[1].detail.as_str()),
        (ServiceState::Stopped, "Stopped, Manual")
    );
}

#[tokio::test(start_paused = true)]
async fn priority_classes_are_set_and_real_time_never_is() {
    let guest = windows(|program| {
        assert!(!program.contains("RealTime"), "{program}");
        let list = program.split("@(").nth(1).unwrap().split(')').next().unwrap();
        let mut said = String::new();
        for row in list.split(", ") {
            let words: Vec<&str> = row.trim_matches('\'').split(' ').collect();
            let [pid, start, _, to] = words[..] else { panic!("{row}") };
            let report = match pid {
                "2" => "gone".to_owned(),
                "3" => "drift RealTime".to_owned(),
                "4" => "denied".to_owned(),
                "5" => "now Normal".to_owned(),
                _ => format!("now {to}"),
            };
            said += &format!("{pid} {start} {report}\r\n");
        }
        said.into_bytes()
    });
    let mut agent = Agent::new(guest, Limits::default());
    let change =
        |pid, to| NiceChange { key: ProcessKey { pid, start_ticks: 13_400_000_000_000 }, expect: 0, to };
    let changes = [
        change(1, 5),
        change(2, 5),
        change(3, 5),
        change(4, 5),
        change(5, -10),
        change(6, 7),
        change(7, -20),
    ];
    let results: Vec<_> =
        agent.set_nice(&changes).await.unwrap().into_iter().map(|outcome| outcome.result).collect();
    assert_eq!(results[..3], [NiceResult::Applied, NiceResult::Gone, NiceResult::Drift { now: -20 }]);
    assert!(results[3..].iter().all(|result| matches!(result, NiceResult::Failed(_))), "{results:?}");
    // As many programs as it takes.
    let many: Vec<_> = (10..210).map(|pid| change(pid, 10)).collect();
    let outcomes = agent.set_nice(&many).await.unwrap();
    assert!(outcomes.iter().all(|outcome| outcome.result == NiceResult::Applied), "{outcomes:?}");
}
