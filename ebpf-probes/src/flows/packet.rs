//! Reads a frame: from Ethernet through VLAN tags and IP to the ports. Frames come from a guest: whatever is not what
//! it should be ends the reading, and what was found so far counts.

use core::mem::MaybeUninit;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use kvmpilot_ebpf_common::flow::FlowKey;

use crate::books::{Direction, clear};

const ETHERNET_TYPE: u32 = 12;
const ETHERNET: u32 = 14;
const VLAN_TAG: u32 = 4;
const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Tags that a frame may carry beside the one that the network card took off.
const TAGS: u32 = 2;
/// RFC 8200 names six extension headers, each at most once, but for two destination options.
const EXTENSIONS: u32 = 7;

/// What the books need of a frame.
#[repr(C)]
pub(crate) struct Packet {
    pub(crate) key: FlowKey,
    /// Flags of TCP; 0 for other protocols.
    pub(crate) flags: u32,
    /// The header at hand. One for all: a probe has 512 bytes of stack.
    header: [u8; 20],
}

impl Packet {
    /// Reads a frame that goes this way.
    #[inline(always)]
    pub(crate) fn read<'a>(
        ctx: &TcContext,
        direction: Direction,
        place: &'a mut MaybeUninit<Self>,
    ) -> &'a mut Self {
        // SAFETY: integers only.
        let packet = unsafe { clear(place) };
        let _ = packet.ethernet(ctx, direction);
        packet
    }

    /// Reads the first `N` bytes of the header at `offset`; `None` beyond the end of the frame.
    #[inline(always)]
    fn load<const N: usize>(&mut self, ctx: &TcContext, offset: u32) -> Option<()> {
        const { assert!(N <= 20) };
        copy::<N>(ctx, offset, self.header.as_mut_ptr())
    }

    #[inline(always)]
    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.header[at], self.header[at + 1]])
    }

    #[inline(always)]
    fn ethernet(&mut self, ctx: &TcContext, direction: Direction) -> Option<()> {
        self.load::<2>(ctx, ETHERNET_TYPE)?;
        let mut kind = self.word(0);
        let mut at = ETHERNET;
        for _ in 0..TAGS {
            if kind == VLAN || kind == SERVICE_VLAN {
                self.load::<2>(ctx, at + 2)?;
                kind = self.word(0);
                at += VLAN_TAG;
            }
        }
        match kind {
            IPV4 => self.ipv4(ctx, at, direction),
            IPV6 => self.ipv6(ctx, at, direction),
            _ => None,
        }
    }

    #[inline(always)]
    fn ipv4(&mut self, ctx: &TcContext, at: u32, direction: Direction) -> Option<()> {
        self.load::<20>(ctx, at)?;
        let header = &self.header;
        let words = u32::from(header[0] & 0x0f);
        if header[0] >> 4 != 4 || words < 5 {
            return None;
        }
        let (from, to) = match direction {
            Direction::Sent => (&mut self.key.guest, &mut self.key.peer),
            Direction::Received => (&mut self.key.peer, &mut self.key.guest),
        };
        (from[10], from[11], to[10], to[11]) = (0xff, 0xff, 0xff, 0xff);
        for n in 0..4 {
            from[12 + n] = header[12 + n];
            to[12 + n] = header[16 + n];
        }
        self.key.version = 4;
        self.key.protocol = header[9];
        // More fragments, or not the first: only the first has ports, and all of a datagram belong together.
        if self.word(6) & 0x3fff != 0 {
            return None;
        }
        self.ports(ctx, at + words * 4, direction)
    }

    #[inline(always)]
    fn ipv6(&mut self, ctx: &TcContext, mut at: u32, direction: Direction) -> Option<()> {
        self.load::<8>(ctx, at)?;
        let mut next = self.header[6];
        if self.header[0] >> 4 != 6 {
            return None;
        }
        let (from, to) = match direction {
            Direction::Sent => (&mut self.key.guest, &mut self.key.peer),
            Direction::Received => (&mut self.key.peer, &mut self.key.guest),
        };
        // The later one first: if that one is there, so is the other, and half an address never stays behind.
        copy::<16>(ctx, at + 24, to.as_mut_ptr())?;
        copy::<16>(ctx, at + 8, from.as_mut_ptr())?;
        self.key.version = 6;
        self.key.protocol = next;
        at += 40;
        for _ in 0..EXTENSIONS {
            match next {
                // Hop-by-hop, routing, authentication, destination options, mobility, HIP, shim6.
                0 | 43 | 51 | 60 | 135 | 139 | 140 => {
                    self.load::<2>(ctx, at)?;
                    let length = u32::from(self.header[1]);
                    at += if next == 51 { (length + 2) * 4 } else { (length + 1) * 8 };
                    next = self.header[0];
                }
                44 => {
                    self.load::<4>(ctx, at)?;
                    at += 8;
                    next = self.header[0];
                    // A fragment that is the whole packet (RFC 6946) has its ports.
                    if self.word(2) & 0xfff9 != 0 {
                        self.key.protocol = next;
                        return None;
                    }
                }
                _ => break,
            }
            self.key.protocol = next;
        }
        self.ports(ctx, at, direction)
    }

    #[inline(always)]
    fn ports(&mut self, ctx: &TcContext, at: u32, direction: Direction) -> Option<()> {
        match self.key.protocol {
            TCP => {
                self.load::<14>(ctx, at)?;
                self.flags = u32::from(self.header[13]);
            }
            UDP => self.load::<4>(ctx, at)?,
            _ => return None,
        }
        (self.key.guest_port, self.key.peer_port) = match direction {
            Direction::Sent => (self.word(0), self.word(2)),
            Direction::Received => (self.word(2), self.word(0)),
        };
        Some(())
    }
}

/// Copies `N` bytes of the frame, also where they lie outside its linear part.
#[inline(always)]
fn copy<const N: usize>(ctx: &TcContext, offset: u32, to: *mut u8) -> Option<()> {
    // SAFETY: `to` has room for N bytes; the helper writes N or, as zeros, N.
    let failed = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, to.cast(), N as u32) };
    (failed == 0).then_some(())
}
