//! A daemon that was recorded and a replay of the recording decide the same.

use kvmpilot_core::sample::{DomainSample, FlowsSample, GuestSample};

use super::*;

/// A running domain without anything in it.
pub(crate) fn domain() -> DomainSample {
    let json = r#"{"uuid":"00000000-0000-0000-0000-000000000001","name":"web","state":"running","accel":"kvm",
        "vcpus":[],"memory_maximum_kib":1048576,"job_active":false,"interfaces":[],"threads":[]}"#;
    serde_json::from_str(json).unwrap()
}

/// Second from which `web` waits: after the beginning of the recording, so that what it is helped by is in it.
const WAITS_FROM: u64 = 8;

/// The host after `s` seconds: `web` answers requests and comes to wait for its CPU, `batch` burns in silence.
fn sample(s: u64, web_shares: u64) -> Sample {
    let thread = |tid: u32, run: u64, wait: u64| {
        let json = format!(
            r#"{{"tid":{tid},"tgid":{tid},"start_ticks":5,"role":{{"vcpu":0}},"comm":"CPU 0/KVM","source":"schedstat",
                "on_cpu_ns":{},"runq_wait_ns":{}}}"#,
            run * s * 10_000_000,
            wait * s.saturating_sub(WAITS_FROM) * 10_000_000
        );
        serde_json::from_str(&json).unwrap()
    };
    let of = |id: u128, name: &str, shares: u64, packets: u64, run: u64, wait: u64| {
        let interface = format!(
            r#"{{"device":"tap{id}","received_bytes":{0},"sent_bytes":{0},"received_packets":{0},"sent_packets":{0}}}"#,
            packets * s
        );
        let pid = u32::try_from(id).unwrap();
        DomainSample {
            uuid: Uuid::from_u128(id),
            name: name.to_owned(),
            qemu_pid: Some(pid),
            cpu_shares: Some(shares),
            vcpus: vec![serde_json::from_str(r#"{"number":0,"pin":null}"#).unwrap()],
            threads: vec![thread(pid, run, wait)],
            interfaces: vec![serde_json::from_str(&interface).unwrap()],
            ..domain()
        }
    };
    let domains = vec![of(1, "web", web_shares, 500, 30, 60), of(2, "batch", 1024, 0, 70, 30)];
    Sample { domains, ..Sample::default() }
}

fn proposals(decided: &Decided) -> Vec<Proposal> {
    let Decided { release, arrival, tick, cycle } = decided;
    let decisions = [release, arrival, tick, cycle].into_iter().flatten().map(|(_, decision)| decision);
    decisions.flat_map(|decision| decision.proposals.clone()).collect()
}

/// Runs a daemon for a minute, recorded from the 7th second on; returns the lines and what was proposed since.
fn recorded() -> (Vec<String>, Vec<Vec<Proposal>>) {
    let mut policy = Policy::default();
    policy.periods.cycle = Duration::from_secs(20);
    let (mut state, mut lines, mut wanted) = (State::default(), Vec::new(), Vec::new());
    let (mut events, mut shares) = (Vec::new(), 1024);
    for s in 0..60 {
        if s == 7 {
            let header = Header {
                format: FORMAT,
                version: "0.1.0".to_owned(),
                host: "h".to_owned(),
                kernel: "k".to_owned(),
                at: Duration::from_secs(s),
                started_unix_ms: 1,
                policy: policy.clone(),
                state: state.clone(),
            };
            lines.push(serde_json::to_string(&Line::Header(Box::new(header))).unwrap());
        }
        let sample = Arc::new(sample(s, shares));
        let at = Duration::from_secs(s);
        let moment = Moment { now: at, wall_unix_s: s };
        let State { history, windows, insides } = &mut state;
        let due = windows.due(at, &policy);
        let add = |model, to_decide| insides.add(model, &policy, to_decide);
        let turn = windows.decide(&sample, due, moment, &policy, history, add);
        let line = Recorded { at, unix_s: s, events: std::mem::take(&mut events), sample, due };
        // In mode `auto` it would be carried out.
        for proposal in proposals(&turn) {
            state.history.applied(s, &proposal, at);
            if let kvmpilot_core::order::Action::SetCpuShares { to, .. } = proposal.action
                && proposal.domain_name == "web"
            {
                shares = to;
            }
            events.push(Event::Applied { order: s, proposal: Box::new(proposal), at });
        }
        if s >= 7 {
            lines.push(serde_json::to_string(&Line::Turn(Box::new(line))).unwrap());
            wanted.push(proposals(&turn));
        }
    }
    (lines, wanted)
}

fn replayed(lines: &[String], policy: Option<&Policy>) -> Vec<Vec<Proposal>> {
    let mut lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    let Some(Line::Header(header)) = lines.next() else { panic!("no header") };
    let (mut state, mut recorded_policy) = (header.state, header.policy);
    let fixed = policy.is_some();
    if let Some(policy) = policy {
        recorded_policy.clone_from(policy);
    }
    lines
        .map(|line| match line {
            Line::Turn(turn) => proposals(&state.turn(&turn, &mut recorded_policy, fixed)),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn a_replay_decides_what_the_daemon_decided() {
    let (lines, wanted) = recorded();
    assert!(wanted.iter().flatten().any(|proposal| proposal.domain_name == "web"), "{wanted:?}");
    assert_eq!(replayed(&lines, None), wanted);
    assert_eq!(replayed(&lines, None), replayed(&lines, None));
}

#[test]
fn another_policy_decides_otherwise() {
    let (lines, wanted) = recorded();
    let mut policy = Policy::default();
    // It waits for 67 % of its time and may.
    policy.weight.latency_target = 0.9;
    policy.weight.standard_target = 0.9;
    let other = replayed(&lines, Some(&policy));
    assert_ne!(other, wanted);
    // What the daemon had set before goes back, or is undone because it has not helped.
    let back =
        |proposal: &Proposal| ["weight.relax", "trial.rollback"].contains(&proposal.reason.rule.as_str());
    assert!(other.iter().flatten().all(back), "{other:?}");
}

#[test]
fn polls_and_changes_under_way_become_events_and_are_made_again() {
    let uuid = Uuid::from_u128(9);
    let reading = |s| {
        let at = Duration::from_secs(s);
        Some(Arc::new(GuestReading { at, host_cpu_ns: None, sample: GuestSample::default() }))
    };
    let before = Insides::default();
    let mut after = Insides { busy: [uuid].into(), ..Insides::default() };
    after.readings.insert(uuid, Readings { previous: None, latest: reading(3) });
    let flows =
        |s| Some(Arc::new(FlowReading { at: Duration::from_secs(s), sample: FlowsSample::default() }));
    after.flows.insert(uuid, FlowReadings { previous: None, latest: flows(2) });
    let mut state = State::default();
    let mut policy = Policy::default();
    for event in changes(&before, &after) {
        state.event(&event, &mut policy, false);
    }
    assert_eq!(state.insides, after);
    let mut later = Insides { levelled: [(uuid, Duration::from_secs(4))].into(), ..Insides::default() };
    later.readings.insert(uuid, Readings { previous: reading(3), latest: reading(8) });
    later.flows.insert(uuid, FlowReadings { previous: flows(2), latest: flows(7) });
    for event in changes(&after, &later) {
        state.event(&event, &mut policy, false);
    }
    assert_eq!(state.insides, later);
    for event in changes(&later, &Insides::default()) {
        state.event(&event, &mut policy, false);
    }
    assert_eq!(state.insides, Insides::default());
    assert_eq!(changes(&after, &after), []);
}

fn view(text: &str, policy: Option<Policy>) -> Result<crate::api::views::ReplayView, String> {
    replay(text.as_bytes(), std::path::Path::new("dir/a.rec"), policy).map_err(|error| error.to_string())
}

#[test]
fn a_file_becomes_a_plan() {
    let (lines, wanted) = recorded();
    let text = lines.join("\n") + "\n{\"kind\":\"end\",\"reason\":\"time\"}\n";
    let plan = view(&text, None).unwrap();
    let proposals = plan.plan.iter().filter(|planned| planned.held.is_none());
    let proposals: Vec<Proposal> = proposals.map(|planned| planned.proposal.clone()).collect();
    assert_eq!(proposals, wanted.concat());
    assert_eq!((plan.turns, plan.complete, plan.other_configuration), (53, true, false));
    assert_eq!((plan.ticks, plan.cycles, plan.length_s), (10, 2, 52.0));
    assert!(!plan.applied.is_empty());
    assert_eq!(view(&text, None).unwrap(), plan, "the same again");
    let other = view(&text, Some(Policy::default())).unwrap();
    assert_eq!((other.cycles, other.other_configuration), (0, true));
}

#[test]
fn a_bad_file_is_told_with_its_line() {
    let (lines, _) = recorded();
    let whole = lines.join("\n") + "\n";
    let (header, first, second) = (&lines[0], &lines[1], &lines[2]);
    for (text, expected) in [
        (String::new(), "dir/a.rec:1: the file is empty"),
        ("#!/bin/sh\n".to_owned(), "dir/a.rec:1: not a recording"),
        (
            format!("{first}\n"),
            "dir/a.rec:1: not a recording, which begins with a header: this is a line of kind turn",
        ),
        (header.replace("\"format\":1", "\"format\":2"), "dir/a.rec:1: the recording's format is 2"),
        (
            header.replace("\"policy\"", "\"police\""),
            "dir/a.rec:1: the header is damaged: missing field `policy`",
        ),
        (
            format!("{header}\n{first}\n{{\"kind\":\"turn\"}}\n"),
            "dir/a.rec:3: not a line of a recording: missing",
        ),
        (format!("{header}\n{header}\n"), "dir/a.rec:2: a second header"),
        (format!("{header}\n{second}\n{first}\n"), "dir/a.rec:3: is older than the line before it"),
        (
            format!("{whole}{{\"kind\":\"end\",\"reason\":\"time\"}}\n{first}\n"),
            "dir/a.rec:56: follows the end",
        ),
    ] {
        let error = view(&text, None).unwrap_err();
        assert!(error.starts_with(expected), "{expected}: {error}");
    }
    let not_text = [header.as_bytes(), b"\n\xff\xfe\n"].concat();
    let error = replay(&not_text[..], std::path::Path::new("a"), None).unwrap_err().to_string();
    assert!(error.starts_with("a:2: cannot be read"), "{error}");
}

#[test]
fn what_a_crash_left_is_replayed_as_far_as_it_goes() {
    let (lines, _) = recorded();
    let whole = lines.join("\n") + "\n";
    let killed = view(&whole, None).unwrap();
    assert_eq!((killed.turns, killed.complete), (53, false));
    let cut = view(&whole[..whole.len() - 40], None).unwrap();
    assert_eq!((cut.turns, cut.complete), (52, false));
    assert!(cut.notes[0].contains("line 54 is cut off"), "{:?}", cut.notes);
}
