//! What the tier 3 probes keep about a flow and about a device: keys, counters, the flags of TCP.
//!
//! "Sent" is what the guest sent, "received" what it received. Ports are numbers, not in network order.

/// TCP's FIN bit.
pub const FIN: u8 = 0x01;
/// TCP's SYN bit.
pub const SYN: u8 = 0x02;
/// TCP's RST bit.
pub const RST: u8 = 0x04;
/// TCP's ACK bit.
pub const ACK: u8 = 0x10;

/// [`Flow::opener`]: nobody was seen opening it.
pub const OPENER_UNKNOWN: u8 = 0;
/// [`Flow::opener`]: the guest sent the first SYN.
pub const OPENER_GUEST: u8 = 1;
/// [`Flow::opener`]: the peer sent the first SYN.
pub const OPENER_PEER: u8 = 2;

/// Who talks to whom. All zeros: frames that carry no (well-formed) IP.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The guest's address; IPv4 is mapped into IPv6 (`::ffff:a.b.c.d`).
    pub guest: [u8; 16],
    /// The peer's address, likewise.
    pub peer: [u8; 16],
    /// The guest's port; 0 where the protocol has none, and for fragments.
    pub guest_port: u16,
    /// The peer's port, likewise.
    pub peer_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Version of IP: 4 or 6; 0 for anything else.
    pub version: u8,
    /// Zero.
    pub reserved: u16,
}

const _: () = assert!(size_of::<FlowKey>() == 40);

/// Counters of one flow. The bytes are counted as the device's statistics count them: with the Ethernet header and
/// VLAN tags, without checksum and preamble.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Bytes that the guest sent.
    pub sent_bytes: u64,
    /// Packets that the guest sent.
    pub sent_packets: u64,
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Packets that the guest received.
    pub received_packets: u64,
    /// Time of the first packet, ns on the kernel's monotonic clock. Tells two lives of one key apart.
    pub first_ns: u64,
    /// All TCP flags that the guest sent since the connection began.
    pub sent_flags: u8,
    /// All TCP flags that the guest received, likewise.
    pub received_flags: u8,
    /// [`OPENER_UNKNOWN`], [`OPENER_GUEST`] or [`OPENER_PEER`].
    pub opener: u8,
    /// Kernel's TCP state, of a socket of the host only; 0 otherwise.
    pub tcp_state: u8,
    /// Process that owns the host's socket; 0 for flows of a device.
    pub tgid: u32,
}

const _: () = assert!(size_of::<Flow>() == 48);

/// Counters of a device, or of a process with sockets: everything, whether a flow was kept or not.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes that the guest sent.
    pub sent_bytes: u64,
    /// Packets that the guest sent.
    pub sent_packets: u64,
    /// Bytes that the guest received.
    pub received_bytes: u64,
    /// Packets that the guest received.
    pub received_packets: u64,
    /// Flows that were entered into the table.
    pub flows_made: u64,
    /// Packets whose flow found no place in the table.
    pub unplaced: u64,
}

const _: () = assert!(size_of::<Totals>() == 48);

#[cfg(feature = "user")]
mod user {
    use super::{Flow, FlowKey, Totals};

    // SAFETY: repr(C), integers only, and the size assertions leave no room for padding.
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Flow {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Totals {}
}
