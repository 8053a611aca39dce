//! Tests of the configuration: defaults, drop-ins, and one test for each kind of mistake.

use kvmpilot_core::policy::{Actuator, Class, ClassSetting, DomainPolicy, Mode, Source, WeightLimits};
use kvmpilot_core::units::KiB;
use tempfile::TempDir;

use super::options::{Choice, DOMAIN_OPTIONS, OPTIONS};
use super::*;

const SHIPPED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/kvmpilot.toml"));

fn directory(files: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("conf.d")).unwrap();
    for (name, text) in files {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let main = directory.path().join("kvmpilot.toml");
    (directory, main)
}

fn load_text(text: &str) -> Result<Config, ConfigError> {
    let (_directory, main) = directory(&[("kvmpilot.toml", text)]);
    load(Some(&main))
}

/// The messages, without the temporary directory's name.
fn mistakes(files: &[(&str, &str)]) -> String {
    let (directory, main) = directory(files);
    let error = load(Some(&main)).unwrap_err().to_string();
    error.replace(&format!("{}/", directory.path().display()), "")
}

fn mistake(text: &str) -> String {
    mistakes(&[("kvmpilot.toml", text)])
}

/// What was read, wherever it was written.
fn values(config: &Config) -> (&Policy, &DaemonConfig, Option<&Path>) {
    (&config.policy, &config.daemon, config.rules_directory.as_deref())
}

/// The shipped file with every option in force.
fn uncommented() -> String {
    let is_option = |line: &str| {
        line.strip_prefix('#').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    SHIPPED.lines().map(|line| if is_option(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_file_is_the_defaults_and_leaves_nothing_out() {
    assert_eq!(load_text(SHIPPED).unwrap(), Config::default());
    let loaded = load_text(&uncommented()).unwrap();
    assert_eq!(values(&loaded), values(&Config::default()));

    let table: toml::Table = uncommented().parse().unwrap();
    let written: usize = table.values().map(|section| section.as_table().unwrap().len()).sum();
    assert_eq!(written, OPTIONS.len());
    for option in OPTIONS {
        assert!(table[option.section].get(option.key).is_some(), "{}.{}", option.section, option.key);
    }
}

#[test]
fn a_collector_is_named_by_a_plain_address() {
    let text = |value: &str| format!("[otlp]\nendpoint = {value}\n");
    let read = |value: &str| load_text(&text(value)).unwrap().daemon.otlp.endpoint.map(|at| at.to_string());
    assert_eq!(read("''"), None);
    assert_eq!(read("'http://collector'").unwrap(), "http://collector:4318");
    assert_eq!(read("'http://[::1]:1/otlp/'").unwrap(), "http://[::1]:1/otlp");
    for (wrong, why) in [
        ("'https://collector:4318'", "does not speak https"),
        ("'collector:4318'", "is no address of a collector"),
        ("'http://me:secret@collector'", "without a password"),
        ("'http://collector:4318/v1/metrics'", "one signal"),
        ("4318", "wants text"),
    ] {
        assert!(mistake(&text(wrong)).contains(why), "{wrong}: {}", mistake(&text(wrong)));
    }
    let header = mistake("[otlp]\nheaders = { authorization = \"Bearer\\nx\" }\n");
    assert!(header.contains("cannot be a header") && !header.contains("Bearer"), "{header}");
    let shown = format!("{:?}", load_text("[otlp]\nheaders = { a = 'hidden' }").unwrap().daemon);
    assert!(!shown.contains("hidden"), "{shown}");
}

#[test]
fn every_option_sets_something_of_its_own() {
    const VALUES: [&str; 21] = [
        "'1'",
        "'9MiB'",
        "false",
        "true",
        "'4s'",
        "'3h'",
        "'200MiB'",
        "77",
        "7",
        "0.95",
        "0.5",
        "0.05",
        "'auto'",
        "'error'",
        "'/x'",
        "['x']",
        "'127.0.0.1:1'",
        "'read'",
        "'loopback'",
        "'http://x'",
        "{ x = 'y' }",
    ];
    let mut seen: Vec<(String, Config)> = vec![("defaults".into(), Config::default())];
    for option in OPTIONS {
        // An address needs leave to do without TLS.
        let leave = if option.key == "address" { "\nplain = 'loopback'" } else { "" };
        let text = |value: &str| format!("[{}]\n{} = {value}{leave}", option.section, option.key);
        let config = VALUES
            .iter()
            .filter_map(|value| load_text(&text(value)).ok())
            .find(|config| values(config) != values(&Config::default()))
            .unwrap_or_else(|| panic!("{} sets nothing", text("...")));
        for (other, same) in &seen {
            assert_ne!(values(&config), values(same), "{} and {other}", text("..."));
        }
        seen.push((text("..."), config));
        let message = mistake(&text("1979-05-27"));
        assert!(message.contains(&format!("{}.{}: ", option.section, option.key)), "{message}");
    }
}

#[test]
fn every_field_of_the_policy_can_be_written() {
    let fields =
        |value: &serde_json::Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let policy = serde_json::to_value(Policy::default()).unwrap();
    for section in fields(&policy).iter().filter(|section| policy[section].is_object()) {
        for field in fields(&policy[section]) {
            let written = if section == "periods" { "loops" } else { section };
            let is_it = |option: &&Choice<Config>| option.section == written && option.key == field;
            assert_eq!(OPTIONS.iter().filter(is_it).count(), 1, "{section}.{field}");
        }
    }
    for field in fields(&serde_json::to_value(DomainPolicy::default()).unwrap()) {
        assert!(DOMAIN_OPTIONS.iter().any(|option| option.key == field), "domain.{field}");
    }
}

#[test]
fn the_shipped_example_of_a_domain_shows_all_its_options() {
    let example: String = SHIPPED
        .lines()
        .skip_while(|line| !line.contains("[[domain]]") || !line.starts_with("#   "))
        .filter_map(|line| line.strip_prefix("#   ").map(|line| format!("{line}\n")))
        .collect();
    let config = load_text(&example).unwrap();
    let domain = config.policy.of("shop-db1");
    assert_eq!(domain.class().value, ClassSetting::Latency);
    assert_eq!(domain.mode(Actuator::Weight).value, Mode::Auto);
    assert_eq!(domain.mode(Actuator::Balloon).value, Mode::Observe);
    assert!(
        domain
            .protected()
            .any(|(name, source)| (name, source) == ("postgres*", Source::Entry(0, "protected")))
    );
    assert_eq!(domain.floor().value, KiB::from_mib(512));
    assert_eq!(domain.weight_limits(), WeightLimits { max_factor: 4.0, min: Some(512), max: Some(8192) });
    assert_eq!(domain.pcpus().value.unwrap().to_string(), "2-7");
    assert!(domain.enforce().value && !domain.suspend_for_change().value);
    let table: toml::Table = example.parse().unwrap();
    for option in DOMAIN_OPTIONS {
        assert!(table["domain"][0].get(option.key).is_some(), "{}", option.key);
    }
}

#[test]
fn sets_what_is_written() {
    let config = load_text(
        "[daemon]\nlog_level = 'debug'\n[modes]\ndefault = 'auto'\nballoon = 'observe'\nladder = 'default'\n\
         [loops]\ncycle = '5s'\n[placement]\nallowed = '1-3'\n[balloon]\nfloor = '1GiB'\n[weight]\nmax_factor = 4\n\
         [agent]\nmax_output = '64KiB'",
    )
    .unwrap();
    assert_eq!(config.daemon.log_level, LogLevel::Debug);
    assert_eq!(config.policy.mode, Mode::Auto);
    assert_eq!(config.policy.actuator_modes, [(Actuator::Balloon, Mode::Observe)]);
    assert_eq!(config.policy.periods.cycle, Duration::from_secs(5));
    assert_eq!(config.policy.placement.allowed.unwrap().to_string(), "1-3");
    assert_eq!(config.policy.balloon.floor, KiB::from_mib(1024));
    assert!((config.policy.weight.max_factor - 4.0).abs() < f64::EPSILON);
    assert_eq!(config.daemon.agent.max_output_bytes, 65536);
}

#[test]
fn drop_ins_overrule_in_order_and_domains_add_up() {
    let (_directory, main) = directory(&[
        ("kvmpilot.toml", "[loops]\ncycle = '10s'\nguest = '20s'\n[[domain]]\nname = 'a'\nclass = 'batch'"),
        ("conf.d/20-b.toml", "[loops]\ncycle = '12s'\n[modes]\nweight = 'default'"),
        ("conf.d/10-a.toml", "[loops]\ncycle = '11s'\n[modes]\nweight = 'auto'\n[[domain]]\nname = 'b'"),
        ("conf.d/30-c.conf", "not read"),
    ]);
    let policy = load(Some(&main)).unwrap().policy;
    assert_eq!(policy.periods.cycle, Duration::from_secs(12));
    assert_eq!(policy.periods.guest, Duration::from_secs(20));
    assert_eq!(policy.actuator_modes, []);
    assert_eq!(policy.domains.iter().map(|domain| domain.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(policy.of("a").class().value, ClassSetting::Batch);
    assert_eq!(policy.of("c").class().value, ClassSetting::Auto);
    assert_eq!(Class::default(), Class::Standard);
}

#[test]
fn it_is_known_where_each_value_stands() {
    let (directory, main) = directory(&[
        ("kvmpilot.toml", "[modes]\ndefault = 'auto'\n\n[[domain]]\nname = 'web'\nfloor = '64MiB'\n"),
        (
            "conf.d/a.toml",
            "[modes]\n\nweight = 'observe'\n[[domain]]\nname = '*'\nmodes = { ladder = 'observe' }",
        ),
    ]);
    let Config { policy, origins, .. } = load(Some(&main)).unwrap();
    let stands = |source| {
        let place = origins.place(source)?.to_string();
        Some(place.replace(&format!("{}/", directory.path().display()), ""))
    };
    let (web, other) = (policy.of("web"), policy.of("other"));
    assert_eq!(stands(web.mode(Actuator::Ladder).source).unwrap(), "kvmpilot.toml:2");
    assert_eq!(stands(web.mode(Actuator::Weight).source).unwrap(), "conf.d/a.toml:3");
    assert_eq!(stands(web.floor().source).unwrap(), "kvmpilot.toml:6");
    assert_eq!(stands(other.mode(Actuator::Ladder).source).unwrap(), "conf.d/a.toml:6");
    assert_eq!(stands(other.floor().source), None, "a default stands nowhere");
}

#[test]
fn a_named_file_must_exist() {
    let error = load(Some(Path::new("/nonexistent/kvmpilot.toml"))).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/kvmpilot.toml: No such file"), "{error}");
}

#[test]
fn points_at_a_mistake_with_line_and_caret() {
    assert_eq!(
        mistake("# x\n[loops]\n\tcycle = \"1s\" # short\n"),
        "kvmpilot.toml:3:10: loops.cycle: \"1s\" is too small\n\
         3 | \tcycle = \"1s\" # short\n  | \t        ^^^^\n  = write at least \"5s\""
    );
}

#[test]
fn names_the_option_that_was_meant() {
    let expect = [
        ("[loops]\ncycel = '5s'", "2:1: there is no option cycel in [loops]", "did you mean cycle?"),
        (
            "[state]\ncycle = '5s'",
            "2:1: there is no option cycle in [state]",
            "cycle is an option of [loops]",
        ),
        ("[baloon]\nfloor = '1GiB'", "1:2: there is no section [baloon]", "did you mean [balloon]?"),
        ("cycle = '5s'", "1:1: cycle stands in no section", "cycle is an option of [loops]"),
        (
            "[guard]\nxyzzy = 1",
            "2:1: there is no option xyzzy in [guard]",
            "the options of [guard] are max_changes,",
        ),
        (
            "[[domain]]\nname = 'a'\nclas = 'batch'",
            "3:1: there is no option clas in [[domain]]",
            "did you mean class?",
        ),
    ];
    for (text, message, help) in expect {
        let error = mistake(text);
        assert!(error.starts_with(&format!("kvmpilot.toml:{message}\n")), "{error}");
        assert!(error.contains(&format!("= {help}")), "{error}");
    }
}

#[test]
fn says_what_a_value_should_have_been() {
    let expect = [
        ("[loops]\ncycle = 5", "wants a duration, but this is of type integer", "\"5s\""),
        ("[loops]\ncycle = '5 minutes'", "\"5 minutes\" is not a duration", "\"5min\""),
        ("[loops]\ncycle = '99999999999999999999s'", "is not a duration", "\"5s\""),
        ("[loops]\ncycle = '999999999999999999d'", "is too large", "\"5s\""),
        ("[loops]\nfast = '2h'", "\"2h\" is too large", "at most \"10s\""),
        ("[balloon]\nfloor = '12MB'", "\"12MB\" is not a size", "\"128MiB\""),
        ("[state]\ncycles = -1", "state.cycles: is out of range", "write 1 to 1000"),
        ("[state]\nhigh = nan", "state.high: is no usable number", "write 0.01 to 1"),
        ("[state]\nhigh = 90", "90 is too large", "at most 1"),
        (
            "[modes]\ndefault = 'automatic'",
            "\"automatic\" is not a choice here",
            "\"observe\", \"recommend\", \"auto\"",
        ),
        ("[modes]\nweight = 'automatic'", "\"automatic\" is not a choice here", ", or \"default\""),
        ("[[domain]]\nname = 'a'\nclass = 'fast'", "domain.class: \"fast\" is not a choice", "\"latency\""),
        ("[placement]\nallowed = ''", "names no CPU", "\"0-3,8\", or \"all\""),
        ("[placement]\nallowed = '3-1'", "\"3-1\" is not part of a CPU list", "\"0-3,8\""),
        ("[ladder]\nprotected = 'sshd'", "wants a list of names", "[\"sshd*\""),
        ("[ladder]\nprotected = ['sshd', 3]", "wants text, but this is of type integer", "quotes"),
        ("[daemon]\nsocket = 'kvmpilot.sock'", "wants an absolute path", "/"),
        ("[daemon]\nlibvirt_uri = ''", "must not be empty", "leave the key out"),
        ("[agent]\nenabled = 'yes'", "wants true or false, but this is of type string", "without quotes"),
        ("loops = 3", "loops is a section", "write [loops]"),
        (
            "[[domain]]\nname = 'a'\nmodes = 'auto'",
            "domain.modes: wants a table",
            "ladder, weight, placement, balloon",
        ),
        ("[[domain]]\nname = 'a'\nmodes = { cpu = 'auto' }", "there is no cpu in it", "the keys are ladder"),
        (
            "[[domain]]\nname = 'a'\nweight.max_factor = 65",
            "domain.weight: max_factor: 65 is too large",
            "64",
        ),
        (
            "[[domain]]\nname = 'a'\nweight = { min = 9, max = 8 }",
            "min (9) is more than max (8)",
            "lower min",
        ),
        ("[domain]\nname = 'a'", "there can be several domains", "[[domain]]"),
        ("[[domain]]\nclass = 'batch'", "this domain has no name", "add name"),
        (
            "[[domain]]\nname = 'a'\n[[domain]]\nname = 'a'",
            "4:8: there is an entry for domain \"a\"",
            "both together",
        ),
    ];
    for (text, message, help) in expect {
        let error = mistake(text);
        assert!(error.contains(message), "{message} in {error}");
        assert!(error.contains(help), "{help} in {error}");
    }
}

#[test]
fn values_must_fit_together_across_files() {
    let error = mistakes(&[
        ("kvmpilot.toml", "[state]\nlow = 0.8"),
        ("conf.d/a.toml", "[state]\nhigh = 0.8\n[weight]\nstandard_target = 0.01"),
    ]);
    assert!(
        error.contains("kvmpilot.toml:2:7: state.low (0.8) must be less than state.high (0.8)"),
        "{error}"
    );
    assert!(error.contains("conf.d/a.toml:4:19: weight.latency_target (0.02) must be less"), "{error}");
}

#[test]
fn several_mistakes_come_at_once_and_syntax_first() {
    let error = mistake("[loops]\ncycle = '1s'\nfoo = 1\n[state]\nhigh = 'x'\n");
    assert_eq!(error.matches("kvmpilot.toml:").count(), 3, "{error}");

    let error = mistake("[loops]\ncycle = \n[state\nhigh = 'x'\n");
    assert!(error.starts_with("kvmpilot.toml:2:"), "{error}");
    assert!(error.contains("kvmpilot.toml:3:"), "{error}");
    assert!(!error.contains("state.high"), "{error}");

    let error = mistake("[loops]\ncycle = '5s'\ncycle = '6s'\n");
    assert!(error.starts_with("kvmpilot.toml:3:1: "), "{error}");
}

#[test]
fn odd_files_give_messages_not_panics() {
    for text in [
        "\u{feff}",
        "[loops]\ncycle = \"ä€",
        "x = \"",
        "[",
        "=",
        "\0",
        "[loops]\r\ncycle='1s'\r\n",
        "a=[[[[[[",
    ] {
        let (_directory, main) = directory(&[("kvmpilot.toml", text)]);
        if let Err(error) = load(Some(&main)) {
            assert!(error.to_string().contains("kvmpilot.toml:"), "{error}");
        }
    }
}
