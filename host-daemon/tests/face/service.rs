//! Services on the command line: lists, one with its history, and files that are written.

use kvmpilot_core::service::{ServiceState, Transition};

use crate::server::{Face, stderr};

#[test]
fn services_are_listed_and_one_is_shown_with_its_history() {
    let face = Face::start();
    let list = face.prints(&["services"]);
    assert!(
        list.contains("shop") && list.contains("degraded") && list.contains("2/2") && list.contains("0/1"),
        "{list}"
    );
    face.store
        .record_transitions(vec![Transition {
            service: "shop".into(),
            unix_ms: 1_795_500_000_000,
            from: ServiceState::Unknown,
            to: ServiceState::Healthy,
            reasons: Vec::new(),
        }])
        .unwrap();
    let one = face.prints(&["services", "shop"]);
    for word in
        ["gets no answer", "TCP 7000", "CONNECTIONS", "/etc/app.conf", "changed", "TRANSITIONS", "2026-11-24"]
    {
        assert!(one.contains(word), "no {word} in {one}");
    }
    let none = face.kvmpilot(&["services", "shup"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(
        stderr(&none).contains("there is no service \"shup\"; `kvmpilot services` lists them"),
        "{}",
        stderr(&none)
    );
    let domain = face.prints(&["domain", "web"]);
    assert!(domain.contains("NORMAL") && domain.contains("unusual since 2026-11-25"), "{domain}");
}

#[test]
fn a_learned_service_is_written_once_unless_forced() {
    let face = Face::start();
    let learn = ["service", "learn", "mine", "--from", "web"];
    assert!(face.prints(&learn).starts_with("[[service]]\n"));
    let path = face.directory.path().join("mine.toml");
    let path = path.to_str().unwrap();
    let to_file = [&learn[..], &["--output", path]].concat();
    let written = face.kvmpilot(&to_file);
    assert!(String::from_utf8_lossy(&written.stdout).contains("1 components and 0 connections"));
    assert!(stderr(&written).contains("db: its agent has told nothing"), "{}", stderr(&written));
    std::fs::write(path, "kept").unwrap();
    let refused = face.kvmpilot(&to_file);
    assert_eq!((refused.status.code(), std::fs::read_to_string(path).unwrap().as_str()), (Some(1), "kept"));
    assert!(stderr(&refused).contains("--force writes over it"), "{}", stderr(&refused));
    assert!(face.kvmpilot(&[&to_file[..], &["--force"]].concat()).status.success());
    assert!(std::fs::read_to_string(path).unwrap().contains("[[service.component]]"));
    let missing = face.kvmpilot(&["service", "learn", "mine", "--from", "web", "nowhere"]);
    assert!(stderr(&missing).contains("there is no domain \"nowhere\""), "{}", stderr(&missing));
    assert_eq!(face.kvmpilot(&["service", "learn", "mine"]).status.code(), Some(2));
}

#[test]
fn the_template_is_a_service_that_is_understood() {
    let face = Face::start();
    let text = face.prints(&["service", "template"]);
    let directory = face.directory.path().join("services.d");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("a.toml"), &text).unwrap();
    let sum = "0".repeat(64);
    let all = text.replace("sha256 = \"...\"", &format!("sha256 = \"{sum}\""));
    let uncommented: String = all
        .lines()
        .map(|line| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n"
        })
        .collect();
    std::fs::write(directory.join("b.toml"), uncommented.replace("\"NAME\"", "\"other\"")).unwrap();
    let main = face.directory.path().join("kvmpilot.toml");
    std::fs::write(&main, "").unwrap();
    let config = kvmpilot::config::load(Some(&main)).unwrap();
    let [plain, full] = config.policy.services.as_slice() else { panic!("{:?}", config.policy.services) };
    assert_eq!((plain.components.len(), plain.connections.len(), plain.files.len()), (2, 1, 0));
    assert_eq!(full.files[0].sha256.as_deref(), Some(sum.as_str()));
    assert!(full.source.ends_with("b.toml:5"), "{}", full.source);
}
