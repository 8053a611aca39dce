//! Changes of one value of a domain through libvirt: weight, pins, balloon.

use std::time::Duration;

use kvmpilot_core::Uuid;
use kvmpilot_core::decide::ENFORCE;
use kvmpilot_core::ledger::{LedgerEntry, LedgerTarget, RestoreVerdict, Value};
use kvmpilot_core::order::{Action, WorkOrder};
use kvmpilot_core::units::KiB;
use tokio::time::Instant;

use super::{Done, Executor, Failure, crash_point};

/// How long a moving balloon is watched: a domain that is being changed gets no memory back meanwhile. Whether its guest
/// follows at all is `decide`'s question.
const BALLOON_TIME: Duration = Duration::from_secs(1);
/// Pause between two looks at it.
const BALLOON_LOOK: Duration = Duration::from_millis(50);

impl Executor {
    /// Carries out an order about one value of libvirt's.
    pub(super) async fn change_value(
        &self,
        order: &WorkOrder,
        incarnation: &str,
        action: &Action,
    ) -> Result<Done, Failure> {
        let proposal = &order.proposal;
        let (target, seen, wanted) = match action {
            Action::SetCpuShares { from, to } => {
                (LedgerTarget::CpuShares, Value::Shares(*from), Value::Shares(*to))
            }
            Action::PinVcpu { vcpu, from, to } => {
                (LedgerTarget::VcpuPin { vcpu: *vcpu }, Value::Pin(from.clone()), Value::Pin(to.clone()))
            }
            Action::PinEmulator { from, to } => {
                (LedgerTarget::EmulatorPin, Value::Pin(from.clone()), Value::Pin(to.clone()))
            }
            Action::PinIothread { iothread, from, to } => (
                LedgerTarget::IothreadPin { iothread: *iothread },
                Value::Pin(from.clone()),
                Value::Pin(to.clone()),
            ),
            Action::SetBalloon { from, to } => {
                (LedgerTarget::Balloon, Value::Memory(*from), Value::Memory(*to))
            }
            Action::SetLevel { .. }
            | Action::MoreVcpus { .. }
            | Action::MoreMemory { .. }
            | Action::MoveAway { .. } => return Err(Failure::NotOurs),
        };
        let domain = proposal.domain;
        let live = self.read(domain, &target).await?;
        // A balloon on its way has two values, where it is and where it goes: only setting it again is sure.
        let balloon = target == LedgerTarget::Balloon;
        if live == wanted && !(balloon && proposal.release) {
            // Ours from an earlier try, or somebody else's: whose it is, the ledger knows.
            let ours =
                self.ledger.entries_of(domain).into_iter().any(|entry| {
                    entry.target == target && entry.restore_verdict(&live) != RestoreVerdict::Drift
                });
            if ours {
                self.ledger.settle(domain, vec![(target.clone(), live)]).await?;
            }
            return Ok(Done::Already(format!("{target} was {wanted} already")));
        }
        if live != seen && !(balloon && proposal.release) {
            let what = format!("{target} of {}", proposal.domain_name);
            return Err(Failure::Moved { what, live: live.to_string(), seen: seen.to_string() });
        }
        let entry = LedgerEntry {
            domain,
            domain_name: proposal.domain_name.clone(),
            incarnation: incarnation.to_owned(),
            target: target.clone(),
            original: live.clone(),
            applied: None,
            intended: wanted.clone(),
        };
        crash_point("announce");
        let overrules = proposal.reason.rule == ENFORCE;
        self.ledger.announce(vec![(entry, live.clone())], overrules).await?;
        crash_point("claim");
        if let Err(refused) = self.claim(order.id, incarnation).await {
            // Of a balloon on its way the ledger knows more than what is live.
            if !balloon {
                self.ledger.settle(domain, vec![(target, live)]).await?;
            }
            return Err(refused);
        }
        crash_point("set");
        let result = self.set(domain, &target, &live, &wanted).await;
        crash_point("settle");
        // Whatever happened, the ledger follows what is there now; but a balloon that has not arrived may still move.
        if let Ok(now) = self.read(domain, &target).await
            && (!balloon || result.is_err() || now == wanted)
        {
            self.ledger.settle(domain, vec![(target, now)]).await?;
        }
        result.map(Done::Changed)
    }

    /// Sets a value and reads it back.
    pub(super) async fn set(
        &self,
        domain: Uuid,
        target: &LedgerTarget,
        before: &Value,
        wanted: &Value,
    ) -> Result<String, Failure> {
        match (target, wanted) {
            (LedgerTarget::CpuShares, Value::Shares(shares)) => {
                self.libvirt.set_cpu_shares(domain, *shares).await?;
            }
            (LedgerTarget::VcpuPin { vcpu }, Value::Pin(pcpus)) => {
                self.libvirt.pin_vcpu(domain, *vcpu, pcpus).await?;
            }
            (LedgerTarget::EmulatorPin, Value::Pin(pcpus)) => {
                self.libvirt.pin_emulator(domain, pcpus).await?;
            }
            (LedgerTarget::IothreadPin { iothread }, Value::Pin(pcpus)) => {
                self.libvirt.pin_iothread(domain, *iothread, pcpus).await?;
            }
            (LedgerTarget::Balloon, Value::Memory(memory)) => {
                self.libvirt.set_balloon(domain, memory.0).await?;
                crash_point("read_back");
                return self.await_balloon(domain, before, *memory).await;
            }
            _ => return Err(Failure::Unreadable(target.to_string())),
        }
        crash_point("read_back");
        let live = self.read(domain, target).await?;
        if live == *wanted {
            Ok(format!("{target} was set from {before} to {wanted} and read back"))
        } else {
            Err(Failure::NotTaken {
                what: target.to_string(),
                wanted: wanted.to_string(),
                live: live.to_string(),
            })
        }
    }

    /// Reads the live value.
    pub(super) async fn read(&self, domain: Uuid, target: &LedgerTarget) -> Result<Value, Failure> {
        let unreadable = || Failure::Unreadable(target.to_string());
        Ok(match target {
            LedgerTarget::CpuShares => Value::Shares(self.libvirt.cpu_shares(domain).await?),
            LedgerTarget::VcpuPin { vcpu } => {
                let vcpus = self.libvirt.vcpu_pins(domain).await?;
                let found = vcpus.into_iter().find(|other| other.number == *vcpu);
                Value::Pin(found.and_then(|found| found.pin).ok_or_else(unreadable)?)
            }
            LedgerTarget::EmulatorPin => Value::Pin(self.libvirt.emulator_pin(domain).await?),
            LedgerTarget::IothreadPin { iothread } => {
                let iothreads = self.libvirt.iothread_pins(domain).await?;
                let found = iothreads.into_iter().find(|other| other.number == *iothread);
                Value::Pin(found.and_then(|found| found.pin).ok_or_else(unreadable)?)
            }
            LedgerTarget::Balloon => Value::Memory(KiB(self.libvirt.balloon_current_kib(domain).await?)),
            LedgerTarget::Nice { .. }
            | LedgerTarget::UnitWeight { .. }
            | LedgerTarget::Autogroup { .. }
            | LedgerTarget::Affinity { .. } => return Err(unreadable()),
        })
    }

    /// Watches the guest move its balloon for a moment.
    async fn await_balloon(&self, domain: Uuid, before: &Value, wanted: KiB) -> Result<String, Failure> {
        let end = Instant::now() + BALLOON_TIME;
        loop {
            let live = self.read(domain, &LedgerTarget::Balloon).await?;
            if live == Value::Memory(wanted) {
                return Ok(format!("the balloon was set from {before} to {wanted}, and the guest followed"));
            }
            if Instant::now() >= end {
                return Ok(format!(
                    "the balloon was set from {before} to {wanted}; the guest has got to {live} so far"
                ));
            }
            tokio::time::sleep(BALLOON_LOOK).await;
        }
    }
}
