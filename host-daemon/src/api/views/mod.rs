//! The shapes of the API's answers: plain values that the daemon fills once a tick. Their JSON schemas are in
//! `docs/schema`.
//!
//! A number that is not known is `null`, never a sentinel. New fields may appear; existing ones keep name and meaning
//! within one API version. Units are in the names: `_kib`, `_s`, `_ms`, `_us`, `_per_s`, `_percent` (0 to 100),
//! `_ratio` (a share, 0.0 to 1.0), `_pcpus` (time in pcpus: 1.5 is one and a half).

mod command;
mod detail;
mod domain;
mod explain;
mod flow;
mod host;
mod otlp;
mod process;
mod replay;
mod rules;
mod service;
mod status;
mod steal;
mod token;
mod watch;

pub use command::{
    CheckView, CommandReply, DoctorView, OrdersView, Problem, RestoreView, Verdict, VersionView,
};
pub use detail::{GroupPressureView, RoleView, VcpuTimeView};
pub use domain::{
    AgentView, BalloonView, ClassSource, DomainDetailView, DomainView, DomainsView, GuestView, InterfaceView,
    ModesView, NetworkView, SharesView, StatesView, ThreadView, VcpuView,
};
pub use explain::{
    ClassView, ExplainView, HeldView, MeansState, MeansView, OwnWordView, PolicyAsk, PolicyView,
    RuleSaysView, SettingOrigin, SettingView,
};
pub use flow::{DeviceView, Direction, EndedView, FlowView, FlowsView, OwnerView, RateView};
pub use host::{
    FindingsView, HistoryView, HostDetailView, OrderMovedEvent, PcpuView, PlacedVcpuView, TickDomain,
    TickEvent, VcpusView,
};
pub use otlp::{OtlpSignalView, OtlpView};
pub use process::{ApplicationView, ConnectionView, LadderView, ListenView, ProcessView, ProcessesView};
pub use replay::{AppliedView, FoundView, Pace, PlannedView, ReplayView};
pub use rules::{RuleView, RulesTestView, RulesView, TestedRuleView};
pub use service::{LearnAsk, LearnedView, ServiceView, ServicesView};
pub use status::{
    CycleView, DomainCountsView, HealthView, HostView, LibvirtView, OrderCountsView, OrderMovesView,
    OwnCostView, PressureView, ProgramView, StatusView, TierView,
};
pub use steal::{DomainStealView, RunnerKind, StealPartView, StealView, VcpuStealView};
pub use token::{NewTokenView, TokenAsk, TokenView, TokensView, WhoAmIView};
pub use watch::{
    ExitReasonView, ExitsView, LatencyBucketView, LatencyView, ThreadLatencyView, VcpuExitsView,
    WakeLatencyView, WatchAsk, WatchView,
};

/// Everything that the API shows, as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Views {
    /// When what is shown was measured, milliseconds since 1970; 0 before the first tick. Some of it changes in between: orders,
    /// health.
    pub measured_unix_ms: u64,
    /// The daemon and its host.
    pub status: StatusView,
    /// The host in detail.
    pub host: HostDetailView,
    /// The domains, by name.
    pub domains: Vec<DomainDetailView>,
    /// The inside of those domains whose guests were polled.
    pub processes: Vec<ProcessesView>,
    /// Who ran while whose vcpus waited.
    pub steal: StealView,
    /// Who talks to whom, for each of those domains.
    pub flows: Vec<FlowsView>,
    /// The rules in force.
    pub rules: RulesView,
    /// The services.
    pub services: ServicesView,
    /// What could be better about the installation.
    pub doctor: DoctorView,
}

impl Views {
    /// The domain of this name or UUID.
    #[must_use]
    pub fn domain(&self, name_or_uuid: &str) -> Option<&DomainDetailView> {
        let uuid = name_or_uuid.parse::<uuid::Uuid>().ok();
        self.domains.iter().find(|domain| domain.row.name == name_or_uuid || Some(domain.row.uuid) == uuid)
    }
}
