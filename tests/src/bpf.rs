//! BPF objects that a process holds, looked at from outside: their ids, whether they are still in the kernel, what a map
//! holds. By plain system calls, so that it is independent of what is tested.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use anyhow::{Context, Result};
use nix::libc;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Programs.
    Program,
    /// Maps.
    Map,
    /// Links.
    Link,
}

/// One object, by the kernel's number of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its number; numbers are not given out twice.
    pub id: u32,
}

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// The objects of which a process holds descriptors.
///
/// # Errors
/// When the process is gone.
pub fn held_by(pid: u32) -> Result<BTreeSet<Object>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        let id =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
        // A link tells its program's number, too.
        let object = match (id("link_id:"), id("map_id:"), id("prog_id:")) {
            (Some(id), _, _) => Object { kind: Kind::Link, id },
            (_, Some(id), _) => Object { kind: Kind::Map, id },
            (_, _, Some(id)) => Object { kind: Kind::Program, id },
            _ => continue,
        };
        found.insert(object);
    }
    Ok(found)
}

/// All objects of this kernel, whoever holds them and wherever they are attached.
///
/// # Errors
/// When BPF is refused.
pub fn all() -> Result<BTreeSet<Object>> {
    let mut found = BTreeSet::new();
    for (kind, next) in [(Kind::Program, 11), (Kind::Map, 12), (Kind::Link, 31)] {
        let mut id = 0;
        loop {
            let mut attr = Attr::default();
            attr.word(0, id);
            match attr.call(next) {
                Ok(_) => id = attr.read(4),
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error).with_context(|| format!("the next {kind:?} after {id}")),
            }
            found.insert(Object { kind, id });
        }
    }
    Ok(found)
}

impl Object {
    /// Whether the kernel still has it.
    ///
    /// # Errors
    /// When BPF is refused.
    pub fn exists(self) -> Result<bool> {
        match self.open() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("{self:?}")),
        }
    }

    /// The name of a map or of a program.
    ///
    /// # Errors
    /// When it is a link, which has no name, or gone.
    pub fn name(self) -> Result<String> {
        // Where struct bpf_map_info and struct bpf_prog_info have it, 16 bytes long.
        let at = match self.kind {
            Kind::Map => 24,
            Kind::Program => 64,
            Kind::Link => anyhow::bail!("a link has no name"),
        };
        let object = self.open()?;
        let mut info = [0_u8; 80];
        let mut attr = Attr::default();
        attr.word(0, raw(&object)?).word(4, at + 16).pointer(8, info.as_mut_ptr().cast());
        attr.call(OBJ_GET_INFO_BY_FD)?;
        let at = usize::try_from(at)?;
        let name = info[at..at + 16].split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }

    /// An entry of an array map of `u32`.
    ///
    /// # Errors
    /// When it is no such map, or `index` is beyond its end.
    pub fn entry(self, index: u32) -> Result<u32> {
        let map = self.open()?;
        let (mut key, mut value) = (index, 0_u32);
        let mut attr = Attr::default();
        attr.word(0, raw(&map)?).pointer(8, (&raw mut key).cast()).pointer(16, (&raw mut value).cast());
        attr.call(MAP_LOOKUP_ELEM)?;
        Ok(value)
    }

    fn open(self) -> io::Result<OwnedFd> {
        let command = match self.kind {
            Kind::Program => 13,
            Kind::Map => 14,
            Kind::Link => 30,
        };
        let mut attr = Attr::default();
        attr.word(0, self.id);
        let fd = attr.call(command)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

/// Whether this kernel considers programs at the ends of its functions (fexit) at all. Linux as it is released does;
/// some builds refuse every one of them, whoever asks, before they look at the program.
///
/// # Errors
/// When the answer is none of the two.
pub fn may_trace_functions() -> Result<bool> {
    const PROG_LOAD: libc::c_int = 5;
    const TRACING: u32 = 26;
    const FEXIT: u32 = 25;
    // r0 = 0; exit
    let mut program = [0x0000_0000_0000_00b7_u64, 0x95];
    let mut license = *b"GPL\0";
    let mut attr = Attr::default();
    attr.word(0, TRACING).word(4, 2).pointer(8, program.as_mut_ptr().cast());
    // Type 1 of the kernel is no function: a kernel that gets so far says EINVAL.
    attr.pointer(16, license.as_mut_ptr().cast()).word(68, FEXIT).word(108, 1);
    match attr.call(PROG_LOAD).map_err(|error| error.raw_os_error()) {
        Err(Some(libc::EPERM)) => Ok(false),
        Err(Some(libc::EINVAL)) => Ok(true),
        other => anyhow::bail!("a program at no function: {other:?}"),
    }
}

fn raw(fd: &OwnedFd) -> Result<u32> {
    Ok(u32::try_from(fd.as_raw_fd())?)
}

/// `union bpf_attr`, as far as these calls use it.
#[repr(C, align(8))]
struct Attr([u8; 112]);

impl Default for Attr {
    fn default() -> Self {
        Self([0; 112])
    }
}

impl Attr {
    fn word(&mut self, at: usize, value: u32) -> &mut Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn read(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(word)
    }

    fn pointer(&mut self, at: usize, to: *mut libc::c_void) -> &mut Self {
        self.0[at..at + 8].copy_from_slice(&(to as u64).to_ne_bytes());
        self
    }

    fn call(&mut self, command: libc::c_int) -> io::Result<RawFd> {
        // SAFETY: the attributes live through the call, and so does what their pointers lead to.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, self.0.as_mut_ptr(), self.0.len()) };
        match RawFd::try_from(result) {
            Ok(fd) if fd >= 0 => Ok(fd),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
