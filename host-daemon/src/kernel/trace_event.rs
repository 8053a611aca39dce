//! Layouts of trace events, as tracefs describes them: which field of a tracepoint's record is where. The kernel's
//! own word for the kernel that runs; it changes with versions and vendors.

use std::io;
use std::path::PathBuf;

use super::{Kernel, text};

/// The record of one trace event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// Its fields, in the kernel's order, those that all events have included.
    pub fields: Vec<TraceField>,
}

/// One field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceField {
    /// Name, like `exit_reason`.
    pub name: String,
    /// Bytes from the record's beginning.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// Why a trace event is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum TraceEventError {
    /// No tracefs anywhere.
    #[error(
        "tracefs is not mounted, and without it no tracepoint of kvm can be used: mount it with `mount -t tracefs \
         tracefs /sys/kernel/tracing`"
    )]
    NotMounted,
    /// tracefs is there, the event is not.
    #[error("this kernel has no tracepoint {0}: is the kvm module loaded, is CONFIG_EVENT_TRACING on?")]
    NoEvent(String),
    /// It is there and cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is not in the form that Linux documents, or lacks a field.
    #[error("the tracepoint {event} of this kernel has no field {field} of 4 bytes")]
    NoField {
        /// The event.
        event: String,
        /// The field.
        field: &'static str,
    },
}

/// Where tracefs may be, below `/sys`: at its own mount point, or below debugfs, which mounts it by itself.
const MOUNTS: [&str; 2] = ["kernel/tracing", "kernel/debug/tracing"];
/// Records are smaller than a page.
const MOST_BYTES: u32 = 4096;

impl Kernel {
    /// The layout of the event `category:name`.
    ///
    /// # Errors
    /// See [`TraceEventError`].
    pub fn trace_event(&self, category: &str, name: &str) -> Result<TraceEvent, TraceEventError> {
        let mount =
            MOUNTS.iter().map(|mount| self.sys.join(mount)).find(|mount| mount.join("events").exists());
        let path =
            mount.ok_or(TraceEventError::NotMounted)?.join("events").join(category).join(name).join("format");
        match text(&path) {
            Ok(text) => Ok(TraceEvent { fields: text.lines().filter_map(field).collect() }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                Err(TraceEventError::NoEvent(format!("{category}:{name}")))
            }
            Err(source) => Err(TraceEventError::Unreadable { path, source }),
        }
    }

    /// Which module runs KVM's guests: `kvm_intel`, `kvm_amd`, `kvm_pvm`. None where KVM is not there, or where it is
    /// built in and says nothing.
    #[must_use]
    pub fn kvm_back_end(&self) -> Option<&'static str> {
        ["kvm_intel", "kvm_amd", "kvm_pvm"]
            .into_iter()
            .find(|name| self.sys.join("module").join(name).exists())
    }
}

impl TraceEvent {
    /// Offset of a field of 4 bytes. On a little-endian machine the low half of a longer one serves as well.
    #[must_use]
    pub fn offset(&self, name: &str) -> Option<u32> {
        let field = self.fields.iter().find(|field| field.name == name)?;
        let low_half = cfg!(target_endian = "little") && field.size == 8;
        (field.size == 4 || low_half).then_some(field.offset)
    }
}

/// A line like `field:unsigned int exit_reason; offset:8; size:4; signed:0;`, with tabs.
fn field(line: &str) -> Option<TraceField> {
    let mut parts = line.trim().split(';').map(str::trim);
    let name = parts.next()?.strip_prefix("field:")?.rsplit([' ', '\t', '*']).next()?;
    let name = name.split_once('[').map_or(name, |(name, _)| name).to_owned();
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse::<u32>().ok();
    let (offset, size) = (number("offset:")?, number("size:")?);
    let inside = !name.is_empty() && offset.checked_add(size).is_some_and(|end| end <= MOST_BYTES);
    inside.then_some(TraceField { name, offset, size })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const KVM_EXIT: &str = "name: kvm_exit\nID: 103\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:unsigned int exit_reason;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:unsigned long guest_rip;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:u32 isa;\toffset:24;\tsize:4;\tsigned:0;\n\
        \tfield:char comm[16];\toffset:28;\tsize:16;\tsigned:0;\n\
        \tfield:u64 far;\toffset:4294967295;\tsize:8;\tsigned:0;\n\
        \tfield:u64 ;\toffset:x;\tsize:8;\n\n\
        print fmt: \"vcpu %u field:u32 isa; offset:1; size:4;\", REC->vcpu_id\n";

    #[test]
    fn fields_are_found_where_the_kernel_says() {
        let root = tempfile::tempdir().unwrap();
        let kernel = Kernel::at(root.path(), root.path());
        assert!(matches!(kernel.trace_event("kvm", "kvm_exit"), Err(TraceEventError::NotMounted)));
        let events = root.path().join("kernel/debug/tracing/events");
        fs::create_dir_all(events.join("kvm/kvm_exit")).unwrap();
        let error = kernel.trace_event("kvm", "kvm_entry").unwrap_err().to_string();
        assert!(error.contains("kvm:kvm_entry"), "{error}");
        fs::write(events.join("kvm/kvm_exit/format"), KVM_EXIT).unwrap();
        let event = kernel.trace_event("kvm", "kvm_exit").unwrap();
        assert_eq!(event.fields.len(), 6, "{event:?}");
        assert_eq!((event.offset("exit_reason"), event.offset("isa")), (Some(8), Some(24)));
        assert_eq!(
            (event.offset("common_type"), event.offset("comm"), event.offset("vcpu_id")),
            (None, None, None)
        );
        assert_eq!(event.fields[5], TraceField { name: "comm".into(), offset: 28, size: 16 });
    }

    #[test]
    fn the_back_end_is_named_by_its_module() {
        let root = tempfile::tempdir().unwrap();
        let kernel = Kernel::at(root.path(), root.path());
        assert_eq!(kernel.kvm_back_end(), None);
        fs::create_dir_all(root.path().join("module/kvm_amd")).unwrap();
        assert_eq!(kernel.kvm_back_end(), Some("kvm_amd"));
    }
}
