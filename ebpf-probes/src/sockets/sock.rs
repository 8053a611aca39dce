//! Reads fields of the running kernel's `struct sock`, at offsets that the daemon resolves from its BTF (see `task.rs`
//! for why and how).

use core::mem::MaybeUninit;

use aya_ebpf::Global;
use kvmpilot_ebpf_common::flow::FlowKey;

macro_rules! offsets {
    ($($name:ident),* $(,)?) => { $(#[unsafe(no_mangle)] static $name: Global<u32> = Global::new(u32::MAX);)* };
}

// The names are the contract with host-daemon/src/probes/flows/socket_offsets.rs.
offsets!(
    SOCK_FAMILY,
    SOCK_PROTOCOL,
    SOCK_STATE,
    SOCK_NUM,
    SOCK_DPORT,
    SOCK_DADDR,
    SOCK_SADDR,
    SOCK_DADDR6,
    SOCK_SADDR6
);

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A `struct sock` that a tracing program was given.
#[derive(Clone, Copy)]
pub(crate) struct Sock(*const u8);

impl Sock {
    #[inline(always)]
    pub(crate) fn new(sock: *const u8) -> Self {
        Self(sock)
    }

    #[inline(always)]
    fn load<T: Copy>(self, offset: &Global<u32>, more: usize) -> T {
        // SAFETY: the verifier proves that this is a field of the struct, of T's size, or refuses the program.
        unsafe { self.0.add(offset.load() as usize + more).cast::<T>().read_volatile() }
    }

    /// Whom it connects, the host's side in the place of the guest's. `None` unless it is TCP or UDP over IP.
    #[inline(always)]
    pub(crate) fn key(self, place: &mut MaybeUninit<FlowKey>) -> Option<&mut FlowKey> {
        let family: u16 = self.load(&SOCK_FAMILY, 0);
        let protocol = self.load::<u16>(&SOCK_PROTOCOL, 0) as u8;
        if (family != AF_INET && family != AF_INET6) || (protocol != TCP && protocol != UDP) {
            return None;
        }
        let key: &mut FlowKey = clear(place);
        key.protocol = protocol;
        key.guest_port = self.load(&SOCK_NUM, 0);
        key.peer_port = u16::from_be(self.load(&SOCK_DPORT, 0));
        let (guest, peer) = (key.guest.as_mut_ptr().cast::<u32>(), key.peer.as_mut_ptr().cast::<u32>());
        if family == AF_INET {
            key.version = 4;
            let mapped = 0xffff_u32.to_be();
            // SAFETY: the third and fourth word of 16 aligned bytes.
            unsafe {
                guest.add(2).write(mapped);
                guest.add(3).write(self.load(&SOCK_SADDR, 0));
                peer.add(2).write(mapped);
                peer.add(3).write(self.load(&SOCK_DADDR, 0));
            }
        } else {
            key.version = 6;
            for word in 0..4 {
                // SAFETY: four words of 16 aligned bytes.
                unsafe {
                    guest.add(word).write(self.load(&SOCK_SADDR6, word * 4));
                    peer.add(word).write(self.load(&SOCK_DADDR6, word * 4));
                }
            }
        }
        Some(key)
    }

    /// TCP's state; 0 for other protocols.
    #[inline(always)]
    pub(crate) fn state(self, key: &FlowKey) -> u8 {
        if key.protocol == TCP { self.load(&SOCK_STATE, 0) } else { 0 }
    }
}

/// Zeros where it stands, word by word: anything else LLVM turns into a call of a loop of single bytes.
#[inline(always)]
pub(crate) fn clear<T: Copy>(place: &mut MaybeUninit<T>) -> &mut T {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    let words = place.as_mut_ptr().cast::<u64>();
    for n in 0..size_of::<T>() / 8 {
        // SAFETY: inside of `place`, aligned; volatile, so that the loop is not taken for a memset.
        unsafe { words.add(n).write_volatile(0) };
    }
    // SAFETY: written above, and it holds integers only.
    unsafe { place.assume_init_mut() }
}
