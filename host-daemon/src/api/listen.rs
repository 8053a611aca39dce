//! Where to listen. A socket file is made with the right owner, mode and group, a stale one replaced, ours removed at the end.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, chown};
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::serve::Limits;
use crate::config::TcpConfig;

/// Connections over TCP that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    socket: PathBuf,
    group: String,
    reader: Option<PathBuf>,
    pub(super) tcp: TcpConfig,
    pub(super) limits: Limits,
}

impl Listen {
    /// On this socket, which the members of `group` may use beside root. If there is no such group, only root may.
    #[must_use]
    pub fn new(socket: &Path, group: &str) -> Self {
        Self {
            socket: socket.to_owned(),
            group: group.to_owned(),
            reader: None,
            tcp: TcpConfig::default(),
            limits: Limits::default(),
        }
    }

    /// And on this socket, where everybody may look.
    #[must_use]
    pub fn with_reader(self, reader: Option<PathBuf>) -> Self {
        Self { reader, ..self }
    }

    /// And over TCP.
    #[must_use]
    pub fn with_tcp(self, tcp: TcpConfig) -> Self {
        Self { tcp, ..self }
    }

    /// With other bounds than the usual ones.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody else serves it.
    #[error("{}: another kvmpilotd answers there; stop it, or set daemon.socket to another path", .0.display())]
    InUse(PathBuf),
    /// There is something else at the socket's place.
    #[error("{}: exists and is no socket; move it away, or set daemon.socket to another path", .0.display())]
    NoSocket(PathBuf),
    /// The system says no.
    #[error("{}: cannot listen: {source}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system does not give the port.
    #[error("cannot listen at {address}: {source}; set tcp.address to another one, or to \"\"")]
    Port {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Certificate or key are no good.
    #[error("{}: {detail}; tcp.certificate and tcp.key name PEM files that belong together", path.display())]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

/// The socket file and who may use it. Dropping it removes the file, unless it is another one by now.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    identity: (u64, u64),
    pub(super) group: Option<Gid>,
}

impl Listen {
    /// Starts to listen at the socket for those who may change something.
    pub(super) fn bind(&self) -> Result<(UnixListener, Socket), ApiError> {
        let path = &self.socket;
        let failed = |source| ApiError::Listen { path: path.clone(), source };
        let group =
            Group::from_name(&self.group).map_err(|errno| failed(errno.into()))?.map(|group| group.gid);
        if group.is_none() {
            tracing::warn!("there is no group {}: only root can use {}", self.group, path.display());
        }
        bind(path, group, 0o660)
    }

    /// Starts to listen at the socket for everybody, if there shall be one.
    pub(super) fn bind_reader(&self) -> Result<Option<(UnixListener, Socket)>, ApiError> {
        self.reader.as_deref().map(|path| bind(path, None, 0o666)).transpose()
    }

    /// Starts to listen at the port, if there shall be one.
    pub(super) fn bind_tcp(&self) -> Result<Option<(TcpListener, SocketAddr)>, ApiError> {
        let Some(address) = self.tcp.address else { return Ok(None) };
        let failed = |source| ApiError::Port { address, source };
        let listen = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A daemon that was just stopped leaves connections behind, which keep nobody out.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        let listener = listen().map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Some((listener, address)))
    }
}

fn bind(path: &Path, group: Option<Gid>, mode: u32) -> Result<(UnixListener, Socket), ApiError> {
    make_room(path)?;
    // Made under another name and renamed when its owner and mode are right: nobody can get in before that.
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    let prepare = || {
        let listener = UnixListener::bind(&fresh)?;
        if let Some(group) = group {
            chown(&fresh, None, Some(group))?;
        }
        fs::set_permissions(&fresh, Permissions::from_mode(mode))?;
        let meta = fs::symlink_metadata(&fresh)?;
        fs::rename(&fresh, path)?;
        Ok((listener, Socket { path: path.to_owned(), identity: (meta.dev(), meta.ino()), group }))
    };
    prepare().map_err(|source| {
        // Best effort: what matters is the error that comes out.
        let _ = fs::remove_file(&fresh);
        ApiError::Listen { path: path.to_owned(), source }
    })
}

/// Makes the directory, and sees that a daemon that still answers and files of others stay.
fn make_room(path: &Path) -> Result<(), ApiError> {
    let failed = |source| ApiError::Listen { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(failed)?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => Err(ApiError::NoSocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(ApiError::InUse(path.to_owned())),
        Ok(_) => Ok(()),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = |meta: fs::Metadata| (meta.dev(), meta.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, "cannot remove {}", self.path.display());
        }
    }
}
