//! What the daemon says at one moment.

use std::collections::HashMap;

use kvmpilot_core::Uuid;
use kvmpilot_core::order::{OrderState, WorkOrder};

use super::super::client::{Client, ClientError, encode};
use crate::api::views::{
    DomainDetailView, DomainStealView, DomainView, DomainsView, OrdersView, ProcessesView, RunnerKind,
    StatusView, StealView, VcpusView,
};
use crate::clock::unix_ms;

/// Orders of all domains that are looked at for what was changed last.
const ORDERS: u32 = 200;
/// Orders that are shown of one domain.
const ORDERS_OF_ONE: u32 = 50;

/// Everything that is shown, as of one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Moment {
    pub(super) taken_unix_ms: u64,
    pub(super) status: StatusView,
    pub(super) domains: Vec<DomainView>,
    pub(super) steal: HashMap<Uuid, DomainStealView>,
    /// The pcpus that each domain's vcpus ran on last, in the order of the vcpus.
    pub(super) pcpus: HashMap<Uuid, Vec<Option<u32>>>,
    /// The newest change of each domain that was carried out.
    pub(super) changes: HashMap<Uuid, WorkOrder>,
    /// The domain that was asked about.
    pub(super) focus: Option<Focus>,
}

/// One domain with all that is shown of it.
#[derive(Clone, Debug)]
pub(super) struct Focus {
    /// What was asked for: a name or a UUID.
    pub(super) asked: String,
    /// Why there is nothing, if so.
    pub(super) found: Result<Box<Found>, String>,
}

#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) domain: DomainDetailView,
    pub(super) processes: ProcessesView,
    pub(super) orders: Vec<WorkOrder>,
}

impl Moment {
    /// Asks the daemon, also about one domain if it is named.
    pub(super) async fn ask(client: &Client, focus: Option<&str>) -> Result<Self, ClientError> {
        let orders = format!("/orders?limit={ORDERS}");
        let (status, domains, steal, orders, vcpus) = tokio::try_join!(
            client.get::<StatusView>("/status"),
            client.get::<DomainsView>("/domains"),
            client.get::<StealView>("/steal"),
            client.get::<OrdersView>(&orders),
            vcpus(client),
        )?;
        let focus = match focus {
            Some(name) => Some(Focus::ask(client, name).await?),
            None => None,
        };
        let mut moment = Self::of(status, domains, steal, orders);
        moment.place(vcpus);
        moment.taken_unix_ms = unix_ms();
        moment.focus = focus;
        Ok(moment)
    }

    pub(super) fn of(status: StatusView, domains: DomainsView, steal: StealView, orders: OrdersView) -> Self {
        let steal = steal.domains.into_iter().map(|row| (row.uuid, row)).collect();
        let mut changes: HashMap<Uuid, WorkOrder> = HashMap::new();
        for order in orders.orders.into_iter().filter(is_change) {
            let newer = |known: &WorkOrder| known.changed_unix_ms >= order.changed_unix_ms;
            if !changes.get(&order.proposal.domain).is_some_and(newer) {
                changes.insert(order.proposal.domain, order);
            }
        }
        Self { status, domains: domains.domains, steal, changes, ..Self::default() }
    }

    pub(super) fn place(&mut self, mut view: VcpusView) {
        view.vcpus.sort_by_key(|vcpu| vcpu.number);
        for vcpu in view.vcpus {
            self.pcpus.entry(vcpu.uuid).or_default().push(vcpu.pcpu);
        }
    }

    /// Share of the window in which others ran while the domain's vcpus waited, for each vcpu; `None` without the probe.
    pub(super) fn stolen(&self, domain: Uuid) -> Option<f64> {
        let row = self.steal.get(&domain)?;
        let others = row.by.iter().filter(|part| part.uuid != Some(domain));
        Some(others.map(|part| part.window_ratio).sum())
    }

    /// Who took most of it.
    pub(super) fn taker(&self, domain: Uuid) -> Option<String> {
        let row = self.steal.get(&domain)?;
        let others = row.by.iter().filter(|part| part.uuid != Some(domain) && part.ms > 0.0);
        let most = others.max_by(|a, b| a.ms.total_cmp(&b.ms))?;
        Some(match most.runner {
            RunnerKind::Host => "the host".to_owned(),
            RunnerKind::Domain => most.domain.clone().unwrap_or_else(|| "a gone domain".to_owned()),
            RunnerKind::Unknown => "unknown".to_owned(),
        })
    }
}

/// Where all vcpus are; a daemon that is older than this question knows no answer.
async fn vcpus(client: &Client) -> Result<VcpusView, ClientError> {
    match client.get("/vcpus").await {
        Err(ClientError::Refused(_)) => Ok(VcpusView::default()),
        answered => answered,
    }
}

impl Focus {
    async fn ask(client: &Client, name: &str) -> Result<Self, ClientError> {
        let segment = encode(name);
        let (domain, processes, orders) = (
            format!("/domains/{segment}"),
            format!("/domains/{segment}/processes"),
            format!("/orders?domain={segment}&limit={ORDERS_OF_ONE}"),
        );
        let answers = tokio::try_join!(
            client.get::<DomainDetailView>(&domain),
            client.get::<ProcessesView>(&processes),
            client.get::<OrdersView>(&orders),
        );
        let found = match answers {
            Ok((domain, processes, orders)) => {
                Ok(Box::new(Found { domain, processes, orders: orders.orders }))
            }
            // It may have gone between two looks; that is no trouble with the daemon.
            Err(ClientError::Refused(why)) => Err(why),
            Err(error) => return Err(error),
        };
        Ok(Self { asked: name.to_owned(), found })
    }
}

/// Whether something was changed, or changed back.
fn is_change(order: &WorkOrder) -> bool {
    order.state.is_in_force() || order.state == OrderState::RolledBack
}
