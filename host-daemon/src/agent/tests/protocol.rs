//! What can go wrong between us and an agent.

use super::*;
use crate::agent::{Agent, AgentError, Limits};

async fn run(answer: impl Fn(&str, &Value) -> Answer + Send + Sync) -> Result<String, AgentError> {
    let mut agent = Agent::new(Scripted::new(answer), Limits::default());
    agent.exec("true", &[], &[]).await.map(|output| String::from_utf8(output.stdout).unwrap())
}

/// A guest that gets as far as `guest-exec-status`, which answers so.
async fn status(answer: Answer) -> Result<String, AgentError> {
    run(move |command, _| match command {
        "guest-info" => ok(&info()),
        "guest-exec" => ok(&json!({"pid": 77})),
        _ => answer.clone(),
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn waits_for_the_end_of_the_program() {
    let polls = Mutex::new(0);
    let answer = |command: &str, arguments: &Value| match command {
        "guest-info" => ok(&info()),
        "guest-exec" => {
            assert_eq!(arguments["path"], "/bin/sh");
            assert_eq!(arguments["capture-output"], true);
            ok(&json!({"pid": 77}))
        }
        _ => {
            assert_eq!(arguments["pid"], 77);
            let mut polls = polls.lock().unwrap();
            *polls += 1;
            if *polls < 4 { ok(&json!({"exited": false})) } else { ok(&exited(b"done")) }
        }
    };
    let mut agent = Agent::new(Scripted::new(answer), Limits::default());
    assert_eq!(agent.exec("true", &[], &[]).await.unwrap().stdout, b"done");
    // The second run does not ask for capabilities again.
    agent.exec("true", &[], &[]).await.unwrap();
    let asked = agent.transport.asked.into_inner().unwrap();
    assert_eq!(asked.iter().filter(|command| *command == "guest-info").count(), 1);
    assert_eq!(asked.iter().filter(|command| *command == "guest-exec-status").count(), 5);
}

#[tokio::test]
async fn frozen_file_systems_are_not_taken_for_an_administrators_will() {
    let frozen_info = json!({"version": "10.0.2", "supported_commands": [
        {"name": "guest-exec", "enabled": false, "success-response": true}]});
    for (info, status, frozen) in [
        (frozen_info.clone(), json!("frozen"), true),
        (frozen_info, json!("thawed"), false),
        // It froze after it was asked what it permits.
        (info(), json!("frozen"), true),
        (info(), json!({"lies": []}), false),
    ] {
        let answer = |command: &str, _: &Value| match command {
            "guest-info" => ok(&info),
            "guest-fsfreeze-status" => ok(&status),
            _ => Err(TransportError::Refused("Command guest-exec has been disabled".to_owned())),
        };
        let error = run(answer).await.unwrap_err();
        assert_eq!(error == AgentError::Frozen, frozen, "{error}");
    }
}

fn asked<F>(agent: &Agent<Scripted<F>>, name: &str) -> usize {
    agent.transport.asked.lock().unwrap().iter().filter(|asked| *asked == name).count()
}

#[tokio::test(start_paused = true)]
async fn a_program_that_does_not_end_is_collected_before_the_next() {
    let ended = Mutex::new(false);
    let answer = |command: &str, _: &Value| match command {
        "guest-info" => ok(&info()),
        "guest-exec" => ok(&json!({"pid": 77})),
        _ if *ended.lock().unwrap() => ok(&exited(b"")),
        _ => ok(&json!({"exited": false})),
    };
    let mut agent = Agent::new(Scripted::new(answer), Limits::default());
    let begin = tokio::time::Instant::now();
    let late = agent.exec("sleep", &[], &[]).await.unwrap_err();
    assert!(matches!(late, AgentError::TimedOut { what: "the program", .. }), "{late}");
    assert!(begin.elapsed() <= Limits::default().total, "{:?}", begin.elapsed());
    let polls = asked(&agent, "guest-exec-status");
    assert!(polls < 20, "{polls} polls");
    let again = agent.exec("sleep", &[], &[]).await.unwrap_err();
    assert!(matches!(again, AgentError::TimedOut { what: "the program of an earlier poll", .. }), "{again}");
    assert_eq!(asked(&agent, "guest-exec"), 1, "a second program was started beside the hanging one");
    assert!(asked(&agent, "guest-exec-status") < 2 * polls, "{polls} polls, and then more");
    // It ends while the next one waits for it.
    let end = async {
        tokio::time::sleep(Limits::default().total / 4).await;
        *ended.lock().unwrap() = true;
    };
    let (next, ()) = tokio::join!(agent.exec("true", &[], &[]), end);
    next.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_hangs_is_given_up() {
    struct Hanging;
    impl Transport for Hanging {
        async fn command(&self, _: &str, _: Duration) -> Answer {
            std::future::pending().await
        }
    }
    let error = Agent::new(Hanging, Limits::default()).exec("true", &[], &[]).await.unwrap_err();
    assert!(matches!(error, AgentError::TimedOut { what: "guest-info", .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn transport_errors_keep_their_class() {
    let absent = run(|_, _| Err(TransportError::NotConnected("no channel".to_owned()))).await.unwrap_err();
    assert_eq!(absent, AgentError::NotConnected("no channel".to_owned()));
    let late = status(Err(TransportError::TimedOut)).await.unwrap_err();
    assert!(matches!(late, AgentError::TimedOut { what: "guest-exec-status", .. }), "{late}");
    let refused =
        status(Err(TransportError::Refused("PID 77 does not exist\x1b[2J".to_owned()))).await.unwrap_err();
    let message = "PID 77 does not exist\u{fffd}[2J".to_owned();
    assert_eq!(refused, AgentError::Refused { command: "guest-exec-status", message });
}

#[tokio::test(start_paused = true)]
async fn guest_exec_may_be_forbidden() {
    let off = json!({"supported_commands": [{"name": "guest-exec", "enabled": false}]});
    let none = json!({"supported_commands": []});
    for info in [off, none] {
        let answer = move |command: &str, _: &Value| {
            assert_ne!(command, "guest-exec", "asked for what is switched off");
            if command == "guest-info" { ok(&info) } else { ok(&json!("thawed")) }
        };
        assert_eq!(run(answer).await.unwrap_err(), AgentError::Forbidden("guest-exec"));
    }
    let frozen = |command: &str, _: &Value| match command {
        "guest-info" => ok(&info()),
        _ => Err(TransportError::Refused("Command guest-exec has been disabled".to_owned())),
    };
    assert_eq!(run(frozen).await.unwrap_err(), AgentError::Forbidden("guest-exec"));
}

#[tokio::test(start_paused = true)]
async fn bad_replies_have_classes() {
    let cut = status(Ok(r#"{"return": {"exited": tr"#.to_owned())).await.unwrap_err();
    assert_eq!(cut, AgentError::Truncated);
    let cut = status(ok(&json!({"exited": true, "exitcode": 0, "out-truncated": true}))).await.unwrap_err();
    assert_eq!(cut, AgentError::Truncated);

    let nested = format!("{{\"return\": {}", "[".repeat(100_000));
    let wrong = [
        "not json".to_owned(),
        nested,
        json!({}).to_string(),
        json!({"return": {"exited": "perhaps"}}).to_string(),
        json!({"return": {"exited": true, "exitcode": 0, "out-data": "%%%"}}).to_string(),
    ];
    for reply in wrong {
        let error = status(Ok(reply)).await.unwrap_err();
        assert!(matches!(error, AgentError::Malformed { .. }), "{error:?}");
        assert!(error.to_string().len() < 500, "{error}");
    }

    let huge = " ".repeat(8 << 20);
    assert!(matches!(status(Ok(huge)).await, Err(AgentError::Oversized { .. })));
    let huge = vec![b'x'; (2 << 20) + 1];
    assert!(matches!(status(ok(&exited(&huge))).await, Err(AgentError::Oversized { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_failed_program_says_why() {
    let said = STANDARD.encode("sh: grep: not found\nsh: ls: not found\n");
    let failed = status(ok(&json!({"exited": true, "exitcode": 127, "err-data": said}))).await.unwrap_err();
    let message = "exit code 127: sh: grep: not found\u{fffd}sh: ls: not found".to_owned();
    assert_eq!(failed, AgentError::ExitStatus { code: Some(127), signal: None, message });
    let killed = status(ok(&json!({"exited": true, "signal": 9}))).await.unwrap_err();
    let message = "signal 9".to_owned();
    assert_eq!(killed, AgentError::ExitStatus { code: None, signal: Some(9), message });
}
