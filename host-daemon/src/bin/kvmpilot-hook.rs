//! `kvmpilot-hook`, libvirt's hook for QEMU guests: tells the daemon with one datagram that one starts, runs or stops.
//!
//! libvirt waits for it while it holds the guest, and what it prints for `migrate` and `restore` would replace the guest's
//! XML. So it prints nothing, asks nobody, reads nothing (libvirt takes it well when the XML on stdin stays unread), waits for
//! nobody and always succeeds: a daemon that is not there or does not read is none of a guest's business.

use std::env;
use std::os::unix::net::UnixDatagram;

#[path = "../hook/message.rs"]
#[expect(dead_code, unreachable_pub, reason = "the daemon's half is in there, too")]
mod message;

/// Without a word about what goes wrong: nobody could do anything about it here, and `kvmpilot doctor` says whether the
/// daemon hears the hook.
fn main() {
    let _ = tell();
}

/// NAME OPERATION SUB_OPERATION EXTRA, as libvirt calls it.
fn tell() -> Option<()> {
    let mut arguments = env::args_os().skip(1);
    let (name, operation, sub_operation) = (arguments.next()?, arguments.next()?, arguments.next()?);
    let message = message::write(&name, &operation, &sub_operation)?;
    let path = env::var_os(message::SOCKET_VARIABLE).unwrap_or_else(|| message::DEFAULT_SOCKET.into());
    let socket = UnixDatagram::unbound().ok()?;
    // With a full queue the datagram is lost rather than waited with.
    socket.set_nonblocking(true).ok()?;
    socket.send_to(&message, path).ok().map(drop)
}
