//! The probes of one domain: one loaded object with a table of its own, attached to the domain's taps. Dropping it
//! leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuHashMap, PerCpuValues};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, TcError, tc};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use kvmpilot_core::sample::{DeviceTraffic, FlowSource, FlowsSample, Traffic};
use kvmpilot_ebpf_common::flow::{Flow, FlowKey, Totals};

use super::batch::Entries;
use super::books::Books;
use super::clsact::Qdisc;
use super::{FlowError, Hook};
use crate::probes::error::ProbeError;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kvmpilot-flows"));
const TABLE: &str = "FLOWS";
const TAPS: &str = "TAPS";
/// What a tap receives its guest has sent.
pub(super) const PROGRAMS: [(&str, TcAttachType); 2] =
    [("kvmpilot_sent", TcAttachType::Ingress), ("kvmpilot_rcvd", TcAttachType::Egress)];

/// A device for ever: names and indices are both used again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Device {
    index: u32,
    name: String,
}

/// What holds the programs to a device. Fields drop in their order: the qdisc goes when it is empty.
struct Attachment {
    _links: Vec<SchedClassifierLink>,
    _qdisc: Option<Qdisc>,
}

pub(super) struct Instance {
    ebpf: Ebpf,
    taps: PerCpuHashMap<MapData, u32, Totals>,
    table: HashMap<MapData, FlowKey, Flow>,
    /// The table once more, for reading all of it at once.
    batch_fd: OwnedFd,
    attached: BTreeMap<Device, Attachment>,
    /// Devices that could not be attached to, and why: tried once each.
    refused: BTreeMap<Device, String>,
    books: Books,
    began: Duration,
    /// What devices moved that are gone.
    past: Totals,
    latest: Vec<(Device, Totals)>,
}

impl Instance {
    /// Loads the programs with a table for `max_flows`.
    pub(super) fn load(max_flows: u32, confidential: bool, now: Duration) -> Result<Self, ProbeError> {
        let sort = |program| move |err| ProbeError::sort(program, confidential, err);
        let mut ebpf = EbpfLoader::new()
            // Nothing here depends on the kernel's types, and reading them takes 15 ms and 13 MB.
            .btf(None)
            .map_max_entries(TABLE, max_flows)
            .load(OBJECT)
            .map_err(|err| ProbeError::sort("object", confidential, err))?;
        for (name, _) in PROGRAMS {
            classifier(&mut ebpf, name).and_then(SchedClassifier::load).map_err(sort(name))?;
        }
        let map = |map: Option<Map>| map.ok_or_else(|| ProbeError::Load("the object lacks a map".into()));
        let taps = map(ebpf.take_map(TAPS))?;
        let taps = taps.try_into().map_err(|err: MapError| ProbeError::Load(err.into()))?;
        let Map::LruHashMap(table) = map(ebpf.take_map(TABLE))? else {
            return Err(ProbeError::Load("the flows' map is no LRU map".into()));
        };
        let batch_fd = table.fd().as_fd().try_clone_to_owned().map_err(|err| ProbeError::Load(err.into()))?;
        let table =
            Map::LruHashMap(table).try_into().map_err(|err: MapError| ProbeError::Load(err.into()))?;
        Ok(Self {
            ebpf,
            taps,
            table,
            batch_fd,
            attached: BTreeMap::new(),
            refused: BTreeMap::new(),
            books: Books::new(FlowSource::Tap),
            began: now,
            past: Totals::default(),
            latest: Vec::new(),
        })
    }

    /// Is attached to exactly these devices afterwards, as far as they exist.
    pub(super) fn follow(&mut self, names: &BTreeSet<String>, hook: &mut Hook) -> Vec<FlowError> {
        let present: BTreeSet<Device> = names
            .iter()
            .filter_map(|name| Some(Device { index: interface_index(name)?, name: name.clone() }))
            .collect();
        let gone: Vec<Device> =
            self.attached.keys().filter(|device| !present.contains(device)).cloned().collect();
        gone.iter().for_each(|device| self.detach(device));
        self.refused.retain(|device, _| present.contains(device));
        let mut errors = Vec::new();
        for device in present {
            if self.attached.contains_key(&device) || self.refused.contains_key(&device) {
                continue;
            }
            match self.attach(&device, hook) {
                Ok(attachment) => {
                    self.attached.insert(device, attachment);
                }
                Err(source) => {
                    let error = FlowError::Attach { device: device.name.clone(), source };
                    // It may have been renamed or unplugged under our hands.
                    let _ = self.taps.remove(&device.index);
                    self.refused.insert(device, error.words());
                    errors.push(error);
                }
            }
        }
        errors
    }

    fn attach(&mut self, device: &Device, hook: &mut Hook) -> Result<Attachment, ProgramError> {
        let zeros = PerCpuValues::try_from(vec![
            Totals::default();
            nr_cpus().map_err(|(_, err)| TcError::IoError(err))?
        ])
        .map_err(TcError::IoError)?;
        self.taps.insert(device.index, zeros, 0)?;
        if *hook != Hook::Clsact {
            match self.attach_tcx(device) {
                Ok(links) => {
                    *hook = Hook::Tcx;
                    return Ok(Attachment { _links: links, _qdisc: None });
                }
                // Before 6.6 the kernel knows no such attach type.
                Err(error) if *hook == Hook::Unknown && is_unsupported(&error) => *hook = Hook::Clsact,
                Err(error) => return Err(error),
            }
        }
        let qdisc = Qdisc::ensure(&device.name, device.index)?;
        let mut links = Vec::new();
        for (name, kind) in PROGRAMS {
            // A daemon that was killed has left its own.
            let _ = tc::qdisc_detach_program(&device.name, kind, name);
            let program = classifier(&mut self.ebpf, name)?;
            let link = program.attach_with_options(
                &device.name,
                kind,
                TcAttachOptions::Netlink(NlOptions::default()),
            )?;
            links.push(program.take_link(link)?);
        }
        Ok(Attachment { _links: links, _qdisc: qdisc })
    }

    fn attach_tcx(&mut self, device: &Device) -> Result<Vec<SchedClassifierLink>, ProgramError> {
        let mut links = Vec::new();
        for (name, kind) in PROGRAMS {
            // Others may drop or redirect: what comes in is counted before them, what goes out after them.
            let order = if kind == TcAttachType::Ingress { LinkOrder::first() } else { LinkOrder::last() };
            let program = classifier(&mut self.ebpf, name)?;
            let link = program.attach_with_options(&device.name, kind, TcAttachOptions::TcxOrder(order))?;
            links.push(program.take_link(link)?);
        }
        Ok(links)
    }

    fn detach(&mut self, device: &Device) {
        drop(self.attached.remove(device));
        self.past = sum([self.past, self.totals_of(device.index)]);
        if let Err(error) = self.taps.remove(&device.index) {
            tracing::warn!(device = device.name, %error, "cannot take a device out of the flow probes' books");
        }
    }

    fn totals_of(&self, index: u32) -> Totals {
        self.taps.get(&index, 0).map(|values| sum(values.iter().copied())).unwrap_or_default()
    }

    /// Reads totals and table, and deletes what has ended.
    pub(super) fn read(
        &mut self,
        entries: &mut Entries<FlowKey, Flow>,
        now: Duration,
    ) -> std::io::Result<()> {
        self.latest =
            self.attached.keys().map(|device| (device.clone(), self.totals_of(device.index))).collect();
        let total = self.total();
        entries.read(self.batch_fd.as_fd())?;
        let ended = self.books.take(entries.iter(), traffic(&total), total.flows_made, now);
        for key in ended {
            if self.table.remove(&key).is_ok() {
                self.books.deleted(&key);
            }
        }
        Ok(())
    }

    fn total(&self) -> Totals {
        sum(self.latest.iter().map(|(_, totals)| *totals).chain([self.past]))
    }

    /// What the last [`Self::read`] found.
    pub(super) fn sample(&self, now: Duration, clock_ns: u64) -> FlowsSample {
        let total = self.total();
        let devices = self.latest.iter().map(|(device, totals)| DeviceTraffic {
            device: device.name.clone(),
            index: device.index,
            traffic: traffic(totals),
        });
        let mut sample = FlowsSample {
            watched_ms: u64::try_from(now.saturating_sub(self.began).as_millis()).unwrap_or(u64::MAX),
            devices: devices.collect(),
            total: traffic(&total),
            flows_made: total.flows_made,
            ..FlowsSample::default()
        };
        self.books.fill(&mut sample, now, clock_ns);
        sample
    }

    /// Flows that are in the table now, or were pushed out of it since the last reading.
    pub(super) fn len(&self) -> usize {
        let now = sum(self.attached.keys().map(|device| self.totals_of(device.index)).chain([self.past]));
        let made = now.flows_made.saturating_sub(self.total().flows_made);
        self.books.len().saturating_add(usize::try_from(made).unwrap_or(usize::MAX))
    }

    /// Why some of its devices are not watched.
    pub(super) fn trouble(&self) -> impl Iterator<Item = &String> {
        self.refused.values()
    }

    /// Devices that the programs are attached to.
    pub(super) fn attached(&self) -> usize {
        self.attached.len()
    }

    /// What all its devices moved, as of the last reading.
    pub(super) fn moved(&self) -> Traffic {
        traffic(&self.total())
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, ProgramError> {
    let program =
        ebpf.program_mut(name).ok_or_else(|| ProgramError::InvalidName { name: name.to_owned() })?;
    program.try_into()
}

fn is_unsupported(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: reads a string that ends in a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

fn sum(totals: impl IntoIterator<Item = Totals>) -> Totals {
    totals.into_iter().fold(Totals::default(), |a, b| Totals {
        sent_bytes: a.sent_bytes + b.sent_bytes,
        sent_packets: a.sent_packets + b.sent_packets,
        received_bytes: a.received_bytes + b.received_bytes,
        received_packets: a.received_packets + b.received_packets,
        flows_made: a.flows_made + b.flows_made,
        unplaced: a.unplaced + b.unplaced,
    })
}

pub(super) fn traffic(totals: &Totals) -> Traffic {
    Traffic {
        sent_bytes: totals.sent_bytes,
        sent_packets: totals.sent_packets,
        received_bytes: totals.received_bytes,
        received_packets: totals.received_packets,
    }
}
