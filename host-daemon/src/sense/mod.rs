//! From gateways to samples. Assembles, never derives, never decides; what could not be read is said beside the sample.
//!
//! * [`Inventory`] keeps what libvirt knows of the domains, in the background: by events, and a sweep now and then.
//! * [`Guests`] keeps what the agents told, in the background, at the agents' own slow pace.
//! * [`WatchedFiles`] keeps hashes of files in the guests that services want watched.
//! * [`Flows`] attaches and reads the flow probes, in the background, because loading and reading them takes its time.
//! * [`HostSense`] reads the kernel and the probes in the fast loop and puts it all together.

mod files;
mod flows;
mod guests;
mod host;
mod inventory;
mod own;
mod qemu;
mod signs;
mod thread;

pub use files::WatchedFiles;
pub use flows::{FlowState, Flows};
pub use guests::{GuestState, Guests};
pub use host::{Cadence, HostSense};
pub use inventory::{BalloonReport, Entries, Inventory, InventoryEntry};
pub use signs::Sign;
