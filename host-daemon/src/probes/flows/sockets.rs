//! The sockets of QEMU processes with user-mode networking: one object for all of them, because its programs run at each
//! call of every process on the host, and one glance tells whether it is one of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use std::{fs, io};

use aya::maps::{HashMap, Map, MapData, MapError};
use aya::programs::{BtfTracePoint, FExit, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader, Endianness};
use kvmpilot_core::sample::{DeviceTraffic, FlowSource, FlowsSample};
use kvmpilot_ebpf_common::flow::{Flow, FlowKey, Totals};

use super::batch::Entries;
use super::books::Books;
use super::instance::traffic;
use super::socket_offsets::{self, SocketOffsets};
use crate::probes::error::ProbeError;
use crate::probes::load::BTF;

const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kvmpilot-sockets"));
const TABLE: &str = "SOCKETS";
const STATE: (&str, &str) = ("kvmpilot_state", "inet_sock_set_state");
/// Programs and where they are attached, from 6.3.
const TRACEPOINTS: [(&str, &str); 2] =
    [("kvmpilot_ssent", "sock_send_length"), ("kvmpilot_srcvd", "sock_recv_length")];
/// The same before.
const FUNCTIONS: [(&str, &str); 6] = [
    ("kvmpilot_f_ts", "tcp_sendmsg"),
    ("kvmpilot_f_us", "udp_sendmsg"),
    ("kvmpilot_f_us6", "udpv6_sendmsg"),
    ("kvmpilot_f_tr", "tcp_recvmsg"),
    ("kvmpilot_f_ur", "udp_recvmsg"),
    ("kvmpilot_f_ur6", "udpv6_recvmsg"),
];

pub(super) struct Sockets {
    /// Owns the programs and their links.
    _ebpf: Ebpf,
    /// Names of those that are attached.
    programs: Vec<&'static str>,
    owners: HashMap<MapData, u32, Totals>,
    table: HashMap<MapData, FlowKey, Flow>,
    batch_fd: OwnedFd,
    processes: BTreeMap<u32, Process>,
}

struct Process {
    books: Books,
    began: Duration,
    totals: Totals,
}

impl Sockets {
    /// Loads and attaches the programs. `functions` does so as before 6.3 also where it would not be needed.
    pub(super) fn load(max_flows: u32, confidential: bool, functions: bool) -> Result<Self, ProbeError> {
        let btf = fs::read(BTF).map_err(ProbeError::NoBtf)?;
        let SocketOffsets { fields, receive_arguments, has_tracepoints } =
            socket_offsets::resolve(&btf).map_err(|why| ProbeError::Load(why.into()))?;
        let btf = Btf::parse(&btf, Endianness::default()).map_err(|err| ProbeError::Load(err.into()))?;
        let mut loader = EbpfLoader::new();
        loader.btf(Some(&btf)).map_max_entries(TABLE, max_flows);
        let by_tracepoint = has_tracepoints && !functions;
        let receive_arguments = match receive_arguments {
            Some(number) => number,
            // The programs that would need it are not loaded.
            None if by_tracepoint => u32::MAX,
            None => return Err(ProbeError::Load("tcp_recvmsg has unknown arguments in this kernel".into())),
        };
        loader.override_global("RECEIVE_ARGUMENTS", &receive_arguments, true);
        for (name, offset) in &fields {
            loader.override_global(name, offset, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|err| ProbeError::sort("object", confidential, err))?;
        let tracepoints = if by_tracepoint { &TRACEPOINTS[..] } else { &[] };
        let mut programs = Vec::new();
        for (program, at) in tracepoints.iter().chain([&STATE]) {
            attach_tracepoint(&mut ebpf, program, at, &btf)
                .map_err(|err| ProbeError::sort(at, confidential, err))?;
            programs.push(*program);
        }
        for (program, at) in if by_tracepoint { &[] } else { &FUNCTIONS[..] } {
            match attach_function(&mut ebpf, program, at, &btf) {
                Ok(()) => programs.push(*program),
                // IPv6 may be a module, or not there at all.
                Err(error) if at.contains("v6") => tracing::info!(at, %error, "not counted"),
                Err(error) => {
                    return Err(match ProbeError::sort(at, confidential, error) {
                        // The same was permitted for the tracepoint just now.
                        ProbeError::NotPermitted { source, .. } => ProbeError::NoFunctions(source),
                        other => other,
                    });
                }
            }
        }
        let map = |map: Option<Map>| map.ok_or_else(|| ProbeError::Load("the object lacks a map".into()));
        let owners = map(ebpf.take_map("OWNERS"))?;
        let owners = owners.try_into().map_err(|err: MapError| ProbeError::Load(err.into()))?;
        let Map::LruHashMap(table) = map(ebpf.take_map(TABLE))? else {
            return Err(ProbeError::Load("the sockets' map is no LRU map".into()));
        };
        let batch_fd = table.fd().as_fd().try_clone_to_owned().map_err(|err| ProbeError::Load(err.into()))?;
        let table =
            Map::LruHashMap(table).try_into().map_err(|err: MapError| ProbeError::Load(err.into()))?;
        Ok(Self { _ebpf: ebpf, programs, owners, table, batch_fd, processes: BTreeMap::new() })
    }

    /// Names of the programs that are attached.
    pub(super) fn programs(&self) -> &[&'static str] {
        &self.programs
    }

    /// Counts for exactly these processes from now on.
    pub(super) fn follow(&mut self, wanted: &BTreeSet<u32>, now: Duration) -> Result<(), MapError> {
        let gone: Vec<u32> = self.processes.keys().filter(|pid| !wanted.contains(pid)).copied().collect();
        for pid in gone {
            self.processes.remove(&pid);
            self.owners.remove(&pid)?;
        }
        for pid in wanted {
            if !self.processes.contains_key(pid) {
                self.owners.insert(pid, Totals::default(), 0)?;
                let books = Books::new(FlowSource::Socket);
                self.processes.insert(*pid, Process { books, began: now, totals: Totals::default() });
            }
        }
        Ok(())
    }

    /// Reads the table, for all processes at once, and deletes what has ended.
    pub(super) fn read(&mut self, entries: &mut Entries<FlowKey, Flow>, now: Duration) -> io::Result<()> {
        for (pid, process) in &mut self.processes {
            process.totals = self.owners.get(pid, 0).unwrap_or(process.totals);
        }
        entries.read(self.batch_fd.as_fd())?;
        for (pid, process) in &mut self.processes {
            let own = entries.iter().filter(|(_, flow)| flow.tgid == *pid);
            let ended = process.books.take(own, traffic(&process.totals), process.totals.flows_made, now);
            for key in ended {
                if self.table.remove(&key).is_ok() {
                    process.books.deleted(&key);
                }
            }
        }
        // Of processes that are not followed any more.
        let orphans = entries.iter().filter(|(_, flow)| !self.processes.contains_key(&flow.tgid));
        let orphans: Vec<FlowKey> = orphans.map(|(key, _)| *key).collect();
        for key in orphans {
            // It may have gone by itself.
            let _ = self.table.remove(&key);
        }
        Ok(())
    }

    /// Adds what a process did to a domain's sample.
    pub(super) fn add(&self, pid: u32, sample: &mut FlowsSample, now: Duration, clock_ns: u64) {
        let Some(process) = self.processes.get(&pid) else { return };
        let mut own = FlowsSample::default();
        process.books.fill(&mut own, now, clock_ns);
        let moved = traffic(&process.totals);
        let watched = u64::try_from(now.saturating_sub(process.began).as_millis()).unwrap_or(u64::MAX);
        sample.watched_ms = sample.watched_ms.max(watched);
        sample.devices.push(DeviceTraffic {
            device: format!("sockets of process {pid}"),
            index: 0,
            traffic: moved,
        });
        sample.total = sample.total.plus(moved);
        sample.flows.extend(own.flows);
        sample.ended.extend(own.ended);
        sample.flows_made += process.totals.flows_made;
        sample.flows_evicted += own.flows_evicted;
        sample.unseen = sample.unseen.plus(own.unseen);
    }
}

fn attach_tracepoint(ebpf: &mut Ebpf, program: &str, at: &str, btf: &Btf) -> Result<(), ProgramError> {
    let program: &mut BtfTracePoint = find(ebpf, program)?.try_into()?;
    program.load(at, btf)?;
    program.attach()?;
    Ok(())
}

fn attach_function(ebpf: &mut Ebpf, program: &str, at: &str, btf: &Btf) -> Result<(), ProgramError> {
    let program: &mut FExit = find(ebpf, program)?.try_into()?;
    program.load(at, btf)?;
    program.attach()?;
    Ok(())
}

fn find<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut aya::programs::Program, ProgramError> {
    ebpf.program_mut(name).ok_or_else(|| ProgramError::InvalidName { name: name.to_owned() })
}
