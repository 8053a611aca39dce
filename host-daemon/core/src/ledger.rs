//! [`LedgerEntry`]: the original of a value that we changed, and what to do with it when everything goes back.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::CpuSet;
use crate::order::{Action, TaskGroup};
use crate::sample::{ProcessKey, UnitWeight};
use crate::units::KiB;

/// Which value of a domain an entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LedgerTarget {
    /// CPU weight.
    CpuShares,
    /// Pin of one vcpu.
    VcpuPin {
        /// Number of the vcpu.
        vcpu: u32,
    },
    /// Pin of the emulator threads.
    EmulatorPin,
    /// Pin of one iothread.
    IothreadPin {
        /// Number of the iothread.
        iothread: u32,
    },
    /// The balloon.
    Balloon,
    /// Nice value of one guest process and all its threads.
    Nice {
        /// Identity inside the guest.
        key: ProcessKey,
        /// Its name.
        name: String,
    },
    /// `CPUWeight` of a systemd unit of the guest.
    UnitWeight {
        /// Name of the unit.
        unit: String,
    },
    /// Nice value of an autogroup of the guest.
    Autogroup {
        /// Number of the group.
        id: u64,
    },
    /// vcpus that the threads of one guest process may run on.
    Affinity {
        /// Identity inside the guest.
        key: ProcessKey,
    },
}

impl LedgerTarget {
    /// The values that an action changes; none where kvmpilot does not carry it out.
    #[must_use]
    pub fn of(action: &Action) -> Vec<Self> {
        match action {
            Action::SetCpuShares { .. } => vec![Self::CpuShares],
            Action::PinVcpu { vcpu, .. } => vec![Self::VcpuPin { vcpu: *vcpu }],
            Action::PinEmulator { .. } => vec![Self::EmulatorPin],
            Action::PinIothread { iothread, .. } => vec![Self::IothreadPin { iothread: *iothread }],
            Action::SetBalloon { .. } => vec![Self::Balloon],
            Action::SetLevel { processes, groups, .. } => {
                let processes =
                    processes.iter().map(|step| Self::Nice { key: step.key, name: step.name.clone() });
                processes.chain(groups.iter().map(|step| Self::of_group(&step.group))).collect()
            }
            Action::MoreVcpus { .. } | Action::MoreMemory { .. } | Action::MoveAway { .. } => Vec::new(),
        }
    }
}

impl LedgerTarget {
    /// The value that a step of this group changes.
    #[must_use]
    pub fn of_group(group: &TaskGroup) -> Self {
        match group {
            TaskGroup::Unit { name } => Self::UnitWeight { unit: name.clone() },
            TaskGroup::Autogroup { id } => Self::Autogroup { id: *id },
            TaskGroup::Threads { key } => Self::Affinity { key: *key },
        }
    }

    /// Whether it is a value inside the guest, which its agent changes.
    #[must_use]
    pub const fn is_inside(&self) -> bool {
        matches!(
            self,
            Self::Nice { .. } | Self::UnitWeight { .. } | Self::Autogroup { .. } | Self::Affinity { .. }
        )
    }
}

impl fmt::Display for LedgerTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuShares => f.write_str("cpu_shares"),
            Self::VcpuPin { vcpu } => write!(f, "pin of vcpu {vcpu}"),
            Self::EmulatorPin => f.write_str("emulator pin"),
            Self::IothreadPin { iothread } => write!(f, "pin of iothread {iothread}"),
            Self::Balloon => f.write_str("balloon"),
            Self::Nice { key, name } => write!(f, "nice of {name} ({})", key.pid),
            Self::UnitWeight { unit } => write!(f, "CPUWeight of {unit}"),
            Self::Autogroup { id } => write!(f, "nice of autogroup {id}"),
            Self::Affinity { key } => write!(f, "vcpus of process {}", key.pid),
        }
    }
}

/// A value as libvirt or the guest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// `cpu_shares`.
    Shares(u64),
    /// A pin of the host's, or the vcpus that a guest's process may run on.
    Pin(CpuSet),
    /// Memory of the domain.
    Memory(KiB),
    /// Nice value.
    Nice(i8),
    /// `CPUWeight` of a systemd unit.
    UnitWeight(UnitWeight),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shares(shares) => shares.fmt(f),
            Self::Pin(pcpus) => pcpus.fmt(f),
            Self::Memory(memory) => memory.fmt(f),
            Self::Nice(nice) => nice.fmt(f),
            Self::UnitWeight(weight) => weight.fmt(f),
        }
    }
}

/// The original of one value. It is on disk before the value changes for the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerEntry {
    /// The domain.
    pub domain: Uuid,
    /// Its name at the time.
    pub domain_name: String,
    /// Names one life of the domain (its QEMU process): our changes are live-only, so an entry of an earlier life is void.
    pub incarnation: String,
    /// What was changed.
    pub target: LedgerTarget,
    /// Before our first change.
    pub original: Value,
    /// What we last set and read back; `None` before the first success.
    pub applied: Option<Value>,
    /// What we are about to set, or set last.
    pub intended: Value,
}

/// What to do with a ledger entry, given the live value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreVerdict {
    /// The original is there already.
    AlreadyOriginal,
    /// The live value is ours: put the original back.
    Restore,
    /// Somebody else changed the value since: leave it and say so.
    Drift,
}

/// What came of putting one value back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RestoreOutcome {
    /// Put back and read back.
    Restored,
    /// It was there already.
    AlreadyOriginal,
    /// Somebody else has changed it since: left alone.
    Drift,
    /// The domain, guest or process that had it is gone, and the change with it.
    Gone,
    /// The domain is saved to disk, and this value with it: it goes back when the domain runs again.
    Saved,
    /// It could not be put back; it stays in the ledger.
    Failed,
}

/// One value of the ledger after a restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RestoredValue {
    /// Name of the domain.
    pub domain: String,
    /// Which value of it.
    pub target: String,
    /// The original value.
    pub original: String,
    /// What came of it.
    pub outcome: RestoreOutcome,
    /// Details, for everything but plain success.
    pub message: Option<String>,
}

impl RestoreOutcome {
    /// Whether the value stays in the ledger.
    #[must_use]
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Saved | Self::Failed)
    }
}

impl LedgerEntry {
    /// The entry to write before `target` of a domain goes from `live` to `intended`. An earlier entry of the same life
    /// keeps its original, unless `live` shows that somebody else has changed the value since: then theirs counts, if it
    /// is not to be overruled by this change.
    #[must_use]
    pub fn before_change(earlier: Option<&Self>, mut fresh: Self, live: &Value, overrules: bool) -> Self {
        if let Some(earlier) = earlier.filter(|earlier| earlier.incarnation == fresh.incarnation)
            && (overrules || earlier.restore_verdict(live) != RestoreVerdict::Drift)
        {
            fresh.original.clone_from(&earlier.original);
            // Killed after it was set and before that was noted: it is ours all the same.
            let arrived = earlier.intended == *live;
            fresh.applied =
                if arrived { Some(live.clone()) } else { earlier.turned_round(live, &fresh.intended) };
        }
        fresh
    }

    /// What came of it, for the report.
    #[must_use]
    pub fn outcome(&self, outcome: RestoreOutcome, message: Option<String>) -> RestoredValue {
        RestoredValue {
            domain: self.domain_name.clone(),
            target: self.target.to_string(),
            original: self.original.to_string(),
            outcome,
            message,
        }
    }

    /// What to do about this entry when `live` is the value now. A crash may have come before or after the change that
    /// `intended` announced, so both `applied` and `intended` count as ours.
    #[must_use]
    pub fn restore_verdict(&self, live: &Value) -> RestoreVerdict {
        if *live == self.original {
            RestoreVerdict::AlreadyOriginal
        } else if *live == self.intended
            || self.applied.as_ref() == Some(live)
            || self.is_balloon_on_its_way(live)
        {
            RestoreVerdict::Restore
        } else {
            RestoreVerdict::Drift
        }
    }

    /// What counts as set last when a value that is not where it was sent is sent to `to`. A balloon that turns round may have gone on
    /// to where it was sent until then; any other begins where it is.
    fn turned_round(&self, live: &Value, to: &Value) -> Option<Value> {
        let (Value::Memory(live), Value::Memory(to), Value::Memory(sent)) = (live, to, &self.intended) else {
            return self.applied.clone();
        };
        let turns = (to.min(sent)..=to.max(sent)).contains(&live);
        Some(Value::Memory(if turns { *sent } else { *live }))
    }

    /// A balloon moves slowly, so that a value between the old and the new target is ours, too.
    fn is_balloon_on_its_way(&self, live: &Value) -> bool {
        let (Value::Memory(live), Value::Memory(intended)) = (live, &self.intended) else { return false };
        let from = match self.applied.as_ref().unwrap_or(&self.original) {
            Value::Memory(from) => from,
            _ => return false,
        };
        (from.min(intended)..=from.max(intended)).contains(&live)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(original: Value, applied: Option<Value>, intended: Value) -> LedgerEntry {
        LedgerEntry {
            domain: Uuid::nil(),
            domain_name: "web".into(),
            incarnation: "1:1".into(),
            target: LedgerTarget::CpuShares,
            original,
            applied,
            intended,
        }
    }

    #[test]
    fn ours_goes_back_theirs_stays() {
        let entry = entry(Value::Shares(1024), Some(Value::Shares(2048)), Value::Shares(8192));
        assert_eq!(entry.restore_verdict(&Value::Shares(1024)), RestoreVerdict::AlreadyOriginal);
        assert_eq!(entry.restore_verdict(&Value::Shares(2048)), RestoreVerdict::Restore);
        assert_eq!(entry.restore_verdict(&Value::Shares(8192)), RestoreVerdict::Restore);
        assert_eq!(entry.restore_verdict(&Value::Shares(100)), RestoreVerdict::Drift);
    }

    #[test]
    fn the_first_original_stays_until_somebody_else_changes_the_value() {
        let first = entry(Value::Shares(1024), Some(Value::Shares(2048)), Value::Shares(2048));
        let next = |live| entry(Value::Shares(live), None, Value::Shares(8192));
        let second = LedgerEntry::before_change(Some(&first), next(2048), &Value::Shares(2048), false);
        assert_eq!((second.original, second.applied), (Value::Shares(1024), Some(Value::Shares(2048))));
        let after_drift = LedgerEntry::before_change(Some(&first), next(500), &Value::Shares(500), false);
        assert_eq!((after_drift.original, after_drift.applied), (Value::Shares(500), None));
        let enforced = LedgerEntry::before_change(Some(&first), next(500), &Value::Shares(500), true);
        assert_eq!(enforced.original, Value::Shares(1024));
        // Killed before it was set: theirs is still there, and theirs it stays.
        assert_eq!(enforced.restore_verdict(&Value::Shares(500)), RestoreVerdict::Drift);
        let other_life = LedgerEntry { incarnation: "2:2".into(), ..next(2048) };
        let restarted = LedgerEntry::before_change(Some(&first), other_life, &Value::Shares(2048), true);
        assert_eq!(restarted.original, Value::Shares(2048));
    }

    #[test]
    fn a_balloon_that_is_sent_back_on_its_way_keeps_its_original() {
        let send = |earlier: &LedgerEntry, live: u64, to: u64| {
            let [live, to] = [live, to].map(|kib| Value::Memory(KiB(kib)));
            LedgerEntry::before_change(Some(earlier), entry(live.clone(), None, to), &live, false)
        };
        let memory = |kib| Value::Memory(KiB(kib));
        // It was to go from 3800 to 3600 when its guest became short.
        let taking = entry(memory(4000), Some(memory(3800)), memory(3600));
        let first = send(&taking, 3700, 3900);
        let second = send(&first, 3750, 4000);
        for (sent, lives) in [(&first, [3600, 3650, 3700, 3900]), (&second, [3750, 3800, 3900, 3950])] {
            assert_eq!(sent.original, memory(4000), "{sent:?}");
            for live in lives {
                assert_eq!(
                    sent.restore_verdict(&memory(live)),
                    RestoreVerdict::Restore,
                    "{live} of {sent:?}"
                );
            }
        }
        assert_eq!(first.restore_verdict(&memory(3500)), RestoreVerdict::Drift);
    }

    proptest! {
        /// However it is sent to and fro on its way.
        #[test]
        fn a_balloon_that_only_we_move_keeps_its_original(
            events in prop::collection::vec((1000_u64..5000, 0_u64..=4), 1..12)
        ) {
            let mut live = 4000_u64;
            let memory = |kib| Value::Memory(KiB(kib));
            let mut known: Option<LedgerEntry> = None;
            for (to, quarters) in events {
                let fresh = entry(memory(live), None, memory(to));
                let sent = LedgerEntry::before_change(known.as_ref(), fresh, &memory(live), false);
                live = live + to * quarters / 4 - live * quarters / 4;
                prop_assert_eq!(&sent.original, &memory(4000));
                prop_assert_ne!(sent.restore_verdict(&memory(live)), RestoreVerdict::Drift, "{} of {:?}", live, sent);
                known = Some(sent);
            }
        }
    }

    #[test]
    fn a_balloon_between_two_targets_is_ours() {
        let entry = entry(Value::Memory(KiB(1000)), None, Value::Memory(KiB(900)));
        assert_eq!(entry.restore_verdict(&Value::Memory(KiB(950))), RestoreVerdict::Restore);
        assert_eq!(entry.restore_verdict(&Value::Memory(KiB(800))), RestoreVerdict::Drift);
    }
}
