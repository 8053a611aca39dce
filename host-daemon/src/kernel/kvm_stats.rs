//! KVM's binary statistics (`KVM_GET_STATS_FD`, Linux 5.14): the self-describing file of one vcpu or VM, which QEMU
//! holds open and we have a duplicate of. Format: `Documentation/virt/kvm/api.rst` 4.134 and `struct kvm_stats_header`.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use kvmpilot_core::sample::KvmVcpuSample;

/// Linux 6.18 has 47 for a vcpu.
const MOST_STATISTICS: usize = 512;
/// Linux: 48.
const LONGEST_NAME: usize = 256;
/// Linux 6.18 has 1120 bytes for a vcpu.
const MOST_DATA: usize = 64 << 10;
/// Descriptors and data begin within this.
const FARTHEST: u64 = 1 << 20;
const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;

/// How the values of a statistic are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatKind {
    /// Only rises.
    Cumulative,
    /// As it is now.
    Instant,
    /// Highest so far.
    Peak,
    /// Counts in buckets of equal width, the last one open.
    LinearHistogram {
        /// Width of a bucket.
        bucket: u32,
    },
    /// Counts in buckets of which each is twice as wide as the one before: 0, 1, 2 to 3, 4 to 7, ... the last one open.
    LogHistogram,
}

/// What a statistic counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatUnit {
    /// Events or things.
    None,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// CPU cycles.
    Cycles,
    /// 0 or 1.
    Boolean,
}

/// Description of one statistic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// KVM's name of it.
    pub name: String,
    /// How to read it.
    pub kind: StatKind,
    /// What its values count.
    pub unit: StatUnit,
    /// Values are multiples of `base ^ exponent` units: 10 or 2.
    pub base: u8,
    /// See `base`.
    pub exponent: i16,
    /// Number of values: 1, or that of a histogram's buckets.
    pub size: u16,
    /// Where in the data block they begin, in bytes.
    offset: usize,
}

/// All statistics of one kind of file: the same for every vcpu of a kernel, so it is shared.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Layout {
    data_offset: u64,
    data_length: usize,
    stats: Vec<Stat>,
    known: Known,
}

/// Places of the statistics that a sample holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    counters: [Option<usize>; COUNTERS.len()],
    histograms: [Option<(usize, usize)>; HISTOGRAMS.len()],
}

/// Name, and whether it counts ns.
const COUNTERS: [(&str, bool); 12] = [
    ("exits", false),
    ("io_exits", false),
    ("mmio_exits", false),
    ("irq_exits", false),
    ("halt_exits", false),
    ("halt_wakeup", false),
    ("halt_attempted_poll", false),
    ("halt_successful_poll", false),
    ("halt_poll_invalid", false),
    ("halt_poll_success_ns", true),
    ("halt_poll_fail_ns", true),
    ("halt_wait_ns", true),
];
const HISTOGRAMS: [&str; 3] = ["halt_poll_success_hist", "halt_poll_fail_hist", "halt_wait_hist"];

/// The open statistics of one vcpu or VM.
///
/// As long as it is open it holds the VM, so it must be dropped when QEMU is gone.
#[derive(Debug)]
pub struct KvmStats {
    file: File,
    layout: Arc<Layout>,
}

impl KvmStats {
    /// Takes over a duplicate of QEMU's descriptor. `like` is the layout of another file: if this one has the same, it is
    /// shared.
    ///
    /// # Errors
    /// Where the file is not in KVM's format, or larger than any that is known.
    pub fn new(fd: OwnedFd, like: Option<&Arc<Layout>>) -> io::Result<Self> {
        let file = File::from(fd);
        let layout = Layout::read(|buffer, at| file.read_exact_at(buffer, at))?;
        let layout = match like {
            Some(like) if **like == layout => Arc::clone(like),
            _ => Arc::new(layout),
        };
        Ok(Self { file, layout })
    }

    /// The layout, for sharing.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Descriptions and present values of all statistics.
    ///
    /// # Errors
    /// As `pread`.
    pub fn all(&self) -> io::Result<Vec<(Stat, Vec<u64>)>> {
        let data = self.data()?;
        Ok(self.layout.stats.iter().map(|stat| (stat.clone(), stat.values(&data))).collect())
    }

    /// The statistics that kvmpilot knows of a vcpu.
    ///
    /// # Errors
    /// As `pread`.
    pub fn vcpu(&self) -> io::Result<KvmVcpuSample> {
        Ok(self.layout.vcpu(&self.data()?))
    }

    fn data(&self) -> io::Result<Vec<u8>> {
        let mut data = vec![0; self.layout.data_length];
        self.file.read_exact_at(&mut data, self.layout.data_offset)?;
        Ok(data)
    }
}

impl Stat {
    fn values(&self, data: &[u8]) -> Vec<u64> {
        let bytes = data.get(self.offset..self.offset + usize::from(self.size) * 8).unwrap_or_default();
        bytes.chunks_exact(8).filter_map(|value| Some(u64::from_ne_bytes(value.try_into().ok()?))).collect()
    }
}

impl Layout {
    /// Reads header and descriptors. All lengths are checked before anything is reserved for them.
    fn read(mut read_at: impl FnMut(&mut [u8], u64) -> io::Result<()>) -> io::Result<Self> {
        let mut header = [0; HEADER];
        read_at(&mut header, 0)?;
        let word = |n: usize| u32_at(&header, n * 4);
        let (name_size, count) = (word(1)?, word(2)?);
        let (descriptors_at, data_at) = (u64::from(word(4)?), u64::from(word(5)?));
        let (name_size, count) = (to_usize(name_size)?, to_usize(count)?);
        if name_size == 0 || name_size > LONGEST_NAME || count == 0 || count > MOST_STATISTICS {
            return Err(malformed("its header has impossible sizes"));
        }
        if descriptors_at > FARTHEST || data_at > FARTHEST {
            return Err(malformed("its header has impossible offsets"));
        }
        let length = DESCRIPTOR + name_size;
        let mut descriptors = vec![0; count * length];
        read_at(&mut descriptors, descriptors_at)?;
        let stats: Vec<Stat> = descriptors
            .chunks_exact(length)
            .map(descriptor)
            .collect::<io::Result<Vec<Option<Stat>>>>()?
            .into_iter()
            .flatten()
            .collect();
        let end = |stat: &Stat| stat.offset + usize::from(stat.size) * 8;
        let data_length = stats.iter().map(end).max().ok_or_else(|| malformed("it describes nothing"))?;
        let known = Known::find(&stats);
        Ok(Self { data_offset: data_at, data_length, stats, known })
    }

    fn vcpu(&self, data: &[u8]) -> KvmVcpuSample {
        let value = |at: usize| Some(u64::from_ne_bytes(data.get(at..at + 8)?.try_into().ok()?));
        let [
            exits,
            io_exits,
            mmio_exits,
            irq_exits,
            halt_exits,
            halt_wakeups,
            halt_attempted_polls,
            halt_successful_polls,
            halt_invalid_polls,
            halt_poll_success_ns,
            halt_poll_fail_ns,
            halt_wait_ns,
        ] = self.known.counters.map(|at| at.and_then(value));
        let histogram = |place: Option<(usize, usize)>| {
            let (at, size) = place?;
            (0..size).map(|n| value(at + n * 8)).collect()
        };
        let [halt_poll_success_histogram, halt_poll_fail_histogram, halt_wait_histogram] =
            self.known.histograms.map(histogram);
        KvmVcpuSample {
            exits,
            io_exits,
            mmio_exits,
            irq_exits,
            halt_exits,
            halt_wakeups,
            halt_attempted_polls,
            halt_successful_polls,
            halt_invalid_polls,
            halt_poll_success_ns,
            halt_poll_fail_ns,
            halt_wait_ns,
            halt_poll_success_histogram,
            halt_poll_fail_histogram,
            halt_wait_histogram,
        }
    }
}

impl Known {
    /// A statistic that has the right name but other units or another kind is not the one that we know.
    fn find(stats: &[Stat]) -> Self {
        let nanoseconds =
            |stat: &&Stat| stat.unit == StatUnit::Seconds && stat.base == 10 && stat.exponent == -9;
        let counter = |(name, ns): (&str, bool)| {
            let fits = |stat: &&Stat| {
                let unit =
                    if ns { nanoseconds(stat) } else { stat.unit == StatUnit::None && stat.exponent == 0 };
                stat.name == name && stat.kind == StatKind::Cumulative && stat.size == 1 && unit
            };
            Some(stats.iter().find(fits)?.offset)
        };
        let histogram = |name: &str| {
            let fits =
                |stat: &&Stat| stat.name == name && stat.kind == StatKind::LogHistogram && nanoseconds(stat);
            stats.iter().find(fits).map(|stat| (stat.offset, usize::from(stat.size)))
        };
        Self { counters: COUNTERS.map(counter), histograms: HISTOGRAMS.map(histogram) }
    }
}

/// One descriptor; `None` for a kind, unit or base that a later kernel may bring.
fn descriptor(bytes: &[u8]) -> io::Result<Option<Stat>> {
    let flags = u32_at(bytes, 0)?;
    let half = |at: usize| bytes.get(at..at + 2).and_then(|half| half.try_into().ok());
    let exponent = i16::from_ne_bytes(half(4).ok_or_else(|| malformed("a descriptor is cut off"))?);
    let size = u16::from_ne_bytes(half(6).ok_or_else(|| malformed("a descriptor is cut off"))?);
    let offset = to_usize(u32_at(bytes, 8)?)?;
    if size == 0 || offset % 8 != 0 || offset.saturating_add(usize::from(size) * 8) > MOST_DATA {
        return Err(malformed("a statistic lies outside of any data"));
    }
    let name =
        bytes.get(DESCRIPTOR..).unwrap_or_default().split(|&byte| byte == 0).next().unwrap_or_default();
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.is_ascii());
    let name = name.ok_or_else(|| malformed("a statistic has no name"))?.to_owned();
    let kind = match flags & 0xf {
        0 => StatKind::Cumulative,
        1 => StatKind::Instant,
        2 => StatKind::Peak,
        3 => StatKind::LinearHistogram { bucket: u32_at(bytes, 12)? },
        4 => StatKind::LogHistogram,
        _ => return Ok(None),
    };
    let unit = match flags >> 4 & 0xf {
        0 => StatUnit::None,
        1 => StatUnit::Bytes,
        2 => StatUnit::Seconds,
        3 => StatUnit::Cycles,
        4 => StatUnit::Boolean,
        _ => return Ok(None),
    };
    let base = match flags >> 8 & 0xf {
        0 => 10,
        1 => 2,
        _ => return Ok(None),
    };
    Ok(Some(Stat { name, kind, unit, base, exponent, size, offset }))
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map(u32::from_ne_bytes).ok_or_else(|| malformed("it is cut off"))
}

fn to_usize(word: u32) -> io::Result<usize> {
    usize::try_from(word).map_err(|_| malformed("a size is beyond this machine"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not KVM's binary statistics: {what}"))
}

#[cfg(test)]
#[path = "kvm_stats_tests.rs"]
mod tests;
