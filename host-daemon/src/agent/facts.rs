//! Replies of the agent's own commands about the guest's system, made into samples: bounded, printable.

use std::net::IpAddr;

use kvmpilot_core::sample::{GuestFileSystem, GuestInterface, GuestSystem};
use serde::Deserialize;

use super::few::Few;
use super::text::printable;

pub(super) const OSINFO: &str = "guest-get-osinfo";
pub(super) const HOST_NAME: &str = "guest-get-host-name";
pub(super) const FSINFO: &str = "guest-get-fsinfo";
pub(super) const INTERFACES: &str = "guest-network-get-interfaces";

/// File systems, interfaces, and addresses of one, at most.
pub(super) const MOST: usize = 128;
/// Characters of a name, and of a path.
pub(super) const NAME_CHARS: usize = 128;
const PATH_CHARS: usize = 256;

/// Reply to `guest-get-osinfo`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct OsInfo {
    id: Option<String>,
    name: Option<String>,
    pretty_name: Option<String>,
    version: Option<String>,
    kernel_release: Option<String>,
    machine: Option<String>,
}

/// Reply to `guest-get-host-name`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct HostName {
    host_name: String,
}

/// Reply to `guest-get-fsinfo`.
pub(super) type FileSystems = Few<FileSystem, MOST>;

/// One file system; the agent lists those on devices only.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct FileSystem {
    name: String,
    mountpoint: String,
    r#type: Option<String>,
    used_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

/// Reply to `guest-network-get-interfaces`.
pub(super) type Interfaces = Few<Interface, MOST>;

/// One interface.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Interface {
    name: String,
    hardware_address: Option<String>,
    #[serde(default)]
    ip_addresses: Few<Address, MOST>,
    statistics: Option<Statistics>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Address {
    ip_address: String,
    prefix: Option<u8>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Statistics {
    rx_bytes: u64,
    tx_bytes: u64,
}

pub(super) fn name(text: &str) -> String {
    printable(text.trim().as_bytes(), NAME_CHARS)
}

pub(super) fn path(text: &str) -> String {
    printable(text.as_bytes(), PATH_CHARS)
}

/// A name that says something.
pub(super) fn filled(text: &str) -> Option<String> {
    Some(name(text)).filter(|name| !name.is_empty())
}

impl OsInfo {
    pub(super) fn is_windows(&self) -> bool {
        self.id.as_deref() == Some("mswindows")
    }

    pub(super) fn put(&self, system: &mut GuestSystem) {
        let of = |text: &Option<String>| text.as_deref().and_then(filled);
        let versioned = || Some(format!("{} {}", of(&self.name)?, of(&self.version)?));
        system.os = of(&self.pretty_name).or_else(versioned).or_else(|| of(&self.name));
        system.os_id = of(&self.id);
        system.kernel = of(&self.kernel_release);
        system.machine = of(&self.machine);
    }
}

impl HostName {
    pub(super) fn put(&self, system: &mut GuestSystem) {
        system.host_name = filled(&self.host_name);
    }
}

pub(super) fn put_file_systems(few: FileSystems, system: &mut GuestSystem) {
    if few.more {
        system.missing.push(format!("file systems beyond {MOST}"));
    }
    system.file_systems = few
        .items
        .into_iter()
        .map(|found| GuestFileSystem {
            mount: path(&found.mountpoint),
            device: path(&found.name),
            kind: found.r#type.as_deref().and_then(filled),
            total_kib: found.total_bytes.map(|bytes| bytes / 1024),
            used_kib: found.used_bytes.map(|bytes| bytes / 1024),
        })
        .collect();
}

pub(super) fn put_interfaces(few: Interfaces, system: &mut GuestSystem) {
    if few.more {
        system.missing.push(format!("interfaces beyond {MOST}"));
    }
    let address = |address: &Address| {
        let ip: IpAddr = address.ip_address.parse().ok()?;
        Some(address.prefix.map_or_else(|| ip.to_string(), |prefix| format!("{ip}/{prefix}")))
    };
    system.interfaces = few
        .items
        .into_iter()
        .map(|found| GuestInterface {
            name: name(&found.name),
            mac: found.hardware_address.as_deref().and_then(filled),
            addresses: found.ip_addresses.items.iter().filter_map(address).collect(),
            received_bytes: found.statistics.as_ref().map(|statistics| statistics.rx_bytes),
            sent_bytes: found.statistics.as_ref().map(|statistics| statistics.tx_bytes),
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_become_a_system() {
        let mut system = GuestSystem::default();
        let info = r#"{"id":"debian","name":"Debian GNU/Linux","pretty-name":"Debian GNU/Linux 12 (bookworm)",
            "version":"12 (bookworm)","kernel-release":"6.1.0\u001b[31m","machine":"x86_64","variant":"x"}"#;
        let info: OsInfo = serde_json::from_str(info).unwrap();
        info.put(&mut system);
        assert!(!info.is_windows());
        assert_eq!(system.os.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(system.kernel.as_deref(), Some("6.1.0\u{fffd}[31m"));

        let file_systems = r#"[{"name":"vda1","mountpoint":"/","type":"ext4","used-bytes":2048,"total-bytes":4096,"disk":[]},
            {"name":"vdb","mountpoint":"/a b","disk":[{"bus":1}]}]"#;
        put_file_systems(serde_json::from_str(file_systems).unwrap(), &mut system);
        let [root, other] = &system.file_systems[..] else { panic!("{system:?}") };
        assert_eq!((root.total_kib, root.used_kib, root.kind.as_deref()), (Some(4), Some(2), Some("ext4")));
        assert_eq!((other.mount.as_str(), other.total_kib), ("/a b", None));

        let interfaces = r#"[{"name":"eth0","hardware-address":"52:54:00:77:00:0b","ip-addresses":[
            {"ip-address":"10.77.0.11","ip-address-type":"ipv4","prefix":24},{"ip-address":"no address"}],
            "statistics":{"rx-bytes":7,"tx-bytes":8,"rx-packets":1}},{"name":"lo"}]"#;
        put_interfaces(serde_json::from_str(interfaces).unwrap(), &mut system);
        assert_eq!(system.interfaces[0].addresses, ["10.77.0.11/24"]);
        assert_eq!(system.interfaces[0].received_bytes, Some(7));
        assert_eq!(
            system.interfaces[1],
            GuestInterface {
                name: "lo".to_owned(),
                mac: None,
                addresses: vec![],
                received_bytes: None,
                sent_bytes: None,
            }
        );
    }
}
