//! What the metrics are held to: the conventions, both formats, their number, their documents, and what Prometheus and Grafana ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::*;
use crate::api::views::{DomainDetailView, DomainStealView, StealView};

/// One of the documented examples.
pub(crate) fn example<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/examples/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// A host with so many domains of 2 vcpus, of which everything is known.
pub(crate) fn host_with(domains: u128) -> Views {
    let mut web: DomainDetailView = example("domain");
    for vcpu in &mut web.vcpus {
        vcpu.runq_wait_counts = (0..44).collect();
        (vcpu.run_total_s, vcpu.runq_wait_total_s) = (Some(120.25), Some(3.5));
        (vcpu.run_ratio, vcpu.wait_ratio) = (Some(0.5), Some(0.25));
    }
    let row: DomainStealView = example::<StealView>("steal").domains.remove(0);
    let names: Vec<(String, Uuid)> =
        (1..=domains).map(|n| (format!("domain-{n:03}.example.test"), Uuid::from_u128(n))).collect();
    let domain = |(name, uuid): &(String, Uuid)| {
        let mut domain = web.clone();
        (domain.row.name, domain.row.uuid) = (name.clone(), *uuid);
        domain
    };
    let steal =
        |(name, uuid): &(String, Uuid)| DomainStealView { domain: name.clone(), uuid: *uuid, ..row.clone() };
    Views {
        status: example("status"),
        domains: names.iter().map(domain).collect(),
        steal: StealView { domains: names.iter().map(steal).collect(), ..example("steal") },
        rules: crate::api::present::rules(&kvmpilot_core::rules::RuleSet::default(), &asked()),
        services: example("services"),
        ..Views::default()
    }
}

/// What came of asking each of the shipped rules.
fn asked() -> BTreeMap<Arc<str>, kvmpilot_core::decide::RuleCount> {
    let rules = kvmpilot_core::rules::RuleSet::default();
    let count = kvmpilot_core::decide::RuleCount { held_total: 7, failed_total: 1, ..Default::default() };
    rules.iter().map(|rule| (Arc::clone(&rule.name), count.clone())).collect()
}

/// One line of the text, taken apart.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Takes a line apart as the formats' grammar says.
fn sample(line: &str) -> Sample {
    let (name, mut rest) = line.split_once('{').unwrap_or_else(|| panic!("no labels: {line}"));
    let mut labels = BTreeMap::new();
    loop {
        let (key, quoted) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
        assert!(key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
        let (mut value, mut chars) = (String::new(), quoted.chars());
        loop {
            match chars.next().unwrap_or_else(|| panic!("no end of a value: {line}")) {
                '"' => break,
                '\\' => value.push(chars.next().filter(|c| matches!(c, '\\' | '"')).unwrap()),
                c => value.push(c),
            }
        }
        assert!(labels.insert(key.to_owned(), value).is_none(), "a label twice: {line}");
        rest = chars.as_str();
        match rest.chars().next() {
            Some(',') => rest = &rest[1..],
            _ => break,
        }
    }
    let value = rest.strip_prefix("} ").unwrap_or_else(|| panic!("no value: {line}")).parse().unwrap();
    Sample { name: name.to_owned(), labels, value }
}

/// Reads the text and checks what its format demands: each family has help and type, once and before its series, and no
/// series is there twice.
fn parse(text: &str, format: Format) -> Vec<Sample> {
    let lines = match format {
        Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("no end"),
        Format::Plain => text,
    };
    let (mut samples, mut seen, mut families) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let (mut helped, mut family) = (String::new(), (String::new(), String::new()));
    for line in lines.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            helped = help.split_once(' ').expect("help without words").0.to_owned();
            assert!(families.insert(helped.clone()), "{helped} begins twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, helped, "type without help");
            family = (name.to_owned(), kind.to_owned());
        } else {
            let sample = sample(line);
            let ending =
                sample.name.strip_prefix(&family.0).unwrap_or_else(|| panic!("{line} in {family:?}"));
            let allowed: &[&str] = match (family.1.as_str(), format) {
                ("counter", Format::OpenMetrics) => &["_total"],
                ("histogram", _) => &["_sum", "_count", "_bucket"],
                ("counter" | "gauge", _) => &[""],
                other => panic!("{other:?}"),
            };
            assert!(allowed.contains(&ending), "{line} in {family:?}");
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "twice: {line}");
            assert_eq!(sample.labels[HOST], "host1");
            samples.push(sample);
        }
    }
    samples
}

fn text(views: &Views, format: Format) -> String {
    render(Arc::new(views.clone()), format).unwrap()
}

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for Family { name, help, kind, labels, .. } in families() {
        // OpenMetrics takes the ending of counters away.
        assert!(names.insert(name.trim_end_matches("_total")), "{name} is there twice");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert!(help.ends_with('.') && !help.contains(['\n', '\\', '"']), "{name}: {help}");
        for word in name.split('_') {
            let not_base = ["ms", "us", "ns", "kib", "mib", "kb", "mb", "percent", "minutes", "s"];
            assert!(!not_base.contains(&word), "{name} is not in base units");
        }
        if *kind == Kind::Histogram {
            assert!(name.ends_with("_seconds"), "the bounds are seconds: {name}");
        }
        for label in *labels {
            let many = ["process", "pid", "tid", "flow", "peer", "address", "application", HOST, "le"];
            assert!(!many.contains(label), "{name} has the label {label}");
        }
    }
}

#[test]
fn both_formats_are_as_their_grammars_say_and_say_the_same() {
    let views = host_with(3);
    let plain = parse(&text(&views, Format::Plain), Format::Plain);
    let open = parse(&text(&views, Format::OpenMetrics), Format::OpenMetrics);
    assert_eq!(plain, open);
    let find = |name: &str, labels: &[(&str, &str)]| {
        let fits = |sample: &&Sample| {
            sample.name == format!("kvmpilot_{name}")
                && labels.iter().all(|(key, value)| sample.labels[*key] == *value)
        };
        let found: Vec<f64> = plain.iter().filter(fits).map(|sample| sample.value).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0]
    };
    let uuid = Uuid::from_u128(2).to_string();
    let second: &[_] = &[("domain", "domain-002.example.test"), ("uuid", &uuid)];
    assert_eq!(find("domain_cpu_use_ratio", second), 0.63);
    assert_eq!(find("domain_memory_current_bytes", second), 536_870_912.0);
    assert_eq!(
        find(
            "domain_info",
            &[second, &[("class", "latency"), ("ladder", "auto"), ("balloon", "observe")]].concat()
        ),
        1.0
    );
    assert_eq!(find("host_pressure_ratio", &[("resource", "cpu")]), 0.382);
    assert_eq!(find("rule_errors_total", &[("rule", "weight.protect")]), 1.0);
    assert_eq!(find("findings", &[("finding", "cpu_over"), ("severity", "warning")]), 1.0);
    let vcpu = [second, &[("vcpu", "1")]].concat();
    assert_eq!(find("vcpu_runq_wait_seconds_sum", &vcpu), 3.5);
    // 0 + 1 + ... + 43 waits, of which those below 2^14 ns are 0 + ... + 13.
    assert_eq!(find("vcpu_runq_wait_seconds_count", &vcpu), 946.0);
    let bucket = |le: &str| find("vcpu_runq_wait_seconds_bucket", &[&vcpu[..], &[("le", le)]].concat());
    assert_eq!(bucket("0.000016384"), 91.0);
    assert_eq!(bucket("0.067108864"), 325.0);
    assert_eq!(bucket("+Inf"), 946.0);
}

#[test]
fn a_domain_that_is_gone_leaves_no_series() {
    let mut views = host_with(2);
    views.domains.remove(0);
    views.steal.domains.remove(0);
    let text = text(&views, Format::Plain);
    assert!(text.contains("domain-002") && !text.contains("domain-001"), "{text}");
}

#[test]
fn what_is_not_known_has_no_series() {
    let text = text(&Views::default(), Format::Plain);
    for never in ["NaN", " inf", " -", "host_memory", "vcpu_", "domain_"] {
        assert!(!text.contains(never), "{never} in {text}");
    }
    assert!(text.contains("kvmpilot_healthy{host=\"\"} 0.0"), "{text}");
}

#[test]
fn names_that_mean_harm_stay_values() {
    let mut views = host_with(1);
    let evil = "a\"} 1\nkvmpilot_healthy{x=\"\\";
    views.domains[0].row.name = evil.into();
    views.services.services[0].name = "\u{1b}[31m".repeat(1000);
    views.steal.domains.clear();
    for format in [Format::Plain, Format::OpenMetrics] {
        let samples = parse(&text(&views, format), format);
        let names: BTreeSet<&str> =
            samples.iter().filter_map(|sample| sample.labels.get("domain")).map(String::as_str).collect();
        assert_eq!(names.into_iter().collect::<Vec<_>>(), [evil.replace('\n', "\u{fffd}")]);
        let longest =
            samples.iter().flat_map(|sample| sample.labels.values()).map(|value| value.chars().count()).max();
        assert_eq!(longest, Some(256));
    }
}

#[test]
fn five_hundred_domains_have_at_most_25000_series() {
    let views = host_with(500);
    let samples = parse(&text(&views, Format::OpenMetrics), Format::OpenMetrics);
    println!("{} series", samples.len());
    assert!(samples.len() <= 25_000, "{} series", samples.len());
    // And nothing was left out to get there.
    for family in families() {
        let name = format!("{PREFIX}_{}", family.name);
        assert!(samples.iter().any(|sample| sample.name.starts_with(&name)), "{name} has no series");
    }
}

/// `cargo test --release -p kvmpilot --lib metrics -- --ignored --nocapture`: under 20 ms is wanted.
#[test]
#[ignore = "a measurement"]
fn time_of_five_hundred_domains() {
    let views = Arc::new(host_with(500));
    for format in [Format::Plain, Format::OpenMetrics] {
        let mut times: Vec<_> = (0..50)
            .map(|_| {
                let began = Instant::now();
                let length = render(Arc::clone(&views), format).unwrap().len();
                (began.elapsed(), length)
            })
            .collect();
        times.sort();
        println!("{format:?}: median {:?}, longest {:?}, {} bytes", times[25].0, times[49].0, times[0].1);
    }
}

#[test]
fn the_documented_metrics_are_those_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let documented = std::fs::read_to_string(path).unwrap();
    let rows: Vec<&str> = documented.lines().filter(|line| line.starts_with("| `kvmpilot_")).collect();
    let wanted: Vec<String> = families()
        .map(|Family { name, help, kind, labels, .. }| {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            format!(
                "| `{PREFIX}_{name}` | {} | {} | {help} |",
                format!("{kind:?}").to_lowercase(),
                labels.join(" ")
            )
        })
        .collect();
    assert!(rows == wanted, "the table of docs/metrics.md has to be\n{}", wanted.join("\n"));
}

/// Names of metrics and recording rules in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    // Of a recording rule, the middle part is the metric.
    let parts =
        text.split(|c| !word(c)).flat_map(|name| name.split(':').nth(usize::from(name.contains(':'))));
    parts.filter(|name| name.starts_with("kvmpilot_")).collect()
}

#[test]
fn what_prometheus_and_grafana_ask_for_is_there() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/prometheus");
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
    let mut known: BTreeSet<String> = families().map(|family| format!("{PREFIX}_{}", family.name)).collect();
    for ending in ["_bucket", "_sum", "_count"] {
        known.insert(format!("{PREFIX}_vcpu_runq_wait_seconds{ending}"));
    }
    let rules = read("kvmpilot.rules.yml");
    let recorded: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ")).collect();
    // What a recording rule is about, without its unit's ending where there is a metric of that name.
    let about = |name: &&str| recorded.iter().any(|rule| rule.split(':').nth(1) == Some(*name));
    for file in ["kvmpilot.rules.yml", "kvmpilot.alerts.yml", "kvmpilot-dashboard.json"] {
        let text = read(file);
        let names = named(&text);
        assert!(names.len() > 5, "{file} names {names:?}");
        for name in names {
            assert!(known.contains(name) || about(&name), "{file} asks for {name}, which there is not");
        }
        let used = text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | ':')));
        for rule in used.filter(|word| word.contains(":kvmpilot_")) {
            assert!(recorded.contains(rule), "{file} asks for {rule}, which no rule records");
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("kvmpilot-dashboard.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 20);
}
