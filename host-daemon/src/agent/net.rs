//! Sockets of the guest: `/proc/net/{tcp,tcp6,udp,udp6}`, joined with the processes that hold them by inode.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kvmpilot_core::sample::{Listener, SocketProtocol, SocketSample, SocketState};

/// What has been read of the guest's sockets.
#[derive(Debug, Default)]
pub(super) struct Net {
    /// Owners by inode.
    owners: HashMap<u64, Vec<u32>>,
    sockets: Vec<(u64, SocketSample)>,
    listeners: Vec<(u64, Listener)>,
    /// There were more than were read.
    pub(super) more: bool,
}

impl Net {
    /// Reads a line of `ls -Lid`: `INODE PID/fd/N`.
    pub(super) fn read_owner(&mut self, line: &[u8]) {
        let Ok(line) = std::str::from_utf8(line) else { return };
        let mut words = line.split_ascii_whitespace();
        let inode = words.next().and_then(|word| word.parse().ok());
        let pid = words.next().and_then(|path| path.split_once("/fd/")?.0.parse().ok());
        if let (Some(inode), Some(pid)) = (inode, pid) {
            // All descriptors of a process come one after the other.
            let owners = self.owners.entry(inode).or_default();
            if owners.last() != Some(&pid) {
                owners.push(pid);
            }
        }
    }

    /// Reads a line of grep: `net/tcp:` and a line of that table.
    pub(super) fn read_socket(&mut self, line: &[u8], most: usize) {
        let Some((protocol, socket)) = std::str::from_utf8(line).ok().and_then(Entry::read) else { return };
        if self.sockets.len() + self.listeners.len() >= most {
            self.more = true;
            return;
        }
        let Entry { local: (local_address, local_port), peer: (peer_address, peer_port), state, inode } =
            socket;
        let state = match (protocol, state) {
            (SocketProtocol::Tcp, 0x0a) | (SocketProtocol::Udp, 0x07) => {
                let listener =
                    Listener { protocol, address: local_address, port: local_port, owners: Vec::new() };
                self.listeners.push((inode, listener));
                return;
            }
            (_, 0x01) => SocketState::Established,
            (SocketProtocol::Tcp, 0x02 | 0x03 | 0x0c) => SocketState::Opening,
            (SocketProtocol::Tcp, 0x04..=0x0b) => SocketState::Closing,
            _ => return,
        };
        let socket = SocketSample {
            protocol,
            local_address,
            local_port,
            peer_address,
            peer_port,
            state,
            owners: Vec::new(),
        };
        self.sockets.push((inode, socket));
    }

    /// Joins sockets and owners.
    pub(super) fn finish(self) -> (Vec<SocketSample>, Vec<Listener>) {
        let owners = |inode: u64| self.owners.get(&inode).cloned().unwrap_or_default();
        let sockets = self.sockets.into_iter();
        let sockets =
            sockets.map(|(inode, socket)| SocketSample { owners: owners(inode), ..socket }).collect();
        let listeners = self.listeners.into_iter();
        let listeners =
            listeners.map(|(inode, listener)| Listener { owners: owners(inode), ..listener }).collect();
        (sockets, listeners)
    }
}

/// A line of a socket table.
struct Entry {
    local: (IpAddr, u16),
    peer: (IpAddr, u16),
    state: u8,
    /// 0 for sockets without an owner; no file has that inode.
    inode: u64,
}

impl Entry {
    fn read(line: &str) -> Option<(SocketProtocol, Self)> {
        let (table, line) = line.strip_prefix("net/")?.split_once(':')?;
        let protocol = match table {
            "tcp" | "tcp6" => SocketProtocol::Tcp,
            "udp" | "udp6" => SocketProtocol::Udp,
            _ => return None,
        };
        // sl local remote st tx:rx tr:when retransmits uid timeout inode
        let words: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
        let [_, local, peer, state, _, _, _, _, _, inode] = words[..] else { return None };
        let entry = Self {
            local: endpoint(local)?,
            peer: endpoint(peer)?,
            state: u8::from_str_radix(state, 16).ok()?,
            inode: inode.parse().ok()?,
        };
        Some((protocol, entry))
    }
}

/// `0100007F:1F90`: the address in 32-bit words of the guest's byte order (little-endian on all that we support), the
/// port as a number. IPv4 in IPv6 comes out as IPv4.
fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_le_bytes())
    };
    let address = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.copy_from_slice(words.as_flattened());
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some((address, port))
}
