//! Conditions and rule files: what is accepted, what is refused and how that is said.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::fields::Datum;
use super::*;

/// Fields with the values given, and unknown ones.
struct Known(&'static [(&'static str, f64)]);

impl condition::Subject for Known {
    fn read(&self, field: &'static Field) -> Datum<'_> {
        match (self.0.iter().find(|(path, _)| *path == field.path), field.kind) {
            (Some((_, number)), Kind::Number) => Datum::Number(*number),
            (Some((_, number)), Kind::Truth) => Datum::Truth(*number > 0.0),
            (Some(_), Kind::Text) => Datum::Text("web-1".into()),
            (Some((_, wait)), Kind::Records(_)) => {
                Datum::Records(vec![vec![("wait", Some(*wait))], vec![("wait", None)]])
            }
            (None, _) => Datum::Unknown,
        }
    }
}

const SUBJECT: Known = Known(&[
    ("domain.cpu.use", 0.5),
    ("domain.name", 0.0),
    ("domain.job_active", 0.0),
    ("domain.vcpus", 0.25),
    ("vcpu.count", 2.0),
]);

fn ask(text: &str) -> Outcome {
    Condition::new(text).unwrap_or_else(|wrong| panic!("{text}: {wrong:?}")).ask(&SUBJECT)
}

fn wrong(text: &str) -> (usize, String, String) {
    let Err(wrong) = Condition::new(text) else { panic!("{text} is accepted") };
    (wrong[0].span.start, wrong[0].message.clone(), wrong[0].help.clone())
}

#[test]
fn the_shipped_file_is_fine() {
    let entries = read(SHIPPED, SHIPPED_NAME).unwrap();
    assert_eq!(entries.len(), RuleSet::default().iter().count());
    for (_, _, _, name) in Means::ALL.iter().filter(|(.., name)| !name.starts_with("order.")) {
        // What is safe needs no rule.
        assert_eq!(RuleSet::default().get(name).is_some(), *name != "balloon.release", "{name}");
    }
}

#[test]
fn numbers_are_doubles_with_or_without_a_point() {
    for yes in [
        "domain.cpu.use * 2 == 1",
        "domain.cpu.use + vcpu.count > 2",
        "(1 + 1) / 4 == domain.cpu.use",
        "domain.name.like('web-*') && domain.name.startsWith('web')",
        "domain.name in ['web-1', 'web-2']",
        "!domain.job_active",
        "domain.vcpus.exists(v, v.wait > 0.2)",
        "size(domain.vcpus) == 2",
        "has(domain.cpu.use) && !has(domain.guest.load1)",
        "domain.guest.load1 == null",
        "domain.cpu.use > 0.4 ? true : false",
    ] {
        assert_eq!(ask(yes), Outcome::Holds, "{yes}");
    }
    assert_eq!(ask("domain.name.like('db-*')"), Outcome::Not);
}

#[test]
fn what_is_not_known_says_nothing_unless_it_does_not_matter() {
    assert_eq!(ask("domain.guest.load1 > 2"), Outcome::Unknown("domain.guest.load1"));
    assert_eq!(ask("domain.guest.load1 > 2 || domain.cpu.use > 0.1"), Outcome::Holds);
    assert_eq!(ask("domain.guest.load1 > 2 && domain.cpu.use > 0.9"), Outcome::Not);
    assert_eq!(ask("domain.vcpus.all(v, v.wait > 0.2)"), Outcome::Unknown("domain.vcpus"));
    let Outcome::Failed(why) = ask("domain.vcpus[7].wait > 0.1") else {
        panic!("an index too far is no failure")
    };
    assert!(why.contains("index out of bounds"), "{why}");
}

#[test]
fn a_mistake_is_named_with_its_place_and_what_was_meant() {
    for (text, at, message, help) in [
        ("domain.cpu.us > 1", 0, "there is no field domain.cpu.us", "did you mean domain.cpu.use?"),
        ("true && domian.name == 'x'", 8, "there is no variable domian", "did you mean domain.name?"),
        ("domain.cpu > 1", 0, "domain.cpu is a group of fields", "domain.cpu.use, "),
        ("'é' == domain.name && domain.name.x == 'a'", 23, "domain.name has no parts", "it is text"),
        ("domain.cpu.use", 0, "the condition gives a float and no yes or no", "compare it"),
        ("true || domain.cpu.use", 8, "this is a float and no yes or no", "compare it"),
        ("domain.name > 1", 12, "no matching overload", "one type"),
        ("false && domain.name + 1 == 'a'", 21, "unsupported binary operator", "one type"),
        ("domain.vcpus.exists(v, v.wiat > 0.5)", 23, "there is no field wiat", "did you mean wait?"),
        ("domain.vcpus.exists(v, domain.vcpus.exists(w, true))", 42, "too long", "inside each other"),
        ("domain.vcpus.exists(host, host.wait > 0.5)", 19, "host is a variable already", "like v"),
        ("domain.name.startWith('a')", 21, "there is no function startWith", "did you mean startsWith?"),
        ("domain.name == 'x", 15, "token recognition error", "valid CEL"),
        ("domain.cpu.use >", 16, "the end", "valid CEL"),
        ("{'a': 1}.a == 1", 0, "no use for maps", "compare"),
        ("", 0, "the end", "valid CEL"),
    ] {
        let (found_at, found, advice) = wrong(text);
        assert!(found.contains(message) && advice.contains(help), "{text}: {found}; {advice}");
        assert_eq!(found_at, at, "{text}: {found}");
    }
}

#[test]
fn size_and_depth_are_bounded() {
    let long = format!("domain.cpu.use > 1{}", " || true".repeat(200));
    assert!(wrong(&long).1.contains("too long"));
    assert!(wrong(&format!("{}true{}", "(".repeat(9), ")".repeat(9))).1.contains("nested too deeply"));
    assert!(wrong(&format!("1{} > 1", "+1".repeat(400))).1.contains("nested too deeply"));
    assert!(Condition::new(&format!("{}true{}", "(".repeat(8), ")".repeat(8))).is_ok());
    assert!(Condition::new(&vec!["domain.cpu.use > 1"; 40].join(" || ")).is_ok());
}

#[test]
fn a_file_is_judged_as_a_whole() {
    let fine = "[[rule]]\nname = 'a'\nwhen = \"process.nice > 0\"\nthen = { finding = { name = 'n', summary = 's' } }\n\
                [[rule]]\nname = 'b'\npriority = 5\nwhen = 'true'\nthen = { veto = 'all' }\n\
                [[rule]]\nname = 'c'\nenabled = false\n";
    let entries = read(fine, "f").unwrap();
    let scopes: Vec<_> = entries.iter().map(|entry| entry.rule.as_ref().map(|rule| rule.on)).collect();
    assert_eq!(scopes, [Some(Scope::Process), Some(Scope::Domain), None]);
    let rule = |rest: &str| format!("[[rule]]\nname = 'a'\n{rest}");
    for (text, message, help) in [
        (rule("when = 'true'\nthen = { rise = 'process' }"), "a rule cannot rise", "did you mean raise?"),
        (rule("when = 'true'\nthen = { weight = 'up' }"), "weight cannot do this", "\"protect\" or"),
        (rule("when = 'true'\nthen = { class = 'slow' }"), "\"slow\" is not a choice", "\"batch\""),
        (rule("when = 'true'\nthen = { veto = 'disk' }"), "\"disk\" is not a choice", "or \"all\""),
        (
            rule("when = 'true'\nthen = { weight = 'protect', cpuset = 'release' }"),
            "one thing",
            "a rule for each",
        ),
        (rule("when = 'process.nice > 0'\nthen = { weight = 'protect' }"), "about a domain", "domain.*"),
        (
            rule("on = 'domain'\nwhen = 'true'\nthen = { raise = 'process' }"),
            "about a process",
            "on = \"process\"",
        ),
        (rule("on = 'process'\nwhen = 'true'\nthen = { veto = 'weight' }"), "only the ladder", "veto"),
        (rule("then = { weight = 'protect' }"), "has no when", "enabled = false"),
        (rule("when = 'true'"), "has no then", "then = {"),
        (
            rule("when = 'true'\nthen = { weight = 'protect' }\npriorty = 1"),
            "no priorty",
            "did you mean priority?",
        ),
        (rule("when = 'true'\nthen = { weight = 'protect' }\npriority = 1.5"), "whole number", "default"),
        (rule("when = 1\nthen = { weight = 'protect' }"), "when wants text", "quotes"),
        ("[[rule]]\nwhen = 'true'".to_owned(), "no name", "name ="),
        ("[[rule]]\nname = 'a b'".to_owned(), "no name of a rule", "letters"),
        ("rule = 1".to_owned(), "several rules", "[[rule]]"),
        ("[rules]\nx = 1".to_owned(), "there is no rules", "[[rule]]"),
        ("[[rule]\n".to_owned(), "", "valid TOML"),
    ] {
        let faults = read(&text, "f").expect_err(&text);
        let found = &faults[0];
        assert!(found.message.contains(message) && found.help.contains(help), "{text}: {found:?}");
    }
}

#[test]
fn rules_survive_a_recording() {
    let rules = RuleSet::default();
    let text = serde_json::to_string(&rules).unwrap();
    assert_eq!(serde_json::from_str::<RuleSet>(&text).unwrap(), rules);
    let broken = text.replacen("policy.high", "policy.hihg", 1);
    assert!(serde_json::from_str::<RuleSet>(&broken).unwrap_err().to_string().contains("ladder.scarce"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Garbage out of CEL's own pieces gets further than any other.
    #[test]
    fn garbage_neither_panics_nor_takes_long(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "domain.cpu.use", "domain.vcpus", ".exists(v, v.wait > 1)", "(", ")", "[", "]", "{", "}", "!", "-", "+", "%",
            "&&", "||", " in ", "?", ":", "'x'", "\"", "\\", "1", "1u", "0.5", "null", "true", "size(", "é", ".", ",",
            "\n", "has(", "domain", "process.name", "@result", "9223372036854775808", "b'a'", "//", "1e999", "dyn(",
        ]), 0..120),
        noise in "\\PC{0,40}",
    ) {
        let began = Instant::now();
        for text in [pieces.concat(), format!("{}{noise}", pieces.concat()), noise.clone()] {
            if let Ok(condition) = Condition::new(&text) {
                let _ = condition.ask(&SUBJECT);
            }
            let quoted = format!("[[rule]]\nname = 'a'\nwhen = {text:?}\nthen = {{ {noise} }}");
            let _ = read(&quoted, "f");
            let _ = read(&text, "f");
        }
        // Four parses of at most 1000 bytes in a debug build on a busy machine.
        prop_assert!(began.elapsed() < Duration::from_secs(5), "{:?} for {pieces:?}", began.elapsed());
    }
}
