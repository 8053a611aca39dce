//! The socket file, and who may do what.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command as Process;

use kvmpilot::api::{ApiContext, ApiError, Listen, serve};
use nix::unistd::Uid;

use crate::server::{Face, stderr, wait_for};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A second server on another socket, with the first one's daemon behind it.
fn serve_at(face: &Face, socket: &Path, group: &str) -> Result<kvmpilot::api::Server, ApiError> {
    let (commands, _) = tokio::sync::mpsc::channel(1);
    let (watches, _) = tokio::sync::mpsc::channel(1);
    let context = ApiContext {
        views: face.views.subscribe(),
        commands,
        watches,
        recorders: tokio::sync::mpsc::channel(1).0,
        asks: tokio::sync::mpsc::channel(1).0,
        store: face.store.clone(),
    };
    face.runtime.block_on(serve(Listen::new(socket, group), context))
}

#[test]
fn the_socket_belongs_to_root_and_its_group() {
    let face = Face::start();
    assert_eq!(mode(&face.socket), 0o660);
    let own_group = nix::unistd::Group::from_gid(nix::unistd::Gid::effective()).unwrap().unwrap();
    let other = face.directory.path().join("other.sock");
    let _server = serve_at(&face, &other, &own_group.name).unwrap();
    assert_eq!(std::fs::metadata(&other).unwrap().gid(), own_group.gid.as_raw());
    assert_eq!(mode(&other), 0o660);
    if Uid::effective().is_root() {
        // Every Debian has this group.
        let other = face.directory.path().join("another.sock");
        let _server = serve_at(&face, &other, "daemon").unwrap();
        assert_eq!(std::fs::metadata(&other).unwrap().gid(), 1);
    }
    let left: Vec<_> = std::fs::read_dir(face.socket.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_stale_socket_is_replaced_and_anything_else_is_not() {
    let face = Face::start();
    let error = serve_at(&face, &face.socket, "x").unwrap_err();
    assert!(matches!(error, ApiError::InUse(_)), "{error}");
    assert!(face.prints(&["version"]).starts_with("kvmpilot"));

    let stale = face.directory.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    let server = serve_at(&face, &stale, "x").unwrap();
    UnixStream::connect(&stale).unwrap();
    drop(server);

    let file = face.directory.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let error = serve_at(&face, &file, "x").unwrap_err();
    assert!(matches!(error, ApiError::NoSocket(_)), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");

    let error = serve_at(&face, &file.join("s"), "x").unwrap_err();
    assert!(error.to_string().contains("cannot listen"), "{error}");
}

#[test]
fn stopping_removes_our_socket_but_not_a_successor_s() {
    let mut face = Face::start();
    drop(face.server.take());
    assert!(!face.socket.exists());

    let server = serve_at(&face, &face.socket, "x").unwrap();
    std::fs::remove_file(&face.socket).unwrap();
    let successor = UnixListener::bind(&face.socket).unwrap();
    face.runtime.block_on(server.stop());
    assert!(face.socket.exists());
    drop(successor);
}

#[test]
fn strangers_may_not_connect_and_where_they_can_they_may_not_change() {
    if !Uid::effective().is_root() {
        eprintln!("not run: only root can become another user");
        return;
    }
    let face = Face::start();
    // The build directory may be closed to others; a copy is not.
    let program = face.directory.path().join("kvmpilot");
    std::fs::copy(env!("CARGO_BIN_EXE_kvmpilot"), &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = |arguments: &[&str]| {
        let mut process = Process::new(&program);
        process.args(arguments).arg("--socket").arg(&face.socket).uid(65534).gid(65534);
        process.current_dir("/").output().unwrap()
    };
    let output = as_nobody(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no permission to use"), "{}", stderr(&output));
    assert!(stderr(&output).contains("usermod -aG"), "{}", stderr(&output));

    // Somebody has loosened the file's mode: looking works, changing does not.
    std::fs::set_permissions(&face.socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(as_nobody(&["status"]).status.success());
    for arguments in [
        &["orders", "approve", "2"][..],
        &["restore", "--config", "/dev/null"],
        &["domain", "web", "--watch", "exits"],
    ] {
        let output = as_nobody(arguments);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("only root, members of the group"), "{}", stderr(&output));
    }
    assert!(face.commands.lock().unwrap().is_empty());
    assert!(face.watched.lock().unwrap().is_empty());
}

#[test]
fn a_stopped_server_lets_running_requests_finish() {
    let mut face = Face::start();
    let socket = face.socket.clone();
    let waiting = std::thread::spawn(move || crate::server::kvmpilot(&socket, &["orders", "approve", "99"]));
    wait_for("the command arrives", || !face.commands.lock().unwrap().is_empty());
    let began = std::time::Instant::now();
    face.runtime.block_on(face.server.take().unwrap().stop());
    // Order 99 never ends, so this one is cut off, but not before its time.
    assert!(began.elapsed() >= std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(!waiting.join().unwrap().status.success());
}
