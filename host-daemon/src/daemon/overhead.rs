//! Keeps the daemon's own cost to its budget: what `decide` gives up is switched off here, and on again.

use kvmpilot_core::decide::{OverheadStep, Shed};

use super::Daemon;

impl Daemon {
    /// After each tick. Detail follows by itself: the windows' next plan asks for it.
    pub(super) fn keep_to_budget(&mut self) {
        let present = self.sheddable();
        let (step, finding) = self.overhead.tick(&self.latest, &self.config.policy.overhead, &present);
        self.findings.insert("overhead", finding.into_iter().collect());
        let bill = self.overhead.bill().map(|bill| bill.to_string()).unwrap_or_default();
        match step {
            Some(OverheadStep::Shed(what)) => {
                tracing::warn!(%what, bill, "given up, because kvmpilot costs more than its budget");
            }
            Some(OverheadStep::TakeBack(what)) => tracing::info!(%what, bill, "taken back"),
            None => return,
        }
        if let Some(flows) = &self.flows {
            flows.set_enabled(!self.overhead.is_shed(Shed::Flows));
        }
        let allowed = if self.overhead.is_shed(Shed::Watches) { Err(bill) } else { Ok(()) };
        self.desk.set_allowed(allowed);
    }

    /// What could be given up.
    fn sheddable(&self) -> Vec<Shed> {
        let watches = self.tiers.iter().any(|tier| tier.tier == 2 && tier.on);
        let flows = self.flows.as_ref().map(|_| Shed::Flows);
        flows.into_iter().chain(watches.then_some(Shed::Watches)).chain([Shed::Detail]).collect()
    }
}
