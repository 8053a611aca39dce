//! Accepts connections and bounds them: how many, how long, how large.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::{from_fn, from_fn_with_state};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tower_http::compression::{CompressionLayer, CompressionLevel};

use super::bounds::{Rate, bounded, tagged};
use super::caller::{Caller, Peer};
use super::listen::{ApiError, Listen, Socket};
use super::record::HangUp;
use super::tcp::{Gate, gate};
use super::tokens::Tokens;
use super::{ApiContext, routes, tls};

/// Bytes of a request's head.
const HEAD_BYTES: usize = 32 << 10;

/// Bounds of what clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time at each way in; more wait in the kernel's queue.
    pub connections: usize,
    /// Of these, connections that follow events.
    pub followers: usize,
    /// Requests a second at each way in.
    pub requests_per_second: u32,
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
            connections: 128,
            followers: 64,
            requests_per_second: 200,
            read: Duration::from_secs(10),
            // A restore takes up to 20 s, an order that waits for a balloon 4 s for each domain.
            command: Duration::from_secs(60),
            connection: Duration::from_secs(120),
            body_bytes: 64 << 10,
        }
    }
}

/// The running server. Dropping it ends it at once and removes the sockets.
#[derive(Debug)]
pub struct Server {
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
    tcp_address: Option<SocketAddr>,
    // Dropped with the server, which removes the files.
    _sockets: Vec<Socket>,
}

impl Server {
    /// Where it listens for TCP, with the port that the system chose if it was asked to.
    #[must_use]
    pub const fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp_address
    }

    /// Accepts nobody any more and lets those who are being served finish, but not for long.
    pub async fn stop(mut self) {
        const GRACE: Duration = Duration::from_secs(2);
        self.stop.send_replace(true);
        if timeout(GRACE, async { while self.tasks.join_next().await.is_some() {} }).await.is_err() {
            tracing::debug!("clients did not finish in time");
        }
    }
}

/// A way in.
enum Door {
    /// A socket, and whom it makes a user of this machine.
    Socket(UnixListener, fn(Peer) -> Caller),
    /// A port. Who comes is said by what they send.
    Port(TcpListener, Option<TlsAcceptor>),
}

/// Slots for those who follow events at one way in: they stay, and must leave room for others.
#[derive(Clone, Debug)]
pub(super) struct Followers(pub(super) Arc<Semaphore>);

/// Serves the API until the [`Server`] is dropped or stopped. Must be called inside a tokio runtime.
///
/// # Errors
/// When a socket or port cannot be had, or certificate or key cannot be read.
pub async fn serve(listen: Listen, context: ApiContext) -> Result<Server, ApiError> {
    let limits = listen.limits;
    let tokens = Tokens::load(&context.store);
    let (listener, socket) = listen.bind()?;
    let router = routes::router(context, socket.group, limits, tokens.clone());
    let mut sockets = vec![socket];
    let mut doors = vec![(Door::Socket(listener, Caller::Peer), router.clone())];
    if let Some((listener, socket)) = listen.bind_reader()? {
        doors.push((Door::Socket(listener, Caller::Reader), router.clone()));
        sockets.push(socket);
    }
    let mut tcp_address = None;
    if let Some((listener, address)) = listen.bind_tcp()? {
        tcp_address = Some(address);
        let tls = match (&listen.tcp.certificate, &listen.tcp.key) {
            (Some(certificate), Some(key)) => Some(tls::acceptor(certificate, key)?),
            _ => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        tracing::info!("the web console is at {scheme}://{address}/");
        let rules = Gate { tokens, access: listen.tcp.access, plain: tls.is_none() };
        let router = router.layer(from_fn_with_state(rules, gate));
        doors.push((Door::Port(listener, tls), router));
    }
    let (stop, stopped) = watch::channel(false);
    let mut tasks = JoinSet::new();
    for (door, router) in doors {
        let rate = Rate::new(limits.requests_per_second);
        let followers = Followers(Arc::new(Semaphore::new(limits.followers)));
        let router = router
            .layer(from_fn(tagged))
            .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
            .layer(Extension(followers))
            .layer(from_fn_with_state((limits, rate), bounded));
        tasks.spawn(accept(door, router, limits, stopped.clone()));
    }
    Ok(Server { stop, tasks, tcp_address, _sockets: sockets })
}

/// Dropping this future ends all connections, because they live in its set.
async fn accept(door: Door, router: Router, limits: Limits, stopped: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(limits.connections));
    let mut connections = JoinSet::new();
    let mut stopping = stopped.clone();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await;
            (slot, door.accept(&router, limits, &stopped).await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            Some(_) = connections.join_next() => continue,
            _ = stopping.changed() => break,
        };
        match accepted {
            Ok(connection) => {
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
    drop(door);
    while connections.join_next().await.is_some() {}
}

impl Door {
    /// Waits for the next client; the future serves it.
    async fn accept(
        &self,
        router: &Router,
        limits: Limits,
        stopped: &watch::Receiver<bool>,
    ) -> std::io::Result<BoxFuture> {
        match self {
            Self::Socket(listener, caller) => {
                let (stream, _) = listener.accept().await?;
                let peer = Peer::from(stream.peer_cred()?);
                let router = router.clone().layer(Extension(caller(peer)));
                Ok(Box::pin(connection(stream, router, limits, stopped.clone())))
            }
            Self::Port(listener, tls) => {
                let (stream, _) = listener.accept().await?;
                let (router, stopped) = (router.clone(), stopped.clone());
                let Some(tls) = tls.clone() else {
                    return Ok(Box::pin(connection(stream, router, limits, stopped)));
                };
                Ok(Box::pin(async move {
                    match timeout(limits.read, tls.accept(stream)).await {
                        Ok(Ok(stream)) => connection(stream, router, limits, stopped).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a client did not come to terms about TLS"),
                        Err(_) => tracing::debug!("a client was too slow about TLS"),
                    }
                }))
            }
        }
    }
}

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
) {
    let (hang_up, mut until) = watch::channel(Instant::now() + limits.connection);
    let hang_up = HangUp(Arc::new(hang_up));
    let service = TowerToHyperService::new(router.layer(Extension(hang_up.clone())));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read)
        .max_buf_size(HEAD_BYTES)
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
        tracing::debug!(%error, "a connection ended badly");
    }
}
