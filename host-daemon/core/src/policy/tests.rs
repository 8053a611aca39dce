//! Tests of the settings: patterns, precedence, and what metadata cannot do.

use proptest::prelude::*;

use super::*;
use crate::sample::PolicySample;
use crate::units::KiB;

fn metadata(settings: &[(&str, &str)]) -> Metadata {
    let settings = settings.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Metadata::read(&PolicySample { settings, wrong: Vec::new() })
}

fn subject<'a>(name: &'a str, metadata: &'a Metadata) -> Subject<'a> {
    Subject { name, metadata: Some(metadata) }
}

fn entry(name: &str, wishes: Wishes) -> DomainPolicy {
    DomainPolicy { name: name.to_owned(), wishes }
}

#[test]
fn patterns_match_like_a_shell_s_star() {
    assert!(matches_pattern("web", "web"));
    assert!(!matches_pattern("web", "web2"));
    assert!(matches_pattern("web*", "web2"));
    assert!(matches_pattern("*-db-*", "a-db-1"));
    assert!(!matches_pattern("*-db-*", "a-dc-1"));
    assert!(matches_pattern("*", ""));
}

#[test]
fn the_more_careful_of_domain_and_actuator_counts() {
    let policy = Policy {
        mode: Mode::Auto,
        actuator_modes: vec![(Actuator::Balloon, Mode::Observe)],
        domains: vec![entry("db*", Wishes { mode: Some(Mode::Recommend), ..Wishes::default() })],
        ..Policy::default()
    };
    assert_eq!(policy.of("web").mode(Actuator::Weight).value, Mode::Auto);
    assert_eq!(policy.of("db1").mode(Actuator::Weight).value, Mode::Recommend);
    assert_eq!(policy.of("db1").mode(Actuator::Balloon).value, Mode::Observe);
    assert_eq!(policy.of("web").mode(Actuator::Balloon).value, Mode::Observe);
    assert_eq!(policy.of("db1").mode(Actuator::Weight).source, Source::Entry(0, "mode"));
    assert_eq!(policy.of("db1").mode(Actuator::Balloon).source, Source::Section("modes.balloon"));
    assert_eq!(policy.of("web").mode(Actuator::Ladder).source, Source::Section("modes.default"));
}

#[test]
fn inside_of_one_source_the_actuator_s_own_mode_comes_first() {
    let wishes = Wishes {
        mode: Some(Mode::Observe),
        modes: vec![(Actuator::Weight, Mode::Auto)],
        ..Wishes::default()
    };
    let policy = Policy { domains: vec![entry("web", wishes)], ..Policy::default() };
    assert_eq!(policy.of("web").mode(Actuator::Weight).value, Mode::Auto);
    assert_eq!(policy.of("web").mode(Actuator::Balloon).value, Mode::Observe);
    assert_eq!(policy.of("web").mode(Actuator::Weight).source, Source::Entry(0, "modes"));
}

#[test]
fn metadata_comes_before_the_file_but_frees_nothing_that_the_file_holds() {
    let file = Wishes {
        class: Some(ClassSetting::Batch),
        mode: Some(Mode::Recommend),
        floor: Some(KiB::from_mib(256)),
        pcpus: Some("0-3".parse().unwrap()),
        protected: vec!["postgres".into()],
        ..Wishes::default()
    };
    let policy = Policy { mode: Mode::Observe, domains: vec![entry("web", file)], ..Policy::default() };
    let own = metadata(&[
        ("class", "latency"),
        ("mode", "auto"),
        ("mode.balloon", "observe"),
        ("protected", "nginx, php-*"),
        ("floor", "512MiB"),
        ("weight.max_factor", "4"),
        ("weight.min", "512"),
        ("pcpus", "2-7"),
        ("enforce", "yes"),
    ]);
    assert!(own.is_sound(), "{own:?}");
    let web = policy.of(subject("web", &own));
    assert_eq!(web.class(), Setting { value: ClassSetting::Latency, source: Source::Metadata("class") });
    assert_eq!(web.mode(Actuator::Weight).value, Mode::Recommend, "the file allows no more");
    assert_eq!(web.mode(Actuator::Weight).source, Source::Entry(0, "mode"));
    assert_eq!(web.mode(Actuator::Balloon).source, Source::Metadata("mode.balloon"));
    assert_eq!(web.balloon().floor, KiB::from_mib(512));
    assert_eq!(web.weight_limits(), WeightLimits { max_factor: 4.0, min: Some(512), max: None });
    assert_eq!(web.pcpus().value.unwrap().to_string(), "2-3");
    assert!(web.enforce().value && !web.suspend_for_change().value);
    let protected: Vec<&str> = web.protected().map(|(name, _)| name).collect();
    assert!(["qemu-ga", "postgres", "nginx", "php-*"].iter().all(|name| protected.contains(name)));

    // Where the file says nothing about the domain, `[modes] default` is no limit.
    assert_eq!(policy.of(subject("other", &own)).mode(Actuator::Weight).value, Mode::Auto);
    // Nothing is left when both contradict each other.
    let elsewhere = metadata(&[("pcpus", "8-9")]);
    assert!(policy.of(subject("web", &elsewhere)).pcpus().value.unwrap().is_empty());
}

#[test]
fn what_is_not_understood_makes_the_domain_observed_only() {
    let policy = Policy { mode: Mode::Auto, ..Policy::default() };
    let many = "x,".repeat(100);
    let long = "0-8191,".repeat(20) + "1";
    for (name, text, says) in [
        ("colour", "red", "there is no setting colour; the settings are class, mode"),
        ("class", "fast", "class: \"fast\" is no value for it; write latency, standard, batch or auto"),
        ("mode", "automatic", "observe, recommend or auto"),
        ("floor", "12", "a size"),
        ("floor", "1MiB", "from 16MiB"),
        ("floor", "99999999999999999999GiB", "a size"),
        ("weight.max_factor", "NaN", "from 1 to 64"),
        ("weight.max_factor", "65", "from 1 to 64"),
        ("weight.min", "1", "from 2 to 262144"),
        ("pcpus", "", "a CPU list"),
        ("pcpus", "7-2", "not part of a CPU list"),
        ("pcpus", &long, "too many pcpus"),
        ("enforce", "maybe", "yes or no"),
        ("protected", "a,,b", "a name is empty"),
        ("protected", &many, "at most 64 names"),
    ] {
        let own = metadata(&[("mode.ladder", "auto"), ("suspend_for_change", "yes"), (name, text)]);
        assert!(!own.is_sound(), "{name}={text}");
        assert!(own.problems.iter().any(|problem| problem.text.contains(says)), "{says} in {own:?}");
        assert_eq!(own.problems[0].attribute.as_deref(), Some(name));
        let web = policy.of(subject("web", &own));
        for actuator in Actuator::ALL {
            let observe = Setting { value: Mode::Observe, source: Source::Malformed };
            assert_eq!(web.mode(actuator), observe);
        }
        assert!(!web.suspend_for_change().value, "nothing of it counts");
    }
    assert!(!metadata(&[("class", "batch"), ("class", "batch")]).is_sound());
    assert!(!metadata(&[("weight.min", "9"), ("weight.max", "8")]).is_sound());
    let foreign = PolicySample { settings: Vec::new(), wrong: vec!["it has attributes".into()] };
    assert!(!Metadata::read(&foreign).is_sound());
}

fn any_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Observe), Just(Mode::Recommend), Just(Mode::Auto)]
}

fn any_wishes() -> impl Strategy<Value = Wishes> {
    let modes = prop::collection::btree_map(prop::sample::select(Actuator::ALL.to_vec()), any_mode(), 0..4);
    (prop::option::of(any_mode()), modes).prop_map(|(mode, modes)| Wishes {
        mode,
        modes: modes.into_iter().collect(),
        ..Wishes::default()
    })
}

proptest! {
    #[test]
    fn metadata_makes_nothing_more_active_than_the_file_allows(
        file in prop::option::of(any_wishes()),
        default in any_mode(),
        actuators in prop::collection::btree_map(prop::sample::select(Actuator::ALL.to_vec()), any_mode(), 0..4),
        own in any_wishes(),
    ) {
        let policy = Policy {
            mode: default,
            actuator_modes: actuators.clone().into_iter().collect(),
            domains: file.clone().map(|wishes| entry("web", wishes)).into_iter().collect(),
            ..Policy::default()
        };
        let own = Metadata { wishes: own, problems: Vec::new() };
        for actuator in Actuator::ALL {
            let without = policy.of("web").mode(actuator).value;
            let with = policy.of(subject("web", &own)).mode(actuator).value;
            let by_file = file.as_ref().and_then(|wishes| wishes.mode_of(actuator));
            for explicit in by_file.into_iter().chain(actuators.get(&actuator).copied()) {
                prop_assert!(with <= explicit && without <= explicit);
            }
            match own.wishes.mode_of(actuator) {
                // The metadata is obeyed where it is the more careful one.
                Some(wish) => prop_assert!(with <= wish),
                None => prop_assert_eq!(with, without),
            }
        }
    }

    #[test]
    fn no_text_makes_metadata_dangerous(settings in prop::collection::vec(("\\PC{0,12}", "\\PC{0,40}"), 0..8)) {
        let sample = PolicySample { settings, wrong: Vec::new() };
        let own = Metadata::read(&sample);
        let policy = Policy { mode: Mode::Recommend, ..Policy::default() };
        let web = policy.of(Subject { name: "web", metadata: Some(&own) });
        if !own.is_sound() {
            prop_assert_eq!(&own.wishes, &Wishes::default());
            prop_assert_eq!(web.mode(Actuator::Weight).value, Mode::Observe);
        }
    }

    #[test]
    fn what_is_shown_is_read_again(
        at in 0..KEYS.len(),
        mode in any_mode(),
        number in 2_u64..262_144,
    ) {
        let key = &KEYS[at];
        let text = match key.name {
            "class" => "batch".to_owned(),
            "protected" => "a*, b".to_owned(),
            "floor" => "64MiB".to_owned(),
            "weight.max_factor" => "3.5".to_owned(),
            "weight.min" | "weight.max" => number.to_string(),
            "pcpus" => "0-3,8".to_owned(),
            "enforce" | "suspend_for_change" => "yes".to_owned(),
            _ => mode.to_string(),
        };
        let mut wishes = Wishes::default();
        prop_assert_eq!(key.read(&mut wishes, &text), Ok(()));
        prop_assert_ne!(&wishes, &Wishes::default(), "{} sets nothing", key.name);
    }
}
