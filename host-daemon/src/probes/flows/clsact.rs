//! The clsact qdisc that tc programs need before Linux 6.6. aya makes it; taking it away again is ours to do.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use aya::programs::{ProgramError, TcError, tc};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const CLSACT_PARENT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// Parents of the filters on the way in and out.
const FILTER_PARENTS: [u32; 2] = [0xffff_fff2, 0xffff_fff3];

/// A qdisc that we made. Dropping it removes it, unless somebody else has put filters into it meanwhile.
#[derive(Debug)]
pub(super) struct Qdisc {
    device: String,
    index: u32,
}

impl Qdisc {
    /// Makes sure that the device has one; `None` if it had one before.
    pub(super) fn ensure(device: &str, index: u32) -> Result<Option<Self>, ProgramError> {
        match tc::qdisc_add_clsact(device) {
            Ok(()) => Ok(Some(Self { device: device.to_owned(), index })),
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn remove(&self) -> io::Result<()> {
        let index = i32::try_from(self.index).map_err(io::Error::other)?;
        for parent in FILTER_PARENTS {
            if has_filters(index, parent)? {
                return Ok(());
            }
        }
        let request = Request::new(libc::RTM_DELQDISC, libc::NLM_F_ACK, index, CLSACT_HANDLE, CLSACT_PARENT);
        for message in request.ask()? {
            message?;
        }
        Ok(())
    }
}

impl Drop for Qdisc {
    fn drop(&mut self) {
        match self.remove() {
            Ok(()) => {}
            // The device is gone, and the qdisc with it.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT | libc::EINVAL)) => {}
            Err(error) => tracing::warn!(device = self.device, %error, "cannot remove the clsact qdisc"),
        }
    }
}

fn has_filters(index: i32, parent: u32) -> io::Result<bool> {
    let request = Request::new(libc::RTM_GETTFILTER, libc::NLM_F_DUMP, index, 0, parent);
    for kind in request.ask()? {
        if kind? == libc::RTM_NEWTFILTER {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `struct nlmsghdr` and `struct tcmsg`.
#[repr(C)]
struct Request {
    length: u32,
    kind: u16,
    flags: u16,
    sequence: u32,
    port: u32,
    family: u8,
    padding: [u8; 3],
    index: i32,
    handle: u32,
    parent: u32,
    info: u32,
}

const HEADER: usize = 16;

impl Request {
    fn new(kind: u16, flags: libc::c_int, index: i32, handle: u32, parent: u32) -> Self {
        Self {
            length: u32::try_from(size_of::<Self>()).unwrap_or_default(),
            kind,
            flags: u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default(),
            sequence: 1,
            port: 0,
            family: 0,
            padding: [0; 3],
            index,
            handle,
            parent,
            info: 0,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size_of::<Self>());
        bytes.extend(self.length.to_ne_bytes());
        bytes.extend(self.kind.to_ne_bytes());
        bytes.extend(self.flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(self.port.to_ne_bytes());
        bytes.push(self.family);
        bytes.extend(self.padding);
        bytes.extend(self.index.to_ne_bytes());
        bytes.extend(self.handle.to_ne_bytes());
        bytes.extend(self.parent.to_ne_bytes());
        bytes.extend(self.info.to_ne_bytes());
        bytes
    }

    /// Kinds of the messages that answer it, up to the last one.
    fn ask(&self) -> io::Result<Vec<io::Result<u16>>> {
        let socket: OwnedFd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        sendto(socket.as_raw_fd(), &self.bytes(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut kinds = Vec::new();
        let mut buffer = vec![0_u8; 32 * 1024];
        loop {
            let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((kind, error, next)) = split(rest) {
                rest = next;
                match (i32::from(kind), error) {
                    (libc::NLMSG_DONE, _) | (libc::NLMSG_ERROR, Some(0)) => return Ok(kinds),
                    (libc::NLMSG_ERROR, error) => {
                        kinds.push(Err(io::Error::from_raw_os_error(-error.unwrap_or(-libc::EIO))));
                        return Ok(kinds);
                    }
                    _ => kinds.push(Ok(kind)),
                }
            }
        }
    }
}

/// Kind and error number of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, Option<i32>, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    if length < HEADER {
        return None;
    }
    let error = bytes.get(HEADER..HEADER + 4).and_then(|error| error.try_into().ok()).map(i32::from_ne_bytes);
    Some((kind, error, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}
