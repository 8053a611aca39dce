//! [`LedgerEntry`]: the original of a value that we changed, and what to do with it when everything goes back.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::CpuSet;
use crate::sample::ProcessKey;
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
    /// The balloon.
    Balloon,
    /// Nice value of one guest process and all its threads.
    Nice {
        /// Identity inside the guest.
        key: ProcessKey,
        /// Its name.
        name: String,
    },
}

impl fmt::Display for LedgerTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CpuShares => f.write_str("cpu_shares"),
            Self::VcpuPin { vcpu } => write!(f, "pin of vcpu {vcpu}"),
            Self::EmulatorPin => f.write_str("emulator pin"),
            Self::Balloon => f.write_str("balloon"),
            Self::Nice { key, name } => write!(f, "nice of {name} ({})", key.pid),
        }
    }
}

/// A value as libvirt or the guest has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// `cpu_shares`.
    Shares(u64),
    /// A pin.
    Pin(CpuSet),
    /// Memory of the domain.
    Memory(KiB),
    /// Nice value.
    Nice(i8),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shares(shares) => shares.fmt(f),
            Self::Pin(pcpus) => pcpus.fmt(f),
            Self::Memory(memory) => memory.fmt(f),
            Self::Nice(nice) => nice.fmt(f),
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

impl LedgerEntry {
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
    fn a_balloon_between_two_targets_is_ours() {
        let entry = entry(Value::Memory(KiB(1000)), None, Value::Memory(KiB(900)));
        assert_eq!(entry.restore_verdict(&Value::Memory(KiB(950))), RestoreVerdict::Restore);
        assert_eq!(entry.restore_verdict(&Value::Memory(KiB(800))), RestoreVerdict::Drift);
    }
}
