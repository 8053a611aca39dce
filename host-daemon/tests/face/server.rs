//! A server in a temporary directory, and the daemon behind it that the tests make up.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kvmpilot::api::views::{
    CommandReply, DomainDetailView, LearnedView, OrdersView, PolicyView, RestoreView, Views,
};
use kvmpilot::api::{
    ApiContext, Ask, Command, CommandError, CommandRequest, Limits, Listen, RecordingRequest, Server, serve,
};
use kvmpilot::config::{Plain, TcpConfig};
use kvmpilot::store::{self, Store};
use kvmpilot_core::ledger::{RestoreOutcome, RestoredValue};
use kvmpilot_core::order::{OrderState, WorkOrder};
use kvmpilot_core::policy::Change;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

use crate::watch::{Watched, watcher};

/// One of the documented examples.
pub(crate) fn example<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../docs/examples/{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The examples as one moment of a host with the domains `web` and `silent`.
pub(crate) fn views() -> Views {
    let web: DomainDetailView = example("domain");
    let mut silent = web.clone();
    silent.row.name = "silent/1 ä".into();
    silent.row.uuid = uuid::Uuid::from_u128(7);
    silent.row.agent.message = Some("the agent does not answer".into());
    Views {
        measured_unix_ms: 1_795_372_200_000,
        status: example("status"),
        host: example("host"),
        domains: vec![web, silent],
        processes: vec![example("processes")],
        steal: example("steal"),
        flows: vec![example("flows")],
        rules: kvmpilot::api::present::rules(
            &kvmpilot_core::rules::RuleSet::default(),
            &std::collections::BTreeMap::new(),
        ),
        services: example("services"),
        doctor: example("doctor"),
    }
}

/// Who asked for which change of which domain's own policy.
pub(crate) type Changes = Arc<Mutex<Vec<(String, Change, u32)>>>;

/// The server and what its made-up daemon was asked.
pub(crate) struct Face {
    pub(crate) socket: PathBuf,
    /// The socket of those who may only look.
    pub(crate) reader: PathBuf,
    /// For a second server.
    pub(crate) context: ApiContext,
    pub(crate) store: Store,
    pub(crate) commands: Arc<Mutex<Vec<(Command, u32)>>>,
    /// Changes of domains' own policies that were asked for.
    pub(crate) changes: Changes,
    /// Until a test takes it, nobody answers who wants to record.
    pub(crate) recordings: Mutex<Option<mpsc::Receiver<RecordingRequest>>>,
    pub(crate) watched: Watched,
    pub(crate) views: watch::Sender<Arc<Views>>,
    pub(crate) server: Option<Server>,
    pub(crate) runtime: Runtime,
    pub(crate) directory: TempDir,
}

impl Face {
    pub(crate) fn start() -> Self {
        Self::with_limits(Limits::default())
    }

    pub(crate) fn with_limits(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // Another user has to get as far as the socket for the tests of permissions.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = directory.path().join("run/kvmpilot.sock");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let store = Store::open(&directory.path().join("state"), store::Limits::default()).unwrap();
        for order in example::<OrdersView>("orders").orders.iter().rev() {
            store.order_insert(&order.proposal, order.state, order.created_unix_ms).unwrap();
        }
        let (views, shown) = watch::channel(Arc::new(views()));
        let (sender, requests) = mpsc::channel(4);
        let commands = Arc::default();
        let (recorders, recordings) = mpsc::channel(1);
        let recordings = Mutex::new(Some(recordings));
        runtime.spawn(daemon(requests, store.clone(), Arc::clone(&commands)));
        let (watches, asked) = mpsc::channel(4);
        let watched = Watched::default();
        runtime.spawn(watcher(asked, Arc::clone(&watched)));
        let (asks, questions) = mpsc::channel(4);
        let asked_for = Arc::default();
        runtime.spawn(explainer(questions, Arc::clone(&asked_for)));
        let context =
            ApiContext { views: shown, commands: sender, watches, recorders, asks, store: store.clone() };
        let tcp = TcpConfig {
            address: Some("127.0.0.1:0".parse().unwrap()),
            plain: Plain::Loopback,
            ..TcpConfig::default()
        };
        let reader = directory.path().join("run/read.sock");
        let listen = Listen::new(&socket, "no-such-group").with_limits(limits);
        let listen = listen.with_reader(Some(reader.clone())).with_tcp(tcp);
        let server = Some(runtime.block_on(serve(listen, context.clone())).unwrap());
        Self {
            socket,
            reader,
            context,
            store,
            commands,
            changes: asked_for,
            recordings,
            watched,
            views,
            server,
            runtime,
            directory,
        }
    }

    /// Runs the command line against this server.
    pub(crate) fn kvmpilot(&self, arguments: &[&str]) -> Output {
        kvmpilot(&self.socket, arguments)
    }

    /// What it prints; it must succeed.
    pub(crate) fn prints(&self, arguments: &[&str]) -> String {
        let output = self.kvmpilot(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        assert_eq!(stderr(&output), "", "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

pub(crate) fn kvmpilot(socket: &Path, arguments: &[&str]) -> Output {
    let mut process = Process::new(env!("CARGO_BIN_EXE_kvmpilot"));
    process.args(arguments).arg("--socket").arg(socket).output().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Explains `web` as documented, and says that what is asked for was done; knows no other domain.
async fn explainer(mut asks: mpsc::Receiver<Ask>, changes: Changes) {
    while let Some(ask) = asks.recv().await {
        match ask {
            Ask::Explain { domain, reply } => {
                let known = domain == "web";
                reply.send(if known {
                    Ok(example("explain"))
                } else {
                    Err(CommandError::NoSuchDomain(domain))
                })
            }
            .map_err(|_| "nobody waits")
            .unwrap(),
            Ask::Learn { ask, reply } => {
                let known = ask.from.iter().find(|domain| *domain != "web");
                let learned = || LearnedView { name: ask.name.clone(), ..example("learned") };
                let _ =
                    reply.send(known.map_or_else(
                        || Ok(learned()),
                        |domain| Err(CommandError::NoSuchDomain(domain.clone())),
                    ));
            }
            Ask::Policy { domain, change, reply } => {
                let mut view: PolicyView = example("policy");
                view.domain.clone_from(&domain);
                if let Some((change, by)) = change {
                    view.message = Some(format!("{domain}: wrote it"));
                    changes.lock().unwrap().push((domain, change, by.uid.unwrap_or(u32::MAX)));
                }
                reply.send(Ok(view)).map_err(|_| "nobody waits").unwrap();
            }
        }
    }
}

/// Approves what is proposed, is too slow for order 99, and restores two of three values.
async fn daemon(
    mut requests: mpsc::Receiver<CommandRequest>,
    store: Store,
    commands: Arc<Mutex<Vec<(Command, u32)>>>,
) {
    let mut asleep = Vec::new();
    while let Some(CommandRequest { command, by, reply }) = requests.recv().await {
        commands.lock().unwrap().push((command, by.uid.unwrap_or(u32::MAX)));
        let answer = match command {
            Command::Approve(99) => {
                asleep.push(reply);
                continue;
            }
            Command::Approve(id) => decide(&store, id, OrderState::Verified, "set and read back"),
            Command::Reject(id) => decide(&store, id, OrderState::Rejected, "rejected by a person"),
            Command::Rollback(_) => Err(CommandError::Failed("the domain is gone".into())),
            Command::Restore => Ok(restored()),
        };
        reply.send(answer).unwrap();
    }
}

fn decide(store: &Store, id: u64, state: OrderState, outcome: &str) -> Result<CommandReply, CommandError> {
    let read = || -> Result<WorkOrder, CommandError> {
        store.order(id).unwrap().ok_or(CommandError::NoSuchOrder(id))
    };
    let order = read()?;
    if order.state != OrderState::Proposed {
        let allowed = "only proposed orders can be decided on";
        return Err(CommandError::WrongState { id, state: order.state, allowed });
    }
    store.order_update(id, state, outcome, 1_795_372_300_000).unwrap();
    Ok(CommandReply { message: format!("order {id} is {state}"), order: Some(read()?), restore: None })
}

fn restored() -> CommandReply {
    let value = |target: &str, outcome| RestoredValue {
        domain: "web".into(),
        target: target.into(),
        original: "1024".into(),
        outcome,
        message: (outcome == RestoreOutcome::Failed).then(|| "the agent does not answer".into()),
    };
    let values =
        vec![value("cpu_shares", RestoreOutcome::Restored), value("nice of httpd", RestoreOutcome::Failed)];
    CommandReply {
        message: "not everything is back".into(),
        order: None,
        restore: Some(RestoreView { values }),
    }
}

/// Waits for a condition that other threads bring about.
pub(crate) fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(5));
    }
}
