//! [`DomainSettings`]: what counts for one domain, put together from the built-in defaults, the configuration and the
//! domain's own metadata, and which of them said so.
//!
//! The nearer to the domain, the stronger: metadata before `[[domain]]` before the sections before the defaults. But what
//! keeps kvmpilot's hands off adds up: the most careful of the explicit modes counts, pcpus are those that all allow, and
//! all lists of protected processes hold.

use super::metadata::Metadata;
use super::wishes::Wishes;
use super::{Actuator, BalloonPolicy, ClassSetting, Mode, Policy};
use crate::CpuSet;
use crate::units::KiB;

/// A domain as far as settings are concerned.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// libvirt's name.
    pub name: &'a str,
    /// What its own XML says, if anything.
    pub metadata: Option<&'a Metadata>,
}

impl<'a> From<&'a str> for Subject<'a> {
    /// A domain of which nothing but the name is known.
    fn from(name: &'a str) -> Self {
        Self { name, metadata: None }
    }
}

/// Who gave a setting its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// kvmpilot.
    Default,
    /// An option of a section, written `section.key`.
    Section(&'static str),
    /// An option of the `[[domain]]` entry of this number, from 0, in the order of the files.
    Entry(usize, &'static str),
    /// An attribute of the domain's metadata.
    Metadata(&'static str),
    /// The domain's metadata, because it is not understood.
    Malformed,
}

/// A value, and who gave it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Who.
    pub source: Source,
}

/// Limits of a domain's CPU weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WeightLimits {
    /// Largest factor between weight and original, up and down.
    pub max_factor: f64,
    /// Least weight that may be set.
    pub min: Option<u64>,
    /// Largest weight that may be set.
    pub max: Option<u64>,
}

/// What counts for one domain.
#[derive(Clone, Copy, Debug)]
pub struct DomainSettings<'a> {
    policy: &'a Policy,
    entry: Option<(usize, &'a Wishes)>,
    metadata: Option<&'a Metadata>,
}

impl Policy {
    /// What counts for a domain.
    #[must_use]
    pub fn of<'a>(&'a self, domain: impl Into<Subject<'a>>) -> DomainSettings<'a> {
        let Subject { name, metadata } = domain.into();
        let matches = |(_, entry): &(usize, &super::DomainPolicy)| super::matches_pattern(&entry.name, name);
        let entry = self.domains.iter().enumerate().find(matches).map(|(at, entry)| (at, &entry.wishes));
        DomainSettings { policy: self, entry, metadata }
    }
}

impl<'a> DomainSettings<'a> {
    /// Whether the metadata is there and not understood.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.metadata.is_some_and(|metadata| !metadata.is_sound())
    }

    /// What it is for, as configured.
    #[must_use]
    pub fn class(&self) -> Setting<ClassSetting> {
        self.nearest("class", |wishes| wishes.class).unwrap_or(Setting::default_of(ClassSetting::Auto))
    }

    /// How far one actuator may go: the most careful of what metadata, `[[domain]]` and `[modes]` say of the actuator or the
    /// domain, else `[modes] default`. Inside of one source, the actuator's own mode comes before that of all.
    #[must_use]
    pub fn mode(&self, actuator: Actuator) -> Setting<Mode> {
        if self.is_malformed() {
            return Setting { value: Mode::Observe, source: Source::Malformed };
        }
        let explicit = [
            self.metadata.and_then(|metadata| mode_in(&metadata.wishes, actuator, Source::Metadata)),
            self.entry.and_then(|(at, wishes)| {
                mode_in(wishes, actuator, |key| Source::Entry(at, if key == "mode" { key } else { "modes" }))
            }),
            self.policy
                .actuator_modes
                .iter()
                .find(|(of, _)| *of == actuator)
                .map(|(_, mode)| Setting { value: *mode, source: Source::Section(actuator.option()) }),
        ];
        // Of equals the first, which is the nearest.
        let careful = explicit.into_iter().flatten().min_by_key(|setting| setting.value);
        let default = Setting { value: self.policy.mode, source: Source::Section("modes.default") };
        let Setting { value, source } = careful.unwrap_or(default);
        // Nobody can ask this host for what it cannot do.
        let most = if actuator == Actuator::Resize { Mode::Recommend } else { Mode::Auto };
        Setting { value: value.min(most), source }
    }

    /// Least memory that the guest keeps.
    #[must_use]
    pub fn floor(&self) -> Setting<KiB> {
        let default = Setting { value: self.policy.balloon.floor, source: Source::Section("balloon.floor") };
        self.nearest("floor", |wishes| wishes.floor).unwrap_or(default)
    }

    /// Its balloon's limits, the floor among them.
    #[must_use]
    pub fn balloon(&self) -> BalloonPolicy {
        BalloonPolicy { floor: self.floor().value, ..self.policy.balloon }
    }

    /// Largest factor between its weight and the original.
    #[must_use]
    pub fn max_factor(&self) -> Setting<f64> {
        let section = Source::Section("weight.max_factor");
        let default = Setting { value: self.policy.weight.max_factor, source: section };
        self.nearest("weight.max_factor", |wishes| wishes.weight.max_factor).unwrap_or(default)
    }

    /// Least weight that may be set.
    #[must_use]
    pub fn min_weight(&self) -> Setting<Option<u64>> {
        self.optional("weight.min", |wishes| wishes.weight.min)
    }

    /// Largest weight that may be set.
    #[must_use]
    pub fn max_weight(&self) -> Setting<Option<u64>> {
        self.optional("weight.max", |wishes| wishes.weight.max)
    }

    /// All limits of its weight.
    #[must_use]
    pub fn weight_limits(&self) -> WeightLimits {
        WeightLimits {
            max_factor: self.max_factor().value,
            min: self.min_weight().value,
            max: self.max_weight().value,
        }
    }

    /// pcpus that kvmpilot may give it: those that `placement.allowed`, the `[[domain]]` entry and the metadata allow, all of
    /// them; `None` for all of the host's. Empty where they contradict each other: then nothing may be pinned.
    #[must_use]
    pub fn pcpus(&self) -> Setting<Option<CpuSet>> {
        let layers = [
            self.policy.placement.allowed.as_ref().map(|set| (set, Source::Section("placement.allowed"))),
            self.entry.and_then(|(at, wishes)| Some((wishes.pcpus.as_ref()?, Source::Entry(at, "pcpus")))),
            self.metadata
                .and_then(|metadata| Some((metadata.wishes.pcpus.as_ref()?, Source::Metadata("pcpus")))),
        ];
        let mut setting = Setting { value: None, source: Source::Section("placement.allowed") };
        for (set, source) in layers.into_iter().flatten() {
            let narrowed = setting.value.map_or_else(|| set.clone(), |all: CpuSet| all.intersection(set));
            setting = Setting { value: Some(narrowed), source };
        }
        setting
    }

    /// Patterns of processes that are never lowered or raised, each with who named it.
    pub fn protected(&self) -> impl Iterator<Item = (&'a str, Source)> + use<'a> {
        let named = |source| move |name: &'a String| (name.as_str(), source);
        let section = self.policy.ladder.protected.iter().map(named(Source::Section("ladder.protected")));
        let entry = self
            .entry
            .into_iter()
            .flat_map(move |(at, wishes)| wishes.protected.iter().map(named(Source::Entry(at, "protected"))));
        let metadata = self.metadata.into_iter().flat_map(move |metadata| {
            metadata.wishes.protected.iter().map(named(Source::Metadata("protected")))
        });
        section.chain(entry).chain(metadata)
    }

    /// Whether values of ours that somebody else changed are set again.
    #[must_use]
    pub fn enforce(&self) -> Setting<bool> {
        let default = Setting { value: self.policy.guard.enforce, source: Source::Section("guard.enforce") };
        self.nearest("enforce", |wishes| wishes.enforce).unwrap_or(default)
    }

    /// Whether the domain may be paused for a change that cannot be made while it runs.
    #[must_use]
    pub fn suspend_for_change(&self) -> Setting<bool> {
        let source = Source::Section("guard.suspend_for_change");
        let default = Setting { value: self.policy.guard.suspend_for_change, source };
        self.nearest("suspend_for_change", |wishes| wishes.suspend_for_change).unwrap_or(default)
    }

    fn nearest<T>(&self, key: &'static str, wish: fn(&Wishes) -> Option<T>) -> Option<Setting<T>> {
        let metadata = self.metadata.and_then(|metadata| wish(&metadata.wishes));
        if let Some(value) = metadata {
            return Some(Setting { value, source: Source::Metadata(key) });
        }
        let (at, wishes) = self.entry?;
        // In the file the weight's limits stand in a table of their own.
        let key = if key.starts_with("weight.") { "weight" } else { key };
        Some(Setting { value: wish(wishes)?, source: Source::Entry(at, key) })
    }

    fn optional<T>(&self, key: &'static str, wish: fn(&Wishes) -> Option<T>) -> Setting<Option<T>> {
        self.nearest(key, wish).map_or(Setting { value: None, source: Source::Default }, |setting| Setting {
            value: Some(setting.value),
            source: setting.source,
        })
    }
}

impl<T> Setting<T> {
    const fn default_of(value: T) -> Self {
        Self { value, source: Source::Default }
    }
}

fn mode_in(
    wishes: &Wishes,
    actuator: Actuator,
    source: impl Fn(&'static str) -> Source,
) -> Option<Setting<Mode>> {
    let own = wishes.modes.iter().find(|(of, _)| *of == actuator).map(|(_, mode)| *mode);
    own.map(|value| Setting { value, source: source(actuator.key()) })
        .or_else(|| wishes.mode.map(|value| Setting { value, source: source("mode") }))
}
