//! Every setting that counts for a domain, with who gave it.

use std::time::Duration;

use kvmpilot_core::model::DomainModel;
use kvmpilot_core::policy::{Actuator, ClassSetting, DomainSettings, Mode, Setting, Source};

use super::Scene;
use super::explain::Background;
use crate::api::views::{SettingOrigin, SettingView};
use crate::config::{Origins, show_duration};

pub(super) fn settings(domain: &DomainModel, scene: &Scene<'_>, more: &Background<'_>) -> Vec<SettingView> {
    let own = scene.policy.of(domain);
    let shown = |key: &str, value: String, source: Source| setting(key, value, source, more.origins);
    let class = own.class();
    let mut settings = vec![shown("class", class_text(class.value).to_owned(), class.source)];
    for actuator in Actuator::ALL {
        let mode = own.mode(actuator);
        let note = mode_note(domain, &own, actuator, &mode);
        settings.push(SettingView { note, ..shown(actuator.key(), mode.value.to_string(), mode.source) });
    }
    let flag = |key: &str, setting: Setting<bool>| {
        shown(key, if setting.value { "yes" } else { "no" }.to_owned(), setting.source)
    };
    let none = || "none".to_owned();
    let (floor, factor, pcpus) = (own.floor(), own.max_factor(), own.pcpus());
    let (min, max) = (own.min_weight(), own.max_weight());
    settings.extend([
        shown("floor", floor.value.written(), floor.source),
        shown("weight.max_factor", factor.value.to_string(), factor.source),
        shown("weight.min", min.value.map_or_else(none, |least| least.to_string()), min.source),
        shown("weight.max", max.value.map_or_else(none, |most| most.to_string()), max.source),
        SettingView {
            note: (pcpus.value.is_some() && !matches!(pcpus.source, Source::Section(_)))
                .then(|| "those that placement.allowed, [[domain]] and metadata all allow".to_owned()),
            ..shown(
                "pcpus",
                pcpus.value.map_or_else(
                    || "all".to_owned(),
                    |set| if set.is_empty() { none() } else { set.to_string() },
                ),
                pcpus.source,
            )
        },
        flag("enforce", own.enforce()),
        flag("suspend_for_change", own.suspend_for_change()),
    ]);
    settings.extend(protected(&own, more.origins));
    settings.extend(general(scene, more.origins));
    settings
}

fn class_text(class: ClassSetting) -> &'static str {
    match class {
        ClassSetting::Auto => "auto",
        ClassSetting::Latency => "latency",
        ClassSetting::Standard => "standard",
        ClassSetting::Batch => "batch",
    }
}

/// Why the mode is not what the nearest source asks for.
fn mode_note(
    domain: &DomainModel,
    own: &DomainSettings<'_>,
    actuator: Actuator,
    mode: &Setting<Mode>,
) -> Option<String> {
    if own.is_malformed() {
        return Some("the domain's metadata is not understood, so it is only observed".to_owned());
    }
    let wish = domain.metadata.as_ref()?.wishes.mode_of(actuator)?;
    (wish > mode.value).then(|| format!("the domain's metadata asks for {wish}; the more careful one counts"))
}

/// The lists of protected processes, one line for each that says something.
fn protected(own: &DomainSettings<'_>, origins: &Origins) -> Vec<SettingView> {
    let mut lists: Vec<(Source, Vec<&str>)> = Vec::new();
    for (name, source) in own.protected() {
        match lists.iter_mut().find(|(of, _)| *of == source) {
            Some((_, names)) => names.push(name),
            None => lists.push((source, vec![name])),
        }
    }
    lists.iter().map(|(source, names)| setting("protected", names.join(","), *source, origins)).collect()
}

/// What is the same for all domains.
fn general(scene: &Scene<'_>, origins: &Origins) -> Vec<SettingView> {
    let policy = scene.policy;
    let time = |time: Duration| show_duration(&time).trim_matches('"').to_owned();
    let options: [(&'static str, String); 20] = [
        ("state.high", policy.state.high.to_string()),
        ("state.low", policy.state.low.to_string()),
        ("state.cycles", policy.state.cycles.to_string()),
        ("ladder.max_processes", policy.ladder.max_processes.to_string()),
        ("ladder.affinity", policy.ladder.affinity.to_string()),
        ("weight.latency_target", policy.weight.latency_target.to_string()),
        ("weight.standard_target", policy.weight.standard_target.to_string()),
        ("weight.dead_band", policy.weight.dead_band.to_string()),
        ("weight.relax_after", time(policy.weight.relax_after)),
        ("weight.relax_step", policy.weight.relax_step.to_string()),
        ("placement.rest", time(policy.placement.rest)),
        ("balloon.guard", policy.balloon.guard.written()),
        ("balloon.window", time(policy.balloon.window)),
        ("balloon.step_permille", policy.balloon.step_permille.to_string()),
        ("balloon.step_period", time(policy.balloon.step_period)),
        ("balloon.stale_after", time(policy.balloon.stale_after)),
        ("guard.max_changes", policy.guard.max_changes.to_string()),
        ("guard.max_pin_part", policy.guard.max_pin_part.to_string()),
        ("guard.oscillation_hold", time(policy.guard.oscillation_hold)),
        ("loops.cycle", time(policy.periods.cycle)),
    ];
    options.into_iter().map(|(key, value)| setting(key, value, Source::Section(key), origins)).collect()
}

fn setting(key: &str, value: String, source: Source, origins: &Origins) -> SettingView {
    let place = origins.place(source).map(ToString::to_string);
    let (origin, place) = match source {
        Source::Metadata(attribute) => (SettingOrigin::Metadata, Some(attribute.to_owned())),
        Source::Malformed => (SettingOrigin::Metadata, None),
        Source::Default | Source::Section(_) | Source::Entry(..) => {
            (if place.is_some() { SettingOrigin::File } else { SettingOrigin::Default }, place)
        }
    };
    SettingView { key: key.to_owned(), value, origin, place, note: None }
}
