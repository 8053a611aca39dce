//! kvmpilot's lab: a private libvirtd with real guests in namespaces of its own, for tests, the demo and people.
//!
//! Here lives everything that makes, drives and removes a lab. Not here: what is tested in it (`tests/tests/`).
//! It needs neither libvirt's headers nor the daemon, so that xtask builds on a bare machine.

pub mod accel;
mod agent;
pub mod bpf;
mod browser;
mod cgroups;
pub mod cpio;
pub mod daemon;
mod debian;
mod domain_xml;
pub mod farm;
pub mod firmware;
mod forward;
pub mod guests;
pub mod hook;
pub mod host_vm;
pub mod image;
mod keeper;
pub mod lab;
pub mod load;
mod paths;
pub mod probe_report;
mod run;
pub mod tap;
pub mod terminal;
pub mod told;
mod tracefs;
pub mod witness;

pub use accel::Accel;
pub use farm::Farm;
pub use firmware::Firmware;
pub use forward::Forward;
pub use guests::{GuestSpec, System, Work};
pub use keeper::reap_stale;
pub use lab::{Lab, LabOptions};
pub use load::{HttpLoad, HttpReport};
pub use paths::{lab_cache, target_dir, workspace};
pub use run::{output_of, run, wait_for};
pub use terminal::Terminal;
pub use told::Told;
pub use tracefs::with_tracefs;
pub use witness::Witness;
