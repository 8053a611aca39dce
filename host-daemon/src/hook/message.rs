//! What the hook program tells the daemon: one datagram, one line of text, "1 OPERATION SUB_OPERATION NAME".
//!
//! The program `kvmpilot-hook` includes this file by its path and links nothing else of kvmpilot: it has to start quickly.
//! So here is std only. The reader takes what it gets as hostile.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Where both meet unless `daemon.hook_socket` and [`SOCKET_VARIABLE`] say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kvmpilot/hook.sock";
/// Environment variable of the program that names another socket.
#[cfg_attr(not(test), expect(dead_code, reason = "the program's, not the daemon's"))]
pub const SOCKET_VARIABLE: &str = "KVMPILOT_HOOK_SOCKET";
/// Longest message, in bytes. libvirt's names are file names, of 255 bytes at most.
pub const MAX_BYTES: usize = 512;
/// Longest word of an operation.
const MAX_WORD: usize = 16;
/// First word of each message.
const VERSION: &str = "1";
