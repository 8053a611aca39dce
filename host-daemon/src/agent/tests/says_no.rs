//! Agents that permit less than all: what is left is read, what is not is said.

use super::*;
use crate::agent::{Agent, AgentError, Limits};

/// `guest-info` of an agent that permits these commands and has the others switched off.
fn permitting(commands: &[&str]) -> Value {
    let list = crate::agent::abilities::COMMANDS
        .map(|name| json!({"name": name, "enabled": commands.contains(&name)}));
    json!({"version": "9.0.0", "supported_commands": list})
}

fn stats() -> Value {
    let cpu = |user, idle| {
        json!({"type": "linux", "cpu": 0, "user": user, "nice": 0, "system": 500, "idle": idle,
        "iowait": 0, "irq": 0, "softirq": 100, "steal": 400, "guest": 0, "guestnice": 0})
    };
    json!([cpu(1000, 8000), cpu(2000, 6990)])
}

#[tokio::test(start_paused = true)]
async fn load_and_cpu_time_are_left_where_programs_are_forbidden() {
    let allowed = ["guest-get-load", "guest-get-cpustats", "guest-get-vcpus", "guest-get-osinfo"];
    let guest = Scripted::new(move |command, _| match command {
        "guest-info" => ok(&permitting(&allowed)),
        "guest-fsfreeze-status" => ok(&json!("thawed")),
        "guest-get-osinfo" => ok(&json!({"id": "rhel", "pretty-name": "RHEL"})),
        "guest-get-load" => ok(&json!({"load1m": 2.5, "load5m": 1.0, "load15m": 0.0})),
        "guest-get-cpustats" => ok(&stats()),
        "guest-get-vcpus" => {
            ok(&json!([{"logical-id": 0, "online": true}, {"logical-id": 1, "online": false}]))
        }
        other => panic!("{other} is switched off and was sent"),
    });
    let mut agent = Agent::new(guest, Limits::default());
    let sample = agent.poll().await.unwrap();
    assert_eq!((sample.load1, sample.vcpus_online), (Some(2.5), Some(1)));
    assert_eq!((sample.busy_ticks, sample.steal_ticks), (Some(2000 + 3000), Some(800)));
    assert_eq!((sample.uptime_cs, sample.ticks_per_second), (1000, 1000));
    assert!(sample.unread.unwrap().contains("guest-exec is switched off"));
    // Whoever needs the processes gets an error, not an empty list.
    assert_eq!(agent.inventory().await.unwrap_err(), AgentError::Forbidden("guest-exec"));
    let system = agent.system().await.unwrap();
    assert_eq!(system.os.as_deref(), Some("RHEL"));
    assert!(system.missing.iter().any(|missing| missing.contains("services")), "{:?}", system.missing);
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_anything_is_no_guest_without_processes() {
    let guest = Scripted::new(|command, _| match command {
        "guest-info" => ok(&permitting(&[])),
        _ => ok(&json!("thawed")),
    });
    assert_eq!(
        Agent::new(guest, Limits::default()).poll().await.unwrap_err(),
        AgentError::Forbidden("guest-exec")
    );
}

#[tokio::test(start_paused = true)]
async fn what_fails_by_itself_is_left_out_and_what_hangs_is_not_waited_for() {
    let guest = |load: Answer| {
        Scripted::new(move |command, _| match command {
            "guest-info" => ok(&permitting(&["guest-get-load", "guest-get-cpustats"])),
            "guest-get-load" => load.clone(),
            "guest-get-cpustats" => ok(&stats()),
            _ => ok(&json!("thawed")),
        })
    };
    let broken = guest(Ok(r#"{"return": {"load1m": "much"}}"#.to_owned()));
    let sample = Agent::new(broken, Limits::default()).poll().await.unwrap();
    assert_eq!((sample.load1, sample.vcpus_online), (None, Some(2)));
    let hanging =
        Agent::new(guest(Err(TransportError::TimedOut)), Limits::default()).poll().await.unwrap_err();
    assert!(matches!(hanging, AgentError::TimedOut { what: "guest-get-load", .. }), "{hanging}");
}

#[tokio::test(start_paused = true)]
async fn a_failing_shell_leaves_the_load() {
    let guest = Scripted::new(|command, _| match command {
        "guest-info" => ok(&permitting(&["guest-exec", "guest-exec-status", "guest-get-load"])),
        "guest-exec" => Err(TransportError::Refused("Failed to execute child process /bin/sh".to_owned())),
        "guest-get-load" => ok(&json!({"load1m": 0.5})),
        _ => ok(&json!("thawed")),
    });
    let sample = Agent::new(guest, Limits::default()).poll().await.unwrap();
    assert!(sample.load1 == Some(0.5) && sample.unread.unwrap().contains("guest-exec refused"));
}
