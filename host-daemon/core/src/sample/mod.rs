//! Raw readings, as the gateways got them. No rates, no opinions: those are [`crate::model`]'s.
//!
//! A field that could not be read is `None`, never a sentinel. Samples are also the recording format, so they
//! (de)serialize and keep the source's unit as a suffix.

mod detail;
mod disk;
mod domain;
mod file;
mod flow;
mod guest;
mod host;
mod own;
mod policy;
mod system;
mod thread;
mod watch;

pub use detail::{
    BandwidthSample, CgroupSample, DetailSample, GroupPressureSample, KvmVcpuSample, TimesSample,
    VcpuDetailSample,
};
pub use disk::{DiskCounters, DiskSample};
pub use domain::{
    BalloonSample, DomainSample, DomainState, InterfaceSample, IothreadSample, Job, NodeMemorySample,
    VcpuSample, WINDOWS,
};
pub use file::{FileFound, FileSample, FilesSample};
pub use flow::{
    DeviceTraffic, EndedFlows, FlowReading, FlowSample, FlowSide, FlowSource, FlowState, FlowsSample,
    Traffic, service,
};
pub use guest::{
    Autogroup, GuestSample, Listener, ProcessKey, ProcessSample, SchedPolicy, SocketProtocol, SocketSample,
    SocketState, UnitSample, UnitWeight,
};
pub use host::{HostSample, MemorySample, PcpuSample, PressureSample};
pub use own::{OwnSample, ProgramSample};
pub use policy::PolicySample;
pub use system::{GuestFileSystem, GuestInterface, GuestService, GuestSystem, ServiceState};
pub use thread::{Runner, StolenSample, ThreadRole, ThreadSample, ThreadSource};
pub use watch::{ExitReasonSample, LatencyBucket, LatencySample, ThreadLatencySample, VcpuExitSample};

use serde::{Deserialize, Serialize};

use crate::topology::Topology;

/// Everything that was read at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The host.
    pub host: HostSample,
    /// Its pcpus.
    pub topology: Topology,
    /// Its running and paused domains.
    pub domains: Vec<DomainSample>,
    /// What the daemon itself costs.
    #[serde(default)]
    pub own: OwnSample,
}
