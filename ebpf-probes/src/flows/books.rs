//! The books of one domain: what each of its taps moved, exactly, and what each flow moved, as long as the table has
//! room. No clock but at the first packet of a flow.

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    helpers::generated::bpf_ktime_get_ns,
    macros::map,
    maps::{LruHashMap, PerCpuHashMap},
    programs::TcContext,
};
use kvmpilot_ebpf_common::flow::{
    ACK, FIN, Flow, FlowKey, OPENER_GUEST, OPENER_PEER, OPENER_UNKNOWN, RST, SYN, Totals,
};

use crate::packet::Packet;

const BPF_NOEXIST: u64 = 1;
/// A tag that the kernel keeps beside the frame; the device's statistics count it as part of it.
const VLAN_TAG: u32 = 4;
/// Most network cards of a domain.
const MAX_TAPS: u32 = 64;

/// By interface index. The daemon makes the entry before it attaches the programs: a device without one is not ours.
#[map]
static TAPS: PerCpuHashMap<u32, Totals> = PerCpuHashMap::with_max_entries(MAX_TAPS, 0);

/// The daemon sets the size at load. What is least used goes first.
#[map]
static FLOWS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1024, 0);

/// Seen from the guest.
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    Sent,
    Received,
}

#[inline(always)]
pub(crate) fn count(ctx: &TcContext, direction: Direction) {
    // SAFETY: the verifier turns these into loads from the packet's own metadata.
    let (device, tagged) = unsafe { ((*ctx.skb.skb).ifindex, (*ctx.skb.skb).vlan_present) };
    let bytes = u64::from(ctx.len() + if tagged != 0 { VLAN_TAG } else { 0 });
    let Some(totals) = TAPS.get_ptr_mut(device) else { return };
    // SAFETY: this pcpu's own counters, and a packet is not interrupted by another one.
    let totals = unsafe { &mut *totals };
    match direction {
        Direction::Sent => {
            totals.sent_bytes += bytes;
            totals.sent_packets += 1;
        }
        Direction::Received => {
            totals.received_bytes += bytes;
            totals.received_packets += 1;
        }
    }
    let mut place = MaybeUninit::uninit();
    let packet = Packet::read(ctx, direction, &mut place);
    if FLOWS.get_ptr_mut(&packet.key).is_none() {
        let mut place = MaybeUninit::uninit();
        // SAFETY: integers only.
        let flow: &mut Flow = unsafe { clear(&mut place) };
        // SAFETY: reads a clock.
        flow.first_ns = unsafe { bpf_ktime_get_ns() };
        // It fails, too, when another pcpu was faster: then its entry serves.
        if FLOWS.insert(&packet.key, &*flow, BPF_NOEXIST).is_ok() {
            totals.flows_made += 1;
        }
    }
    match FLOWS.get_ptr_mut(&packet.key) {
        // SAFETY: an entry of our map. The kernel may give it to another flow meanwhile; then this packet counts there,
        // as with every LRU map.
        Some(flow) => book(unsafe { &mut *flow }, bytes, direction, packet.flags as u8),
        None => totals.unplaced += 1,
    }
}

/// Both directions, and several pcpus, may be here at once: bytes and packets are added atomically. The flags are not:
/// the worst that can happen is that a connection looks open for one packet longer.
#[inline(always)]
fn book(flow: &mut Flow, bytes: u64, direction: Direction, flags: u8) {
    let (byte_count, packet_count) = match direction {
        Direction::Sent => (&raw mut flow.sent_bytes, &raw mut flow.sent_packets),
        Direction::Received => (&raw mut flow.received_bytes, &raw mut flow.received_packets),
    };
    add(byte_count, bytes);
    add(packet_count, 1);
    if flags == 0 {
        return;
    }
    if flags & (SYN | ACK) == SYN {
        if (flow.sent_flags | flow.received_flags) & (FIN | RST) != 0 {
            // The ports are used again, by a new connection.
            (flow.sent_flags, flow.received_flags, flow.opener) = (0, 0, OPENER_UNKNOWN);
        }
        if flow.opener == OPENER_UNKNOWN {
            flow.opener = match direction {
                Direction::Sent => OPENER_GUEST,
                Direction::Received => OPENER_PEER,
            };
        }
    }
    let seen = match direction {
        Direction::Sent => &mut flow.sent_flags,
        Direction::Received => &mut flow.received_flags,
    };
    if *seen | flags != *seen {
        *seen |= flags;
    }
}

/// Zeros where it stands, word by word: anything else LLVM turns into a call of a loop of single bytes.
///
/// # Safety
/// All zeros must be a value of `T`.
#[inline(always)]
pub(crate) unsafe fn clear<T>(place: &mut MaybeUninit<T>) -> &mut T {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    let words = place.as_mut_ptr().cast::<u64>();
    for n in 0..size_of::<T>() / 8 {
        // SAFETY: inside of `place`, aligned; volatile, so that the loop is not taken for a memset.
        unsafe { words.add(n).write_volatile(0) };
    }
    // SAFETY: written above; the caller knows that zeros will do.
    unsafe { place.assume_init_mut() }
}

/// Adds atomically. In assembler because Rust offers no atomics for BPF, and because this is the one form of it that
/// kernels before 5.12 have, too.
#[inline(always)]
fn add(counter: *mut u64, value: u64) {
    // SAFETY: an aligned counter in a map; everybody adds to it in this way.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) value, options(nostack)) };
}
