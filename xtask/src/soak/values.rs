//! Values, as virsh and the guests tell them: who can be asked, and whether they are what they were, or what the orders say.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use kvmpilot_tests::witness::is_in_force;
use kvmpilot_tests::{Witness, api, wait_for};
use serde_json::{Value, json};

use super::pool::{Guest, KEPT, Power};
use super::world::Soak;
use super::{AUTO, Broken, OBSERVE, PATIENCE};

/// More of them are not asked for: the most that there are in one answer.
const ORDERS: u32 = 1000;

/// Advice is carried out by people, and has no value that could be looked at.
fn is_carried_out(order: &Value) -> bool {
    let kind = order["action"]["kind"].as_str();
    kind.is_some_and(|kind| kind.starts_with("set_") || kind.starts_with("pin_"))
}

impl Soak<'_> {
    /// Guests that can be asked and put back now.
    pub(super) fn well(&self) -> Vec<String> {
        let well = |guest: &&Guest| {
            guest.power == Power::On
                && !guest.is_sick()
                && (!guest.spec.agent || self.lab.agent(guest.name(), "guest-ping", &json!({})).is_ok())
        };
        self.guests.iter().filter(well).map(|guest| guest.name().to_owned()).collect()
    }

    /// Guests of which something may be impossible to put back now.
    pub(super) fn out_of_reach(&self) -> Vec<String> {
        let well = self.well();
        let out = |guest: &&Guest| guest.power != Power::Off && !well.iter().any(|name| name == guest.name());
        self.guests.iter().filter(out).map(|guest| guest.name().to_owned()).collect()
    }

    /// What these guests have to look like when nothing is changed: as at first, with the vcpus that were plugged in since.
    fn expected(&self, whom: &[&str]) -> Witness {
        let mut expected = self.before.of(whom);
        for guest in self.guests.iter().filter(|guest| whom.contains(&guest.name())) {
            let first = expected.pins.get(&(guest.name().to_owned(), 0)).cloned();
            for vcpu in guest.spec.vcpus..guest.spec.vcpus + guest.plugged {
                let key = (guest.name().to_owned(), vcpu);
                expected.pins.extend(first.clone().map(|pin| (key, pin)));
            }
        }
        expected
    }

    /// Waits until all values of these guests are what they were at first.
    pub(super) fn values_are_back(&mut self, whom: &[String]) -> Result<()> {
        let names: Vec<&str> = whom.iter().map(String::as_str).collect();
        let expected = self.expected(&names);
        let back = wait_for("the values to be what they were", PATIENCE, || {
            Witness::look_at(self.lab, &names)?.is_as(&expected)
        });
        back.context(Broken)?;
        self.books.values_checked += u64::try_from(names.len())?;
        Ok(())
    }

    /// The guests that kvmpilot may only look at are as they were, and no order was ever made for one.
    pub(super) fn kept_are_untouched(&mut self) -> Result<()> {
        let whom: Vec<&str> = self
            .guests
            .iter()
            .filter(|guest| guest.is_kept() && guest.power == Power::On)
            .map(Guest::name)
            .collect();
        // Its own server may starve its agent; what it says once it speaks counts at once.
        let now = wait_for("the excluded guests to answer", PATIENCE, || Witness::look_at(self.lab, &whom))?;
        now.is_as(&self.expected(&whom)).context("an excluded guest was touched").context(Broken)?;
        for kept in KEPT {
            if let Some(order) = self.orders(&format!("domain={kept}&limit=1"))?.first() {
                return Err(anyhow!("an order for an excluded guest: {order}")).context(Broken);
            }
        }
        self.books.kept_checked += 1;
        Ok(())
    }

    /// Lets no order be on its way, compares those in force with what is found, and lets things go on.
    pub(super) fn audit(&mut self) -> Result<String> {
        self.life()?.daemon.reload(OBSERVE)?;
        wait_for("the orders under way to end", PATIENCE, || {
            let status = api::get(&self.life()?.daemon.socket(), "/api/v1/status")?;
            ensure!(status["mode"] == "observe", "the configuration was not read again yet");
            for state in ["approved", "applied"] {
                let under_way = self.orders(&format!("state={state}&limit={ORDERS}"))?;
                ensure!(!under_way.iter().any(is_carried_out), "orders are on their way: {under_way:?}");
            }
            Ok(())
        })
        .context(Broken)?;
        let whom = self.well();
        let names: Vec<&str> = whom.iter().map(String::as_str).collect();
        let compared = wait_for("the orders to agree with what is found", PATIENCE, || {
            let orders = self.orders_in_force(&whom)?;
            Witness::look_at(self.lab, &names)?.agrees_with(&orders)?;
            Ok(orders.len())
        })
        .context(Broken)?;
        self.books.audits += 1;
        self.books.orders_compared += u64::try_from(compared)?;
        self.life()?.daemon.reload(AUTO)?;
        Ok(format!("{compared} orders in force agree with what {} guests say", whom.len()))
    }

    /// `kvmpilot restore`: everything goes back while the daemon runs, and stays there until it is told to go on.
    pub(super) fn restore(&mut self) -> Result<String> {
        let out_of_reach = self.out_of_reach();
        let output = self.life()?.daemon.command(&["restore", "--json"])?.output()?;
        if !output.status.success() && out_of_reach.is_empty() {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            return Err(anyhow!("kvmpilot restore failed: {said}")).context(Broken);
        }
        let whom = self.well();
        self.values_are_back(&whom)?;
        self.void = self.newest_order();
        self.life()?.daemon.reload(AUTO)?;
        Ok(format!("the values of {} guests are what they were", whom.len()))
    }

    /// Orders whose change is in force on these guests, of this life of the daemon and of theirs.
    pub(super) fn orders_in_force(&self, whom: &[String]) -> Result<Vec<Value>> {
        let since = |name: &str| {
            let guest =
                self.guests.iter().find(|guest| guest.name() == name && whom.iter().any(|it| it == name));
            guest.map(|guest| guest.since.max(self.void))
        };
        let counts = |order: &Value| {
            let since = order["domain_name"].as_str().and_then(since);
            is_carried_out(order)
                && is_in_force(order)
                && since.is_some_and(|since| order["id"].as_u64() > Some(since))
        };
        let mut orders = self.orders(&format!("state=verified&limit={ORDERS}"))?;
        orders.extend(self.orders(&format!("state=kept&limit={ORDERS}"))?);
        orders.retain(counts);
        // Of several for one value the newest counts.
        orders.sort_by_key(|order| std::cmp::Reverse(order["id"].as_u64()));
        Ok(orders)
    }

    /// The newest orders that are like this, newest first.
    fn orders(&self, query: &str) -> Result<Vec<Value>> {
        let path = format!("/api/v1/orders?{query}");
        let answer = api::get(&self.life()?.daemon.socket(), &path)?;
        Ok(answer["orders"].as_array().context("no list of orders")?.clone())
    }

    /// Its number; the last one that is known while the daemon is down.
    pub(super) fn newest_order(&mut self) -> u64 {
        let newest = self.orders("limit=1").ok().and_then(|orders| orders.first()?["id"].as_u64());
        self.books.newest_order = newest.unwrap_or(self.books.newest_order);
        self.books.newest_order
    }

    /// Sends the client to one of the servers that are on.
    pub(super) fn move_load(&mut self) -> Option<String> {
        let on = |guest: &&Guest| guest.power == Power::On && guest.serves();
        let servers: Vec<String> =
            self.guests.iter().filter(on).map(|guest| guest.name().to_owned()).collect();
        let server = self.rng.choice(servers);
        self.load.move_to(server.clone());
        server
    }

    /// How long the agent of a guest may take to do something in it.
    pub(super) fn inside(&self, at: usize, script: &str) -> Result<()> {
        self.lab.guest_exec(self.guests[at].name(), script, Duration::from_secs(60)).map(drop)
    }
}
