//! The settings of a domain by name: one table of how each is written, for metadata, command line and `explain`.

use super::wishes::Wishes;
use super::{Actuator, ClassSetting, Mode};
use crate::CpuSet;
use crate::units::KiB;

/// Least and largest floor of a balloon.
pub const FLOOR: std::ops::RangeInclusive<KiB> = KiB::from_mib(16)..=KiB::from_mib(1 << 20);
/// Least and largest factor between a weight and its original.
pub const MAX_FACTOR: std::ops::RangeInclusive<f64> = 1.0..=64.0;
/// CPU weights that libvirt takes on one version of cgroups or the other.
pub const CPU_SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// Most pcpus that a list may name, each mention counted.
const MOST_PCPUS: u32 = 8192;
/// Most names in a list, and most characters of one of them.
const MOST_NAMES: (usize, usize) = (64, 64);

/// A setting of a domain.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name: `mode.balloon`.
    pub name: &'static str,
    /// What it takes, for people.
    pub takes: &'static str,
    read: fn(&mut Wishes, &str) -> Result<(), String>,
}

const MODES: &str = "observe, recommend or auto";
const YES_NO: &str = "yes or no";

/// All of them, in the order in which they are shown.
pub const KEYS: &[Key] = &[
    Key {
        name: "class",
        takes: "latency, standard, batch or auto",
        read: |wishes, text| {
            wishes.class = Some(match text {
                "auto" => ClassSetting::Auto,
                "latency" => ClassSetting::Latency,
                "standard" => ClassSetting::Standard,
                "batch" => ClassSetting::Batch,
                _ => return Err(String::new()),
            });
            Ok(())
        },
    },
    Key {
        name: "mode",
        takes: MODES,
        read: |wishes, text| {
            wishes.mode = Some(mode(text)?);
            Ok(())
        },
    },
    mode_of(Actuator::Ladder, |wishes, text| actuator_mode(wishes, Actuator::Ladder, text)),
    mode_of(Actuator::Weight, |wishes, text| actuator_mode(wishes, Actuator::Weight, text)),
    mode_of(Actuator::Placement, |wishes, text| actuator_mode(wishes, Actuator::Placement, text)),
    mode_of(Actuator::Balloon, |wishes, text| actuator_mode(wishes, Actuator::Balloon, text)),
    mode_of(Actuator::Resize, |wishes, text| actuator_mode(wishes, Actuator::Resize, text)),
    Key {
        name: "protected",
        takes: "names of processes with commas between them, * for any run of characters",
        read: |wishes, text| {
            wishes.protected = names(text)?;
            Ok(())
        },
    },
    Key {
        name: "floor",
        takes: "a size from 16MiB to 1024GiB, like 512MiB",
        read: |wishes, text| {
            wishes.floor =
                Some(KiB::parse(text).filter(|size| FLOOR.contains(size)).ok_or_else(String::new)?);
            Ok(())
        },
    },
    Key {
        name: "weight.max_factor",
        takes: "a number from 1 to 64",
        read: |wishes, text| {
            let factor = text.parse::<f64>().ok().filter(|factor| MAX_FACTOR.contains(factor));
            wishes.weight.max_factor = Some(factor.ok_or_else(String::new)?);
            Ok(())
        },
    },
    Key {
        name: "weight.min",
        takes: "a whole number from 2 to 262144",
        read: |wishes, text| {
            wishes.weight.min = Some(cpu_shares(text)?);
            Ok(())
        },
    },
    Key {
        name: "weight.max",
        takes: "a whole number from 2 to 262144",
        read: |wishes, text| {
            wishes.weight.max = Some(cpu_shares(text)?);
            Ok(())
        },
    },
    Key {
        name: "pcpus",
        takes: "a CPU list, like 2-7,12",
        read: |wishes, text| {
            wishes.pcpus = Some(pcpus(text)?);
            Ok(())
        },
    },
    Key {
        name: "enforce",
        takes: YES_NO,
        read: |wishes, text| {
            wishes.enforce = Some(yes_no(text)?);
            Ok(())
        },
    },
    Key {
        name: "suspend_for_change",
        takes: YES_NO,
        read: |wishes, text| {
            wishes.suspend_for_change = Some(yes_no(text)?);
            Ok(())
        },
    },
];

const fn mode_of(actuator: Actuator, read: fn(&mut Wishes, &str) -> Result<(), String>) -> Key {
    Key { name: actuator.key(), takes: MODES, read }
}

impl Key {
    /// The setting of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Reads a value into `wishes`.
    ///
    /// # Errors
    /// What is wrong with the value and what to write, when it is none for this key.
    pub fn read(&self, wishes: &mut Wishes, text: &str) -> Result<(), String> {
        let text = text.trim();
        (self.read)(wishes, text).map_err(|detail| {
            let shown: String = text.chars().take(60).collect();
            let detail = if detail.is_empty() { detail } else { format!(" ({detail})") };
            format!("{}: \"{shown}\" is no value for it{detail}; write {}", self.name, self.takes)
        })
    }
}

/// The names of all settings, for messages.
#[must_use]
pub fn key_names() -> String {
    KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

fn mode(text: &str) -> Result<Mode, String> {
    [Mode::Observe, Mode::Recommend, Mode::Auto]
        .into_iter()
        .find(|mode| mode.as_str() == text)
        .ok_or_else(String::new)
}

fn actuator_mode(wishes: &mut Wishes, actuator: Actuator, text: &str) -> Result<(), String> {
    wishes.set_mode_of(actuator, Some(mode(text)?));
    Ok(())
}

fn yes_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        _ => Err(String::new()),
    }
}

fn cpu_shares(text: &str) -> Result<u64, String> {
    text.parse().ok().filter(|shares| CPU_SHARES.contains(shares)).ok_or_else(String::new)
}

fn names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    if names.len() > MOST_NAMES.0 || names.iter().any(|name| name.chars().count() > MOST_NAMES.1) {
        return Err(format!("at most {} names of {} characters", MOST_NAMES.0, MOST_NAMES.1));
    }
    if names.iter().any(String::is_empty) {
        return Err("a name is empty".to_owned());
    }
    Ok(names)
}

fn pcpus(text: &str) -> Result<CpuSet, String> {
    // Ranges one upon the other would cost time and say nothing.
    let mentioned = text.split(',').fold(0_u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bound = |text: &str| text.trim().trim_start_matches('^').parse::<u32>().unwrap_or(0);
        sum.saturating_add(bound(last).saturating_sub(bound(first)).saturating_add(1))
    });
    if mentioned > MOST_PCPUS {
        return Err("it names too many pcpus".to_owned());
    }
    let set: CpuSet = text.parse().map_err(|error: crate::cpuset::ParseCpuSetError| error.to_string())?;
    if set.is_empty() { Err("it names no pcpu".to_owned()) } else { Ok(set) }
}
