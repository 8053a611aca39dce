//! Gateway to libvirt's hook for QEMU guests: a datagram socket at which the program `kvmpilot-hook`, which libvirt starts at
//! each turn of a guest's life, tells what happens. What a message leads to is not decided here.
//!
//! libvirt holds the guest while its hook runs, so nobody waits for anybody: the program drops what the socket does not take,
//! and a daemon without a socket works on with libvirt's own events.

pub mod message;
#[cfg(test)]
mod tests;

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram as Plain;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Where libvirt looks for hooks of QEMU guests (since 6.5), and ours among them.
pub const INSTALLED: &str = "/etc/libvirt/hooks/qemu.d/kvmpilot";
/// Messages that may wait for their reader. What is beyond is counted; libvirt's events and the sweep tell the same.
const WAITING: usize = 256;

/// What libvirt's hook was called for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookCall {
    /// libvirt's name of the domain.
    pub name: String,
    /// What is with the domain.
    pub turn: Turn,
    /// When it was heard.
    pub at: Instant,
}

/// A turn of a domain's life, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It is on its way (prepare, start, migrate, restore): libvirt holds it, and to ask about it would mean to wait.
    Coming,
    /// Its QEMU runs (started, reconnect, attach).
    Here,
    /// Its QEMU has ended (stopped, release).
    Gone,
    /// Something that this version does not know.
    Unknown,
}

impl Turn {
    fn of(operation: &str) -> Self {
        match operation {
            "prepare" | "start" | "migrate" | "restore" => Self::Coming,
            "started" | "reconnect" | "attach" => Self::Here,
            "stopped" | "release" => Self::Gone,
            _ => Self::Unknown,
        }
    }
}

/// The socket, read in the background until this is dropped.
#[derive(Debug)]
pub struct Hook {
    state: Result<Listening, String>,
}

#[derive(Debug)]
struct Listening {
    path: PathBuf,
    identity: (u64, u64),
    heard: Arc<Mutex<Heard>>,
    task: JoinHandle<()>,
}

/// What was heard so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Calls.
    pub calls: u64,
    /// Messages that were no such calls.
    pub refused: u64,
    /// Calls for which there was no room.
    pub dropped: u64,
    /// The last call in libvirt's words, and when it was heard.
    pub last: Option<(String, Instant)>,
}

/// Whether the daemon listens, and what it has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookReport {
    /// It listens.
    Listens(Heard),
    /// It does not, for this reason.
    Deaf(String),
}

impl Hook {
    /// Listens at `path`, if there is one. Where it cannot, it says why and goes on: nothing depends on it.
    #[must_use]
    pub fn start(path: Option<&Path>) -> (Self, mpsc::Receiver<HookCall>) {
        let (calls, reader) = mpsc::channel(WAITING);
        let state = match path {
            None => Err("switched off in the configuration ([daemon] hook_socket = \"off\")".to_owned()),
            Some(path) => listen(path, calls).map_err(|error| format!("{}: {error}", path.display())),
        };
        if let (Err(why), Some(_)) = (&state, path) {
            tracing::warn!(why, "libvirt's hook is not heard; libvirt's own events have to do");
        }
        (Self { state }, reader)
    }

    /// Whether it listens, and what it has heard.
    #[must_use]
    pub fn report(&self) -> HookReport {
        match &self.state {
            Ok(listening) => HookReport::Listens(lock(&listening.heard).clone()),
            Err(why) => HookReport::Deaf(why.clone()),
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
        let ours = |meta: fs::Metadata| (meta.dev(), meta.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "cannot remove {}", self.path.display());
        }
    }
}

/// Must be called in a runtime.
fn listen(path: &Path, calls: mpsc::Sender<HookCall>) -> io::Result<Listening> {
    make_room(path)?;
    // Made under another name and renamed when its mode is right: nobody but root can write to it at any time.
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let prepare = || {
        let socket = Plain::bind(&fresh)?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        let socket = UnixDatagram::from_std(socket)?;
        let meta = fs::symlink_metadata(&fresh)?;
        fs::rename(&fresh, path)?;
        Ok((socket, (meta.dev(), meta.ino())))
    };
    let (socket, identity) = prepare().inspect_err(|_: &io::Error| {
        // Best effort: what matters is the error that comes out.
        let _ = fs::remove_file(&fresh);
    })?;
    let heard = Arc::<Mutex<Heard>>::default();
    let task = tokio::spawn(read(socket, calls, Arc::clone(&heard)));
    Ok(Listening { path: path.to_owned(), identity, heard, task })
}

/// Makes the directory, and sees that files of others and the socket of a daemon that still reads stay.
fn make_room(path: &Path) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    let advice = "set daemon.hook_socket to another path, or to \"off\"";
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            Err(io::Error::other(format!("exists and is no socket; move it away, or {advice}")))
        }
        // A datagram socket accepts a connection exactly while somebody has it open.
        Ok(_) if Plain::unbound().and_then(|socket| socket.connect(path)).is_ok() => {
            Err(io::Error::other(format!("another kvmpilotd listens there; stop it, or {advice}")))
        }
        Ok(_) => Ok(()),
    }
}

async fn read(socket: UnixDatagram, calls: mpsc::Sender<HookCall>, heard: Arc<Mutex<Heard>>) {
    // One byte more than the longest: a longer one is cut off there, and told by it.
    let mut buffer = [0; message::MAX_BYTES + 1];
    loop {
        let length = match socket.recv(&mut buffer).await {
            Ok(length) => length,
            Err(error) => {
                tracing::warn!(%error, "libvirt's hook is not heard any more");
                return;
            }
        };
        let now = Instant::now();
        let mut heard = lock(&heard);
        match message::read(buffer.get(..length).unwrap_or_default()) {
            Ok((operation, sub_operation, name)) => {
                tracing::debug!(operation, sub_operation, name, "libvirt's hook");
                heard.calls += 1;
                heard.last = Some((format!("{name} {operation} {sub_operation}"), now));
                let call = HookCall { name: name.to_owned(), turn: Turn::of(operation), at: now };
                if calls.try_send(call).is_err() {
                    heard.dropped += 1;
                }
            }
            Err(why) => {
                heard.refused += 1;
                tracing::debug!(why, "a message at the hook's socket is not libvirt's hook");
            }
        }
    }
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
