//! What the hook program tells the daemon: one datagram, one line of text, "1 OPERATION SUB_OPERATION NAME".
//!
//! The program `kvmpilot-hook` includes this file by its path and links nothing else of kvmpilot, because it has to start
//! quickly. So here is std only. Whoever reads takes what it gets as hostile.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Where both meet unless `daemon.hook_socket` and [`SOCKET_VARIABLE`] say otherwise.
pub const DEFAULT_SOCKET: &str = "/run/kvmpilot/hook.sock";
/// Environment variable of the program that names another socket.
pub const SOCKET_VARIABLE: &str = "KVMPILOT_HOOK_SOCKET";
/// Longest message, in bytes. libvirt keeps a file for each domain, so its names have 255 bytes at most.
pub const MAX_BYTES: usize = 512;
/// Longest word for an operation, in bytes.
const MAX_WORD: usize = 16;
/// First word of each message.
const VERSION: &[u8] = b"1";

/// The message about these arguments of libvirt's; `None` if they are no such arguments, or too long.
#[must_use]
pub fn write(name: &OsStr, operation: &OsStr, sub_operation: &OsStr) -> Option<Vec<u8>> {
    let words = [VERSION, operation.as_bytes(), sub_operation.as_bytes()];
    if name.is_empty() || !words.iter().all(|word| is_word(word)) {
        return None;
    }
    let message = [&words[..], &[name.as_bytes()]].concat().join(&b' ');
    (message.len() <= MAX_BYTES).then_some(message)
}

/// Reads a message: operation, sub-operation and the domain's name.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read(message: &[u8]) -> Result<(&str, &str, &str), &'static str> {
    if message.len() > MAX_BYTES {
        return Err("it is too long");
    }
    let mut parts = message.splitn(4, |byte| *byte == b' ');
    let mut word =
        || parts.next().filter(|word| is_word(word)).and_then(|word| std::str::from_utf8(word).ok());
    match word() {
        Some("1") => {}
        Some(_) => return Err("it is of another version"),
        None => return Err("it does not begin with a version"),
    }
    let operation = word().ok_or("it names no operation")?;
    let sub_operation = word().ok_or("it names no sub-operation")?;
    let name = parts.next().filter(|name| !name.is_empty()).ok_or("it names no domain")?;
    let name = std::str::from_utf8(name).map_err(|_| "the domain's name is not UTF-8")?;
    if name.chars().any(char::is_control) {
        return Err("the domain's name has control characters");
    }
    Ok((operation, sub_operation, name))
}

fn is_word(word: &[u8]) -> bool {
    (1..=MAX_WORD).contains(&word.len())
        && word.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}
