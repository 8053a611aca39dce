//! The routes and their handlers.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::{Extension, Json, Router};
use kvmpilot_core::order::{OrderState, Story, WorkOrder};
use nix::unistd::Gid;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::ask::Ask;
use super::caller::Caller;
use super::command::{ApiContext, Command, CommandRequest, WatchRequest};
use super::console;
use super::events::Telling;
use super::operations::{BASE, operations};
use super::present;
use super::problem::Failure;
use super::record::RecordingRequest;
use super::serve::Limits;
use super::tokens::Tokens;
use super::views::{
    CommandReply, DoctorView, DomainDetailView, DomainView, DomainsView, FlowsView, OrdersView,
    ProcessesView, RulesView, ServiceView, ServicesView, StatusView, StealView, Views, WatchAsk, WatchView,
};
use crate::store::{OrderFilter, StoreError};
use crate::users::name_of;

/// Orders in one page unless the client wants fewer or, up to `MOST_ORDERS`, more.
const ORDERS: u32 = 100;
const MOST_ORDERS: u32 = 1000;
/// Transitions of a service that are shown.
const TRANSITIONS: u32 = 20;

pub(super) struct Shared {
    pub(super) context: ApiContext,
    pub(super) group: Option<Gid>,
    pub(super) tokens: Tokens,
    pub(super) telling: Telling,
    limits: Limits,
}

pub(super) type Api = State<Arc<Shared>>;
pub(super) type Answer<T> = Result<Json<T>, Failure>;

pub(super) fn router(context: ApiContext, group: Option<Gid>, limits: Limits, tokens: Tokens) -> Router {
    let telling = Telling::start(context.views.clone(), context.store.clone());
    let routes = operations()
        .into_iter()
        .fold(Router::new(), |router, operation| router.route(operation.path, operation.handler));
    Router::new()
        .nest(BASE, routes)
        .route("/metrics", axum::routing::get(super::metrics::metrics))
        .merge(console::router())
        .fallback(|uri: Uri| async move {
            Failure::new(StatusCode::NOT_FOUND, format!("there is nothing at {}", uri.path()))
        })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            let detail = format!("{} does not understand {method}", uri.path());
            Failure::new(StatusCode::METHOD_NOT_ALLOWED, detail)
        })
        .with_state(Arc::new(Shared { telling, context, group, tokens, limits }))
}

impl Shared {
    pub(super) fn recorders(&self) -> &mpsc::Sender<RecordingRequest> {
        &self.context.recorders
    }

    pub(super) fn asks(&self) -> &mpsc::Sender<Ask> {
        &self.context.asks
    }

    pub(super) fn views(&self) -> Arc<Views> {
        Arc::clone(&self.context.views.borrow())
    }

    pub(super) async fn store<T: Send + 'static>(
        &self,
        query: impl FnOnce(&crate::store::Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = self.context.store.clone();
        spawn_blocking(move || query(&store)).await.map_err(|_| Failure::stopping())?.map_err(Failure::from)
    }

    /// Refuses clients who may only look.
    pub(super) async fn entitled(&self, caller: &Caller, what: &str) -> Result<(), Failure> {
        let (group, caller) = (self.group, caller.clone());
        if spawn_blocking(move || caller.may_change(group)).await.map_err(|_| Failure::stopping())? {
            return Ok(());
        }
        let detail = format!(
            "only root, members of the group in daemon.socket_group and tokens for changes may {what}"
        );
        Err(Failure::new(StatusCode::FORBIDDEN, detail))
    }

    /// Passes a command of an entitled client on to the daemon and waits for what comes of it.
    async fn command(&self, caller: &Caller, command: Command) -> Answer<CommandReply> {
        self.entitled(caller, "change something").await?;
        let (reply, answer) = oneshot::channel();
        let request = CommandRequest { command, by: caller.asker(), reply };
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

pub(super) async fn status(State(api): Api) -> Json<StatusView> {
    Json(api.views().status.clone())
}

pub(super) async fn doctor(State(api): Api) -> Json<DoctorView> {
    Json(api.views().doctor.clone())
}

pub(super) async fn rules(State(api): Api) -> Json<RulesView> {
    Json(api.views().rules.clone())
}

pub(super) async fn services(State(api): Api) -> Json<ServicesView> {
    Json(api.views().services.clone())
}

pub(super) async fn service(
    State(api): Api,
    name: Result<Path<String>, PathRejection>,
) -> Answer<ServiceView> {
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

pub(super) async fn steal(State(api): Api) -> Json<StealView> {
    Json(api.views().steal.clone())
}

/// Which domains to list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DomainQuery {
    /// At most so many; all without.
    limit: Option<u32>,
    /// Those behind this name: `next_after` of the page before.
    after: Option<String>,
}

pub(super) async fn domains(
    State(api): Api,
    query: Result<Query<DomainQuery>, QueryRejection>,
) -> Answer<DomainsView> {
    let Query(query) = query.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let page = usize::try_from(query.limit.unwrap_or(u32::MAX).max(1)).unwrap_or(usize::MAX);
    let views = api.views();
    let mut rest = views
        .domains
        .iter()
        .map(|domain| &domain.row)
        .skip_while(|row| query.after.as_ref().is_some_and(|after| row.name <= *after));
    let domains: Vec<DomainView> = rest.by_ref().take(page).cloned().collect();
    let next_after = rest.next().and_then(|_| Some(domains.last()?.name.clone()));
    Ok(Json(DomainsView { domains, next_after }))
}

pub(super) async fn domain(
    State(api): Api,
    name: Result<Path<String>, PathRejection>,
) -> Answer<DomainDetailView> {
    Ok(Json(of_path(&api.views(), name)?.clone()))
}

pub(super) async fn processes(
    State(api): Api,
    name: Result<Path<String>, PathRejection>,
) -> Answer<ProcessesView> {
    let views = api.views();
    let row = &of_path(&views, name)?.row;
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

pub(super) async fn flows(State(api): Api, name: Result<Path<String>, PathRejection>) -> Answer<FlowsView> {
    let views = api.views();
    let row = &of_path(&views, name)?.row;
    let flows = views.flows.iter().find(|flows| flows.uuid == row.uuid).cloned();
    Ok(Json(flows.unwrap_or_else(|| FlowsView {
        domain: row.name.clone(),
        uuid: row.uuid,
        message: Some("the domain has not been looked at yet".to_owned()),
        ..FlowsView::default()
    })))
}

fn of_path(views: &Views, name: Result<Path<String>, PathRejection>) -> Result<&DomainDetailView, Failure> {
    let Path(name) = name.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    find(views, &name)
}

pub(super) fn find<'v>(views: &'v Views, name: &str) -> Result<&'v DomainDetailView, Failure> {
    views.domain(name).ok_or_else(|| {
        let detail = format!("there is no domain \"{name}\"; `kvmpilot domains` lists them");
        Failure::new(StatusCode::NOT_FOUND, detail)
    })
}

/// Which orders to list.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OrderQuery {
    /// Those in this state.
    state: Option<OrderState>,
    /// Those of the domain of this name.
    domain: Option<String>,
    /// At most so many, 1 to 1000; 100 without.
    limit: Option<u32>,
    /// Those with lower numbers: `next_before` of the page before.
    before: Option<u64>,
    /// Those that were proposed at this time or later, milliseconds since 1970.
    since_unix_ms: Option<u64>,
    /// With the states that each was in.
    #[serde(default)]
    history: bool,
}

pub(super) async fn orders(
    State(api): Api,
    query: Result<Query<OrderQuery>, QueryRejection>,
) -> Answer<OrdersView> {
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

pub(super) type Id = Result<Path<u64>, PathRejection>;

fn order_id(id: Id) -> Result<u64, Failure> {
    let bad = |_| Failure::new(StatusCode::BAD_REQUEST, "a work order is named by its number");
    id.map(|Path(id)| id).map_err(bad)
}

pub(super) async fn order(State(api): Api, id: Id) -> Answer<WorkOrder> {
    look_up(&api, id).await.map(Json)
}

async fn look_up(api: &Shared, id: Id) -> Result<WorkOrder, Failure> {
    let id = order_id(id)?;
    let order = api.store(move |store| store.order(id)).await?;
    order.ok_or_else(|| super::CommandError::NoSuchOrder(id).into())
}

pub(super) async fn why(State(api): Api, id: Id) -> Answer<Story> {
    let order = look_up(&api, id).await?;
    let story = spawn_blocking(move || Story::new(&order, name_of)).await;
    story.map(Json).map_err(|_| Failure::stopping())
}

pub(super) async fn change(
    State(api): Api,
    Extension(caller): Extension<Caller>,
    id: Id,
    command: fn(u64) -> Command,
) -> Answer<CommandReply> {
    api.command(&caller, command(order_id(id)?)).await
}

/// Answers when the watch is over. If the asker goes, so does this future, and with it the receiver that keeps the
/// watch going.
pub(super) async fn watch(
    State(api): Api,
    Extension(caller): Extension<Caller>,
    name: Result<Path<String>, PathRejection>,
    ask: Result<Json<WatchAsk>, JsonRejection>,
) -> Answer<WatchView> {
    let Json(ask) = ask.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    api.entitled(&caller, "have something attached to the kernel").await?;
    let domain = of_path(&api.views(), name)?.row.uuid;
    let length = Duration::from_secs(ask.for_s.into());
    let (reply, answer) = oneshot::channel();
    let request = WatchRequest { domain, what: ask.what, length, by: caller.asker(), reply };
    api.context.watches.send(request).await.map_err(|_| Failure::stopping())?;
    let outcome = answer.await.map_err(|_| Failure::stopping())??;
    Ok(Json(present::watch(&outcome)))
}

pub(super) async fn restore(State(api): Api, Extension(caller): Extension<Caller>) -> Answer<CommandReply> {
    api.command(&caller, Command::Restore).await
}
