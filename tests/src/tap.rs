//! A tap in a network namespace of its own, for tests without guests: what is written to it, a guest would have sent;
//! what is read from it, a guest would have received.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};
use nix::libc;
use nix::sched::{CloneFlags, unshare};

use crate::run::run;

/// Moves the calling thread, and what it starts from now on, into a new network namespace, which goes with it. IPv6's own
/// chatter is switched off.
///
/// # Errors
/// Without root.
pub fn own_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace: this needs root")?;
    // Of the namespace of whoever opens it.
    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").context("cannot switch IPv6 off")
}

/// A tap of the calling thread's network namespace. Goes when dropped.
#[derive(Debug)]
pub struct Tap {
    name: String,
    file: File,
}

/// What a device's statistics say, from the guest's point of view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounters {
    /// Bytes that the guest sent.
    pub sent_bytes: u64,
    /// Packets that the guest sent.
    pub sent_packets: u64,
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Packets that the guest received.
    pub received_packets: u64,
}

impl Tap {
    /// Makes the tap, gives it the address (like `10.9.0.1/24`) and brings it up.
    ///
    /// # Errors
    /// Without root or the tun driver.
    pub fn new(name: &str, address: &str) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .context("cannot open /dev/net/tun")?;
        // struct ifreq: the name, then the flags.
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        request[16..18].copy_from_slice(&u16::try_from(flags)?.to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes a struct ifreq, for which there is room.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) } != 0 {
            return Err(io::Error::last_os_error()).context("TUNSETIFF");
        }
        let tap = Self { name: name.to_owned(), file };
        run(std::process::Command::new("ip").args(["addr", "add", address, "dev", name]))?;
        run(std::process::Command::new("ip").args(["link", "set", name, "up"]))?;
        tap.receive_all()?;
        Ok(tap)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a frame as the guest.
    ///
    /// # Errors
    /// When the device does not take it.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        Ok((&self.file).write_all(frame)?)
    }

    /// Takes every frame that waits for the guest, and returns them.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn receive_all(&self) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 70_000];
        loop {
            match (&self.file).read(&mut buffer) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(frames),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The device's own statistics.
    ///
    /// # Errors
    /// When it is gone.
    pub fn counters(&self) -> Result<LinkCounters> {
        link_counters(&fs::read_to_string("/proc/thread-self/net/dev")?, &self.name)
    }
}

/// The counters of a device in the text of `/proc/net/dev`.
///
/// # Errors
/// When there is no such device.
pub fn link_counters(text: &str, device: &str) -> Result<LinkCounters> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'));
    let line = line.with_context(|| format!("no {device} in:\n{text}"))?;
    let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    // What the device receives the guest has sent.
    Ok(LinkCounters {
        sent_bytes: numbers[0],
        sent_packets: numbers[1],
        received_bytes: numbers[8],
        received_packets: numbers[9],
    })
}
