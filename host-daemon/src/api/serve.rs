//! Accepts connections and bounds them: how many, how long, how large.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::listen::{ApiError, Listen, Socket};
use super::peer::Peer;
use super::problem::Failure;
use super::record::HangUp;
use super::{ApiContext, routes};

/// Bounds of what clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// Time for the head of a request, and again for its body.
    pub read: Duration,
    /// Time for a command; it goes on afterwards, only its asker gets no answer.
    pub command: Duration,
    /// Time for a whole connection, reading the answer included.
    pub connection: Duration,
    /// Bytes of a request's body.
    pub body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            read: Duration::from_secs(10),
            // A restore takes up to 20 s, an order that waits for a balloon 4 s for each domain.
            command: Duration::from_secs(60),
            connection: Duration::from_secs(120),
            body_bytes: 64 << 10,
        }
    }
}

/// The running server. Dropping it ends it at once and removes the socket.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    // Dropped with the server, which removes the file.
    _socket: Socket,
}

impl Server {
    /// Accepts nobody any more and lets those who are being served finish, but not for long.
    pub async fn stop(mut self) {
        const GRACE: Duration = Duration::from_secs(2);
        self.stop.send_replace(true);
        if timeout(GRACE, &mut self.task).await.is_err() {
            tracing::debug!("clients did not finish in time");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the API until the [`Server`] is dropped or stopped. Must be called inside a tokio runtime.
///
/// # Errors
/// When the socket cannot be made.
pub async fn serve(listen: Listen, context: ApiContext) -> Result<Server, ApiError> {
    let limits = listen.limits;
    let (listener, socket) = listen.bind()?;
    let (stop, stopped) = watch::channel(false);
    let router =
        routes::router(context, socket.group, limits).layer(from_fn_with_state(limits, bounded_body));
    let task = tokio::spawn(accept(listener, router, limits, stopped));
    Ok(Server { stop, task, _socket: socket })
}

/// Dropping this future ends all connections, because they live in its set.
async fn accept(
    listener: UnixListener,
    router: axum::Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            Some(_) = connections.join_next() => continue,
            _ = stopped.changed() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), limits, stopped.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of descriptors: they come back when others close, and trying at once would only burn CPU.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: UnixStream,
    router: axum::Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let peer = match stream.peer_cred() {
        Ok(cred) => Peer::from(cred),
        Err(error) => {
            tracing::warn!(%error, "refused a client whom the kernel does not name");
            return;
        }
    };
    let (hang_up, mut until) = watch::channel(Instant::now() + limits.connection);
    let hang_up = HangUp(Arc::new(hang_up));
    let service = TowerToHyperService::new(router.layer(Extension(peer)).layer(Extension(hang_up.clone())));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let mut stopping = false;
    let result = loop {
        let end = *until.borrow_and_update();
        tokio::select! {
            result = serving.as_mut() => break result,
            _ = stopped.changed(), if !stopping => {
                stopping = true;
                serving.as_mut().graceful_shutdown();
            }
            _ = until.changed() => {}
            () = sleep_until(end) => return,
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, uid = peer.uid, "a connection ended badly");
    }
}

/// Reads the body before the handler runs, so that no handler has to think of clients who send too much or too slowly.
async fn bounded_body(State(limits): State<Limits>, request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match timeout(limits.read, axum::body::to_bytes(body, limits.body_bytes)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, body.into())).await,
        Ok(Err(_)) => {
            let detail = format!("the request's body is broken or larger than {} bytes", limits.body_bytes);
            Failure::new(StatusCode::PAYLOAD_TOO_LARGE, detail).into_response()
        }
        Err(_) => {
            let detail = format!("the request's body did not come within {} s", limits.read.as_secs());
            Failure::new(StatusCode::REQUEST_TIMEOUT, detail).into_response()
        }
    }
}
