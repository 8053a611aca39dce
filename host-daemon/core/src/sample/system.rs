//! What changes rarely inside a guest: its system, services, file systems and interfaces. As hostile as [`super::GuestSample`].

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The guest's system, as its agent told. All texts are the guest's: made printable and bounded, not to be trusted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GuestSystem {
    /// Its own name of itself.
    pub host_name: Option<String>,
    /// Name and version of the system, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os: Option<String>,
    /// Short name of the system, such as `debian` or `mswindows`.
    pub os_id: Option<String>,
    /// Release of its kernel.
    pub kernel: Option<String>,
    /// Its machine, such as `x86_64`.
    pub machine: Option<String>,
    /// Services by name.
    pub services: Vec<GuestService>,
    /// File systems on devices.
    pub file_systems: Vec<GuestFileSystem>,
    /// Network interfaces.
    pub interfaces: Vec<GuestInterface>,
    /// Names of users by their ids.
    #[serde(skip)]
    pub users: BTreeMap<u32, String>,
    /// What of this could not be read, and why, or was cut off.
    pub missing: Vec<String>,
}

/// A service of the guest's init system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestService {
    /// Unit or script.
    pub name: String,
    /// Its state.
    pub state: ServiceState,
    /// The state in the init system's own words; empty where it says none.
    pub detail: String,
}

/// State of a service of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// It runs, or has done what it is for.
    Running,
    /// It does not run.
    Stopped,
    /// It failed.
    Failed,
    /// On its way from one to the other.
    Changing,
    /// The init system does not say.
    Unknown,
}

/// A file system of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestFileSystem {
    /// Where it is mounted.
    pub mount: String,
    /// Its device.
    pub device: String,
    /// Its type, such as `ext4`.
    pub kind: Option<String>,
    /// Its size.
    pub total_kib: Option<u64>,
    /// What is used of it.
    pub used_kib: Option<u64>,
}

/// A network interface of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestInterface {
    /// Its name.
    pub name: String,
    /// Hardware address.
    pub mac: Option<String>,
    /// Addresses with the length of their prefix, such as `10.0.0.2/24`.
    pub addresses: Vec<String>,
    /// Bytes received since it came up.
    pub received_bytes: Option<u64>,
    /// Bytes sent since it came up.
    pub sent_bytes: Option<u64>,
}
