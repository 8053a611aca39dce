//! The routes and their handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use kvmpilot_core::order::{OrderState, WorkOrder};
use nix::unistd::Gid;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::ask::{self, Ask};
use super::command::{ApiContext, Command, CommandRequest, WatchRequest};
use super::peer::Peer;
use super::present;
use super::problem::Failure;
use super::record::{RecordingRequest, record};
use super::serve::Limits;
use super::views::{
    CommandReply, DoctorView, DomainDetailView, DomainView, DomainsView, FlowsView, OrdersView,
    ProcessesView, RulesView, ServiceView, ServicesView, StatusView, StealView, Views, WatchAsk, WatchView,
};
use crate::store::{OrderFilter, StoreError};

/// Orders in one page unless the client wants fewer or, up to `MOST_ORDERS`, more.
const ORDERS: u32 = 100;
const MOST_ORDERS: u32 = 1000;
/// Transitions of a service that are shown.
const TRANSITIONS: u32 = 20;

pub(super) struct Shared {
    context: ApiContext,
    group: Option<Gid>,
    limits: Limits,
}

pub(super) type Api = State<Arc<Shared>>;
pub(super) type Answer<T> = Result<Json<T>, Failure>;

pub(super) fn router(context: ApiContext, group: Option<Gid>, limits: Limits) -> Router {
    let routes = Router::new()
        .route("/status", get(status))
        .route("/domains", get(domains))
        .route("/domains/{domain}", get(domain))
        .route("/domains/{domain}/processes", get(processes))
        .route("/domains/{domain}/flows", get(flows))
        .route("/domains/{domain}/watch", post(watch))
        .route("/domains/{domain}/explain", get(ask::explain))
        .route("/domains/{domain}/policy", get(ask::show_policy).post(ask::change_policy))
        .route("/orders", get(orders))
        .route("/orders/{id}", get(order))
        .route("/orders/{id}/approve", post(|api, peer, id| change(api, peer, id, Command::Approve)))
        .route("/orders/{id}/reject", post(|api, peer, id| change(api, peer, id, Command::Reject)))
        .route("/orders/{id}/rollback", post(|api, peer, id| change(api, peer, id, Command::Rollback)))
        .route("/restore", post(restore))
        .route("/steal", get(steal))
        .route("/record", get(record))
        .route("/rules", get(rules))
        .route("/services", get(services))
        .route("/services/{name}", get(service))
        .route("/learn", post(ask::learn))
        .route("/doctor", get(doctor));
    Router::new()
        .nest("/api/v1", routes)
        .fallback(|uri: Uri| async move {
            Failure::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let detail = format!("{} does not understand {method}", uri.path());
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .with_state(Arc::new(Shared { context, group, limits }))
}

impl Shared {
    pub(super) fn recorders(&self) -> &mpsc::Sender<RecordingRequest> {
        &self.context.recorders
    }

    pub(super) fn asks(&self) -> &mpsc::Sender<Ask> {
        &self.context.asks
    }

    fn views(&self) -> Arc<Views> {
        Arc::clone(&self.context.views.borrow())
    }

    async fn store<T: Send + 'static>(
        &self,
        query: impl FnOnce(&crate::store::Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.context.store.clone();
        spawn_blocking(move || query(&store)).await.map_err(|_| Failure::stopping())?.map_err(Failure::from)
    }

    /// Refuses peers who may only look.
    pub(super) async fn entitled(&self, peer: Peer, what: &str) -> Result<(), Failure> {
        let group = self.group;
        if spawn_blocking(move || peer.may_change(group)).await.map_err(|_| Failure::stopping())? {
            return Ok(());
        }
        let detail = format!("only root and members of the group in daemon.socket_group may {what}");
        Err(Failure::new(StatusCode::FORBIDDEN, detail))
    }

    /// Passes a command of an entitled peer on to the daemon and waits for what comes of it.
    async fn command(&self, peer: Peer, command: Command) -> Answer<CommandReply> {
        self.entitled(peer, "change something").await?;
        let (reply, answer) = oneshot::channel();
        let request = CommandRequest { command, by_uid: peer.uid, reply };
        let pass_on = async {
            self.context.commands.send(request).await.map_err(|_| Failure::stopping())?;
            answer.await.map_err(|_| Failure::stopping())
        };
        let answer = timeout(self.limits.command, pass_on).await.map_err(|_| {
            let detail = format!(
                "kvmpilotd was not done within {} s; it goes on, and `kvmpilot orders` shows what comes of it",
                self.limits.command.as_secs()
            );
            Failure::new(StatusCode::GATEWAY_TIMEOUT, detail)
        })??;
        Ok(Json(answer?))
    }
}

async fn status(State(api): Api) -> Json<StatusView> {
    Json(api.views().status.clone())
}

async fn doctor(State(api): Api) -> Json<DoctorView> {
    Json(api.views().doctor.clone())
}

async fn rules(State(api): Api) -> Json<RulesView> {
    Json(api.views().rules.clone())
}

async fn services(State(api): Api) -> Json<ServicesView> {
    Json(api.views().services.clone())
}

async fn service(State(api): Api, name: Result<Path<String>, PathRejection>) -> Answer<ServiceView> {
    let Path(name) = name.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let views = api.views();
    let service = views.services.services.iter().find(|service| service.name == name).cloned();
    let service = service.ok_or_else(|| {
        let detail = format!("there is no service \"{name}\"; `kvmpilot services` lists them");
        Failure::new(StatusCode::NOT_FOUND, detail)
    })?;
    let transitions = api.store(move |store| store.transitions(&name, TRANSITIONS)).await?;
    Ok(Json(ServiceView { service, transitions }))
}

async fn steal(State(api): Api) -> Json<StealView> {
    Json(api.views().steal.clone())
}

async fn domains(State(api): Api) -> Json<DomainsView> {
    let domains: Vec<DomainView> = api.views().domains.iter().map(|domain| domain.row.clone()).collect();
    Json(DomainsView { domains })
}

async fn domain(State(api): Api, name: Result<Path<String>, PathRejection>) -> Answer<DomainDetailView> {
    Ok(Json(find(&api.views(), name)?.clone()))
}

async fn processes(State(api): Api, name: Result<Path<String>, PathRejection>) -> Answer<ProcessesView> {
    let views = api.views();
    let row = &find(&views, name)?.row;
    let processes = views.processes.iter().find(|processes| processes.uuid == row.uuid).cloned();
    Ok(Json(processes.unwrap_or_else(|| ProcessesView {
        domain: row.name.clone(),
        uuid: row.uuid,
        message: Some(
            row.agent.message.clone().unwrap_or_else(|| "the guest has not been asked yet".to_owned()),
        ),
        ..ProcessesView::default()
    })))
}

async fn flows(State(api): Api, name: Result<Path<String>, PathRejection>) -> Answer<FlowsView> {
    let views = api.views();
    let row = &find(&views, name)?.row;
    let flows = views.flows.iter().find(|flows| flows.uuid == row.uuid).cloned();
    Ok(Json(flows.unwrap_or_else(|| FlowsView {
        domain: row.name.clone(),
        uuid: row.uuid,
        message: Some("the domain has not been looked at yet".to_owned()),
        ..FlowsView::default()
    })))
}

fn find(views: &Views, name: Result<Path<String>, PathRejection>) -> Result<&DomainDetailView, Failure> {
    let Path(name) = name.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    views.domain(&name).ok_or_else(|| {
        let detail = format!("there is no domain \"{name}\"; `kvmpilot domains` lists them");
        Failure::new(StatusCode::NOT_FOUND, detail)
    })
}

/// Which orders to list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OrderQuery {
    state: Option<OrderState>,
    domain: Option<String>,
    limit: Option<u32>,
    before: Option<u64>,
    since_unix_ms: Option<u64>,
    #[serde(default)]
    history: bool,
}

async fn orders(State(api): Api, query: Result<Query<OrderQuery>, QueryRejection>) -> Answer<OrdersView> {
    let Query(query) = query.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let limit = query.limit.unwrap_or(ORDERS).clamp(1, MOST_ORDERS);
    // One more than asked for tells whether there is another page.
    let filter = OrderFilter {
        state: query.state,
        domain: query.domain,
        before: query.before,
        since_unix_ms: query.since_unix_ms,
        with_history: query.history,
        limit: Some(limit + 1),
    };
    let mut orders = api.store(move |store| store.orders(&filter)).await?;
    let page = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = orders.len() > page;
    orders.truncate(page);
    let next_before = orders.last().filter(|_| more).map(|order| order.id);
    Ok(Json(OrdersView { orders, next_before }))
}

type Id = Result<Path<u64>, PathRejection>;

fn order_id(id: Id) -> Result<u64, Failure> {
    let bad = |_| Failure::new(StatusCode::BAD_REQUEST, "a work order is named by its number");
    id.map(|Path(id)| id).map_err(bad)
}

async fn order(State(api): Api, id: Id) -> Answer<WorkOrder> {
    let id = order_id(id)?;
    let order = api.store(move |store| store.order(id)).await?;
    order.map(Json).ok_or_else(|| super::CommandError::NoSuchOrder(id).into())
}

async fn change(
    State(api): Api,
    Extension(peer): Extension<Peer>,
    id: Id,
    command: fn(u64) -> Command,
) -> Answer<CommandReply> {
    api.command(peer, command(order_id(id)?)).await
}

/// Answers when the watch is over. If the asker goes, so does this future, and with it the receiver that keeps the
/// watch going.
async fn watch(
    State(api): Api,
    Extension(peer): Extension<Peer>,
    name: Result<Path<String>, PathRejection>,
    ask: Result<Json<WatchAsk>, JsonRejection>,
) -> Answer<WatchView> {
    let Json(ask) = ask.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    api.entitled(peer, "have something attached to the kernel").await?;
    let domain = find(&api.views(), name)?.row.uuid;
    let length = Duration::from_secs(ask.for_s.into());
    let (reply, answer) = oneshot::channel();
    let request = WatchRequest { domain, what: ask.what, length, by_uid: peer.uid, reply };
    api.context.watches.send(request).await.map_err(|_| Failure::stopping())?;
    let outcome = answer.await.map_err(|_| Failure::stopping())??;
    Ok(Json(present::watch(&outcome)))
}

async fn restore(State(api): Api, Extension(peer): Extension<Peer>) -> Answer<CommandReply> {
    api.command(peer, Command::Restore).await
}
