//! kvmpilot's socket probes, one object: tier 3 for guests whose network is QEMU's own (user-mode networking). What the
//! guest sends, QEMU sends on sockets of the host: here their payload is counted, for the processes that the daemon
//! names. How a `struct sock` is read lives in `sock.rs`.
#![expect(clippy::needless_pass_by_value, reason = "aya hands a context over by value")]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    clippy::manual_is_multiple_of,
    reason = "a copy of a key, or a call, more is what a program of 512 bytes of stack cannot have"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the kernel's own narrow values, handed over in wider registers"
)]
#![no_std]
#![no_main]

mod sock;

use core::{arch::asm, mem::MaybeUninit};

use aya_ebpf::{
    EbpfContext, Global,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_ns},
    macros::{btf_tracepoint, fexit, map},
    maps::{HashMap, LruHashMap},
    programs::{BtfTracePointContext, FExitContext},
};
use kvmpilot_ebpf_common::flow::{Flow, FlowKey, Totals};
use sock::Sock;

const BPF_NOEXIST: u64 = 1;
/// The reader leaves the data where it is and will come again.
const MSG_PEEK: u32 = 2;

/// By process. The daemon makes the entries: nobody else's sockets are counted.
#[map]
static OWNERS: HashMap<u32, Totals> = HashMap::with_max_entries(1024, 0);

/// The daemon sets the size at load.
#[map]
static SOCKETS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(1024, 0);

/// Arguments of `tcp_recvmsg` and its kin: 6 before 5.19 took `nonblock` away, 4 since `addr_len` is gone, too.
#[unsafe(no_mangle)]
static RECEIVE_ARGUMENTS: Global<u32> = Global::new(5);

/// `(sk, ret, flags)`, from 6.3.
#[btf_tracepoint(function = "sock_send_length")]
fn kvmpilot_ssent(ctx: BtfTracePointContext) -> i32 {
    count(Sock::new(ctx.arg(0)), ctx.arg(1), true);
    0
}

/// `(sk, ret, flags)`, from 6.3.
#[btf_tracepoint(function = "sock_recv_length")]
fn kvmpilot_srcvd(ctx: BtfTracePointContext) -> i32 {
    if ctx.arg::<u32>(2) & MSG_PEEK == 0 {
        count(Sock::new(ctx.arg(0)), ctx.arg(1), false);
    }
    0
}

macro_rules! functions {
    ($($program:ident $function:literal $body:ident,)*) => { $(
        #[fexit(function = $function)]
        fn $program(ctx: FExitContext) -> i32 {
            $body(&ctx);
            0
        }
    )* };
}

// Before 6.3; a program can be attached to one function only.
functions! {
    kvmpilot_f_ts "tcp_sendmsg" sent,
    kvmpilot_f_us "udp_sendmsg" sent,
    kvmpilot_f_us6 "udpv6_sendmsg" sent,
    kvmpilot_f_tr "tcp_recvmsg" received,
    kvmpilot_f_ur "udp_recvmsg" received,
    kvmpilot_f_ur6 "udpv6_recvmsg" received,
}

/// `(sk, msg, size) -> ret`.
#[inline(always)]
fn sent(ctx: &FExitContext) {
    count(Sock::new(ctx.arg(0)), ctx.arg(3), true);
}

/// `(sk, msg, len, [nonblock,] flags, [addr_len]) -> ret`.
#[inline(always)]
fn received(ctx: &FExitContext) {
    let (flags, returned) = match RECEIVE_ARGUMENTS.load() {
        4 => (word::<3>(ctx), word::<4>(ctx)),
        5 => (word::<3>(ctx), word::<5>(ctx)),
        _ => (word::<4>(ctx), word::<6>(ctx)),
    };
    if flags as u32 & MSG_PEEK == 0 {
        count(Sock::new(ctx.arg(0)), returned as i32, false);
    }
}

/// A word of the context. From plain reads in branches LLVM makes one read at a computed place, which older verifiers
/// do not allow.
#[inline(always)]
fn word<const N: u64>(ctx: &FExitContext) -> u64 {
    let word: u64;
    // SAFETY: within the context of a function with N arguments or more, which the verifier proves.
    unsafe {
        asm!("{0} = *(u64 *)({1} + {2})", out(reg) word, in(reg) ctx.as_ptr(), const N * 8, options(nostack, readonly));
    }
    word
}

/// `(sk, oldstate, newstate)` of any TCP socket: those that are in the table learn theirs.
#[btf_tracepoint(function = "inet_sock_set_state")]
fn kvmpilot_state(ctx: BtfTracePointContext) -> i32 {
    let mut place = MaybeUninit::uninit();
    let Some(key) = Sock::new(ctx.arg(0)).key(&mut place) else { return 0 };
    if let Some(flow) = SOCKETS.get_ptr_mut(&*key) {
        // SAFETY: an entry of our map; a byte that others write the same way.
        unsafe { (*flow).tcp_state = ctx.arg::<i32>(2) as u8 };
    }
    0
}

#[inline(always)]
fn count(sock: Sock, bytes: i32, sent: bool) {
    if bytes <= 0 {
        return;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(totals) = OWNERS.get_ptr_mut(tgid) else { return };
    let mut place = MaybeUninit::uninit();
    let Some(key) = sock.key(&mut place) else { return };
    let bytes = bytes as u64;
    // SAFETY: counters in a map, to which everybody adds atomically.
    unsafe {
        if sent {
            add(&raw mut (*totals).sent_bytes, bytes);
            add(&raw mut (*totals).sent_packets, 1);
        } else {
            add(&raw mut (*totals).received_bytes, bytes);
            add(&raw mut (*totals).received_packets, 1);
        }
    }
    if SOCKETS.get_ptr_mut(&*key).is_none() {
        let mut place = MaybeUninit::uninit();
        let flow: &mut Flow = sock::clear(&mut place);
        // SAFETY: reads a clock.
        flow.first_ns = unsafe { bpf_ktime_get_ns() };
        flow.tgid = tgid;
        flow.tcp_state = sock.state(key);
        if SOCKETS.insert(&*key, &*flow, BPF_NOEXIST).is_ok() {
            // SAFETY: as above.
            unsafe { add(&raw mut (*totals).flows_made, 1) };
        }
    }
    match SOCKETS.get_ptr_mut(&*key) {
        // SAFETY: as above.
        Some(flow) => unsafe {
            if sent {
                add(&raw mut (*flow).sent_bytes, bytes);
                add(&raw mut (*flow).sent_packets, 1);
            } else {
                add(&raw mut (*flow).received_bytes, bytes);
                add(&raw mut (*flow).received_packets, 1);
            }
        },
        // SAFETY: as above.
        None => unsafe { add(&raw mut (*totals).unplaced, 1) },
    }
}

/// Adds atomically, in the one form of it that kernels before 5.12 have, too; Rust offers none for BPF.
///
/// # Safety
/// An aligned counter in a map.
#[inline(always)]
unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's word.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) value, options(nostack)) };
}

// Helpers for tracing are reserved to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
