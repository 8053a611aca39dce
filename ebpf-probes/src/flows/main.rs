//! kvmpilot's flow probes, one object: tier 3, who talks to whom on the taps of one domain. The daemon loads it once
//! for each domain, so that the table of one is no other's. How a frame is read lives in `packet.rs`, what is counted
//! in `books.rs`, the shared memory in the `common` crate.
#![expect(clippy::needless_pass_by_value, reason = "aya hands a context over by value")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    clippy::manual_is_multiple_of,
    clippy::manual_memcpy,
    reason = "a copy of a key, a call or a panic more is what a program of 512 bytes of stack cannot have"
)]
#![expect(clippy::cast_possible_truncation, reason = "what is cast is masked or bounded before")]
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]

mod books;
mod packet;

use aya_ebpf::{macros::classifier, programs::TcContext};
use books::Direction;

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` before tcx: whoever comes next decides about the packet. These programs only look.
const NEXT: i32 = -1;

/// A copy of what the host itself sends to many, made for its own ears: Linux' `PACKET_LOOPBACK`.
const LOOPBACK: u32 = 5;

/// What a tap receives its guest has sent.
#[classifier]
fn kvmpilot_sent(ctx: TcContext) -> i32 {
    // SAFETY: a context holds a valid __sk_buff for as long as the program runs.
    if unsafe { (*ctx.skb.skb).pkt_type } == LOOPBACK {
        return NEXT;
    }
    books::count(&ctx, Direction::Sent);
    NEXT
}

/// What a tap sends its guest receives.
#[classifier]
fn kvmpilot_rcvd(ctx: TcContext) -> i32 {
    books::count(&ctx, Direction::Received);
    NEXT
}

// Helpers for tracing are reserved to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
