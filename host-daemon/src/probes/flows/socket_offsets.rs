//! Where the running kernel keeps the fields of `struct sock` that the socket probes read, from its BTF (see
//! `../offsets.rs` for why).

use btf_rs::{Btf, Struct, Type};

use crate::probes::offsets::{OffsetError, member};

/// Names of the probes' variables, the fields that they point to, and their sizes.
const FIELDS: [(&str, &str, usize); 9] = [
    ("SOCK_FAMILY", "__sk_common.skc_family", 2),
    ("SOCK_PROTOCOL", "sk_protocol", 2),
    ("SOCK_STATE", "__sk_common.skc_state", 1),
    ("SOCK_NUM", "__sk_common.skc_num", 2),
    ("SOCK_DPORT", "__sk_common.skc_dport", 2),
    ("SOCK_DADDR", "__sk_common.skc_daddr", 4),
    ("SOCK_SADDR", "__sk_common.skc_rcv_saddr", 4),
    ("SOCK_DADDR6", "__sk_common.skc_v6_daddr", 16),
    ("SOCK_SADDR6", "__sk_common.skc_v6_rcv_saddr", 16),
];

/// What the socket probes must know of the kernel.
#[derive(Clone, Debug)]
pub(super) struct SocketOffsets {
    /// By the name of the probes' variable.
    pub(super) fields: Vec<(&'static str, u32)>,
    /// Arguments of `tcp_recvmsg`, where it is one of the known forms.
    pub(super) receive_arguments: Option<u32>,
    /// The tracepoints `sock_send_length` and `sock_recv_length` exist.
    pub(super) has_tracepoints: bool,
}

/// Resolves everything from the bytes of `/sys/kernel/btf/vmlinux`; the error says what is missing.
pub(super) fn resolve(btf: &[u8]) -> Result<SocketOffsets, String> {
    read(btf).map_err(|error| {
        let what = match error {
            OffsetError::NoField { field } => format!("struct sock has no field {field}"),
            OffsetError::Shape(field) => format!("sock.{field} is not what it has been so far"),
            other => other.to_string(),
        };
        format!("the probes do not know this kernel's sockets: {what}")
    })
}

fn read(btf: &[u8]) -> Result<SocketOffsets, OffsetError> {
    let btf = Btf::from_bytes(btf)?;
    let sock = btf.resolve_types_by_name("sock").unwrap_or_default().into_iter();
    let sock = sock.filter_map(|ty| if let Type::Struct(sock) = ty { Some(sock) } else { None });
    // A declaration without members may stand beside it.
    let sock = sock.max_by_key(|sock| sock.members.len()).ok_or(OffsetError::NoType("struct sock"))?;
    let fields = FIELDS.iter().map(|(name, path, size)| Ok((*name, field(&btf, &sock, path, *size)?)));
    let has = |name: &str| btf.resolve_types_by_name(name).is_ok_and(|types| !types.is_empty());
    Ok(SocketOffsets {
        fields: fields.collect::<Result<_, OffsetError>>()?,
        receive_arguments: receive_arguments(&btf),
        has_tracepoints: has("btf_trace_sock_send_length") && has("btf_trace_sock_recv_length"),
    })
}

fn field(btf: &Btf, sock: &Struct, path: &'static str, size: usize) -> Result<u32, OffsetError> {
    let shape = || OffsetError::Shape(path);
    let mut bits = 0;
    let mut at = Type::Struct(sock.clone());
    for name in path.split('.') {
        let (Type::Struct(within) | Type::Union(within)) = &at else { return Err(shape()) };
        let (offset, ty) = member(btf, within, name, path)?.ok_or(OffsetError::NoField { field: path })?;
        bits += offset;
        at = ty;
    }
    let fits = match &at {
        Type::Int(int) => int.size() == size,
        // struct in6_addr.
        Type::Struct(address) => address.size() == size,
        _ => false,
    };
    if fits && bits % 8 == 0 { Ok(bits / 8) } else { Err(shape()) }
}

/// 4 to 6, or `None` for anything else.
fn receive_arguments(btf: &Btf) -> Option<u32> {
    let functions = btf.resolve_types_by_name("tcp_recvmsg").unwrap_or_default().into_iter();
    let functions =
        functions.filter_map(|ty| if let Type::Func(function) = ty { Some(function) } else { None });
    let mut counts = functions.filter_map(|function| match btf.resolve_chained_type(&function) {
        Ok(Type::FuncProto(proto)) => u32::try_from(proto.parameters.len()).ok(),
        _ => None,
    });
    counts.find(|count| (4..=6).contains(count))
}
