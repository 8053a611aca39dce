//! Where the running kernel keeps the fields that the probes read, and what its `sched_switch` hands over:
//! resolved from its BTF, never from a version number. Vendor kernels backport, and layouts change with every
//! configuration. Anything missing, ambiguous or of an unexpected size is an error: tier 1 stays off rather
//! than measure something else.

use btf_rs::{Btf, Struct, Type};

/// Byte offsets in `task_struct`, and the one difference between tracepoints that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// `pid`: the thread's id.
    pub pid: u32,
    /// `tgid`: the id of its process.
    pub tgid: u32,
    /// `__state`, before 5.14 `state`.
    pub state: u32,
    /// `start_boottime`, before 5.5 `real_start_time`.
    pub start: u32,
    /// `se.sum_exec_runtime`.
    pub exec_runtime: u32,
    /// `se.nr_migrations`.
    pub migrations: u32,
    /// `sched_info.run_delay`.
    pub run_delay: u32,
    /// `sched_info.pcount`.
    pub pcount: u32,
    /// `sched_info.last_arrival`.
    pub last_arrival: u32,
    /// `sched_switch` passes the state of `prev` as its last argument.
    pub switch_has_state: bool,
}

/// Why the BTF does not tell what the probes must know.
#[derive(Debug, thiserror::Error)]
pub enum OffsetError {
    /// Not BTF, or a kind of it that the parser does not know.
    #[error("the kernel's BTF cannot be parsed")]
    Btf(#[from] btf_rs::Error),
    /// No such type.
    #[error("the kernel's BTF has no {0}")]
    NoType(&'static str),
    /// No such field.
    #[error("task_struct has no field {field} in this kernel{}", hint(.field))]
    NoField {
        /// Path of the field.
        field: &'static str,
    },
    /// Several types of one name that disagree.
    #[error("the kernel's BTF has more than one task_struct, and they disagree on {0}")]
    Ambiguous(&'static str),
    /// A field is not the plain integer that it has been so far.
    #[error("task_struct.{0} is not the plain integer in this kernel that it has been so far")]
    Shape(&'static str),
    /// The tracepoint's arguments are none of the known sequences.
    #[error("the tracepoint sched_switch has unknown arguments in this kernel")]
    Arguments,
}

fn hint(field: &str) -> &'static str {
    if field.starts_with("sched_info") { " (it is built without CONFIG_SCHED_INFO)" } else { "" }
}

/// Resolves everything from the bytes of `/sys/kernel/btf/vmlinux`.
///
/// # Errors
/// See [`OffsetError`].
pub fn resolve(btf: &[u8]) -> Result<Offsets, OffsetError> {
    let btf = Btf::from_bytes(btf)?;
    let tasks: Vec<Struct> = btf
        .resolve_types_by_name("task_struct")
        .unwrap_or_default()
        .into_iter()
        .filter_map(|ty| if let Type::Struct(task) = ty { Some(task) } else { None })
        .collect();
    if tasks.is_empty() {
        return Err(OffsetError::NoType("struct task_struct"));
    }
    // The first path that exists counts: newest name first.
    let field = |paths: &[&'static str], sizes: &[usize]| -> Result<u32, OffsetError> {
        for path in paths {
            let mut found = tasks.iter().map(|task| field_of(&btf, task, path, sizes));
            let Some(first) = found.next().transpose()?.flatten() else { continue };
            for other in found {
                if other? != Some(first) {
                    return Err(OffsetError::Ambiguous(path));
                }
            }
            return Ok(first);
        }
        Err(OffsetError::NoField { field: paths[0] })
    };
    Ok(Offsets {
        pid: field(&["pid"], &[4])?,
        tgid: field(&["tgid"], &[4])?,
        state: field(&["__state", "state"], &[4, 8])?,
        start: field(&["start_boottime", "real_start_time"], &[8])?,
        exec_runtime: field(&["se.sum_exec_runtime"], &[8])?,
        migrations: field(&["se.nr_migrations"], &[8])?,
        run_delay: field(&["sched_info.run_delay"], &[8])?,
        pcount: field(&["sched_info.pcount"], &[8])?,
        last_arrival: field(&["sched_info.last_arrival"], &[8])?,
        switch_has_state: switch_has_state(&btf)?,
    })
}

/// Offset of `path`, a dotted name of an integer of one of `sizes`; `None` if there is no such field.
fn field_of(
    btf: &Btf,
    root: &Struct,
    path: &'static str,
    sizes: &[usize],
) -> Result<Option<u32>, OffsetError> {
    let shape = || OffsetError::Shape(path);
    let mut bits = 0;
    let mut at = Type::Struct(root.clone());
    for name in path.split('.') {
        let (Type::Struct(within) | Type::Union(within)) = &at else { return Err(shape()) };
        let Some((offset, ty)) = member(btf, within, name, path)? else { return Ok(None) };
        bits += offset;
        at = ty;
    }
    match &at {
        Type::Int(int) if sizes.contains(&int.size()) && bits % 8 == 0 => Ok(Some(bits / 8)),
        _ => Err(shape()),
    }
}

/// Bit offset and type of the member `name`, searched in anonymous members too, as C does.
pub(super) fn member(
    btf: &Btf,
    within: &Struct,
    name: &str,
    path: &'static str,
) -> Result<Option<(u32, Type)>, OffsetError> {
    for field in &within.members {
        let own = btf.resolve_name(field).unwrap_or_default();
        if own == name {
            if field.bitfield_size().is_some_and(|size| size > 0) {
                return Err(OffsetError::Shape(path));
            }
            return Ok(Some((field.bit_offset(), peel(btf, btf.resolve_chained_type(field)?)?)));
        }
        if own.is_empty()
            && let Type::Struct(inner) | Type::Union(inner) = peel(btf, btf.resolve_chained_type(field)?)?
            && let Some((offset, ty)) = member(btf, &inner, name, path)?
        {
            return Ok(Some((field.bit_offset() + offset, ty)));
        }
    }
    Ok(None)
}

/// The type behind typedefs and qualifiers.
fn peel(btf: &Btf, mut ty: Type) -> Result<Type, OffsetError> {
    loop {
        ty = match &ty {
            Type::Typedef(to) => btf.resolve_chained_type(to)?,
            Type::TypeTag(to) => btf.resolve_chained_type(to)?,
            Type::Volatile(to) | Type::Const(to) | Type::Restrict(to) => btf.resolve_chained_type(to)?,
            _ => return Ok(ty),
        };
    }
}

/// `(data, preempt, prev, next)`, and from 5.18 `prev_state` at the end. 5.18 itself had it in between for a
/// while (fixed by 9c2136be0878), so the types are checked, not only their number.
fn switch_has_state(btf: &Btf) -> Result<bool, OffsetError> {
    const NAME: &str = "btf_trace_sched_switch";
    let typedef = btf
        .resolve_types_by_name(NAME)
        .unwrap_or_default()
        .into_iter()
        .find(|ty| matches!(ty, Type::Typedef(_)))
        .ok_or(OffsetError::NoType("tracepoint sched_switch"))?;
    let Type::Ptr(function) = peel(btf, typedef)? else { return Err(OffsetError::Arguments) };
    let Type::FuncProto(proto) = peel(btf, btf.resolve_chained_type(&function)?)? else {
        return Err(OffsetError::Arguments);
    };
    let types = proto
        .parameters
        .iter()
        .map(|parameter| peel(btf, btf.resolve_chained_type(parameter)?))
        .collect::<Result<Vec<Type>, OffsetError>>()?;
    let task = |ty: &Type| -> bool {
        let Type::Ptr(to) = ty else { return false };
        let pointee = btf.resolve_chained_type(to).map_err(OffsetError::from).and_then(|ty| peel(btf, ty));
        matches!(pointee, Ok(Type::Struct(task)) if btf.resolve_name(&task).is_ok_and(|name| name == "task_struct"))
    };
    match types.as_slice() {
        [_, _, prev, next] if task(prev) && task(next) => Ok(false),
        [_, _, prev, next, Type::Int(state)] if task(prev) && task(next) && state.size() == 4 => Ok(true),
        _ => Err(OffsetError::Arguments),
    }
}

#[cfg(test)]
#[path = "offsets_test.rs"]
mod tests;
