//! Those who follow what happens: one text for all of them, made once a tick.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONNECTION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde::Serialize;
use tokio::sync::{broadcast, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::Instant;

use super::problem::Failure;
use super::record::HangUp;
use super::routes::Api;
use super::serve::Followers;
use super::trend::Trends;
use super::views::{OrderMovedEvent, TickDomain, TickEvent, Views};
use crate::store::{Seen, Store, StoredOrderEvent};

/// Events that a slow follower may be behind before it misses some.
const BEHIND: usize = 32;
/// Changes of orders that are told at a time.
const NEWS: u32 = 200;
/// Between two signs of life.
const SIGN: Duration = Duration::from_secs(15);
/// A follower is served for so long, and then has to come again, which browsers do by themselves.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// What is told, and how figures went.
#[derive(Clone, Debug)]
pub(super) struct Telling {
    news: broadcast::Sender<News>,
    trends: Arc<Mutex<Trends>>,
    /// Ends when nobody holds it any more.
    _teller: Arc<JoinSet<()>>,
}

/// Name and data of an event.
#[derive(Clone, Debug)]
struct News(&'static str, Arc<str>);

impl Telling {
    /// Starts to tell what `views` show and what becomes of orders.
    pub(super) fn start(views: watch::Receiver<Arc<Views>>, store: Store) -> Self {
        let (news, _) = broadcast::channel(BEHIND);
        let trends = Arc::<Mutex<Trends>>::default();
        let mut teller = JoinSet::new();
        teller.spawn(tell(views, store, news.clone(), Arc::clone(&trends)));
        Self { news, trends, _teller: Arc::new(teller) }
    }

    /// Looks at the trends.
    pub(super) fn trends<T>(&self, look: impl FnOnce(&Trends) -> T) -> T {
        look(&self.trends.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn tell(
    mut views: watch::Receiver<Arc<Views>>,
    store: Store,
    news: broadcast::Sender<News>,
    trends: Arc<Mutex<Trends>>,
) {
    let news_of = |mut seen| {
        let store = store.clone();
        async move { spawn_blocking(move || (store.order_news(&mut seen, NEWS), seen)).await }
    };
    // What was before is history.
    let Ok((_, mut seen)) = news_of(Seen::default()).await else { return };
    let mut measured = 0;
    while views.changed().await.is_ok() {
        let now = Arc::clone(&views.borrow_and_update());
        let is_new = now.measured_unix_ms != measured;
        measured = now.measured_unix_ms;
        if is_new {
            trends.lock().unwrap_or_else(PoisonError::into_inner).add(&now);
        }
        let Ok((moved, now_seen)) = news_of(seen).await else { return };
        seen = now_seen;
        if news.receiver_count() == 0 {
            continue;
        }
        let send = |name, text: Option<Arc<str>>| {
            if let Some(text) = text {
                // Nobody may follow by now.
                let _ = news.send(News(name, text));
            }
        };
        moved.into_iter().for_each(|event| send("order", text(&moved_event(event))));
        if is_new {
            send("tick", text(&tick(&now)));
        }
    }
}

fn text(value: &impl Serialize) -> Option<Arc<str>> {
    serde_json::to_string(value).ok().map(Arc::from)
}

fn moved_event(event: StoredOrderEvent) -> OrderMovedEvent {
    OrderMovedEvent {
        id: event.order,
        domain_name: event.proposal.domain_name,
        state: event.state,
        outcome: event.outcome,
    }
}

fn tick(views: &Views) -> TickEvent {
    let status = &views.status;
    let domain = |domain: &super::views::DomainDetailView| TickDomain {
        name: domain.row.name.clone(),
        cpu_use_ratio: domain.row.cpu_use_ratio,
        wait_ratio: domain.row.wait_ratio,
        need: domain.row.need,
        memory_current_kib: domain.row.memory_current_kib,
        cpu_shares: domain.row.cpu_shares.current,
        received_bytes_per_s: domain.row.network.received_bytes_per_s,
        sent_bytes_per_s: domain.row.network.sent_bytes_per_s,
    };
    TickEvent {
        unix_ms: views.measured_unix_ms,
        cycle: status.cycle.number,
        health_ok: status.health.ok,
        pressure: status.host.pressure.clone(),
        proposed: status.orders.proposed,
        findings: u64::try_from(status.findings.len()).unwrap_or(u64::MAX),
        domains: views.domains.iter().map(domain).collect(),
    }
}

/// Answers with events as they come. The first is what is known now.
pub(super) async fn events(
    State(api): Api,
    Extension(followers): Extension<Followers>,
    Extension(hang_up): Extension<HangUp>,
) -> Response {
    let Ok(slot) = followers.0.try_acquire_owned() else {
        let detail = "as many clients follow events as there may be; ask for /api/v1/status now and then";
        let mut refusal = Failure::new(StatusCode::SERVICE_UNAVAILABLE, detail).into_response();
        // A crowd that waits for nothing would keep others outside.
        refusal.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return refusal;
    };
    hang_up.0.send_replace(Instant::now() + LONGEST);
    let news = api.telling.news.subscribe();
    let first = text(&tick(&api.views())).map(|text| News("tick", text));
    let stream = unfold((first, news, slot), |(mut first, mut news, slot)| async move {
        let News(name, data) = match first.take() {
            Some(first) => first,
            None => loop {
                match news.recv().await {
                    Ok(next) => break next,
                    // It missed some; what counts now comes with the next tick.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            },
        };
        let event = Event::default().event(name).data(&*data);
        Some((Ok::<_, Infallible>(event), (None, news, slot)))
    });
    let sign = KeepAlive::new().interval(SIGN).event(Event::default().event("ping").data("{}"));
    ([(CACHE_CONTROL, "no-store")], Sse::new(stream).keep_alive(sign)).into_response()
}
