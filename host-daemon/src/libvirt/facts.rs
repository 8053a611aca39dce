//! [`Facts`]: what only the domain's XML tells, and the cache of it. An event about a domain empties its place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvmpilot_core::sample::{PolicySample, WINDOWS};
use roxmltree::{Document, Node};
use uuid::Uuid;

use super::error::ErrorKind;
use super::metadata;
use super::refusal::balloon_refusal;
use super::tuning::Tuning;

/// Namespace of libosinfo's element in the metadata.
const OSINFO_NAMESPACE: &str = "http://libosinfo.org/xmlns/libvirt/domain/1.0";
/// The agent's channel.
const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";

/// What the live XML of a domain says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// `<domain type=...>`.
    pub(super) accel: String,
    /// Why the balloon must not be touched.
    pub(super) balloon_refusal: Option<String>,
    /// What it says about CPUs and where its memory is to be.
    pub(super) tuning: Tuning,
    /// QOM name of the balloon device.
    pub(super) balloon_alias: Option<String>,
    /// What runs in the guest: libosinfo's identifier.
    pub(super) os: Option<String>,
    /// State of the agent's channel; `None` without one.
    pub(super) agent_connected: Option<bool>,
    /// Host names of the tap devices.
    pub(super) taps: Vec<String>,
    /// Targets of the disks that have an image, and the images.
    pub(super) disks: Vec<(String, Option<String>)>,
    /// Whether it has an interface of `type='user'` that QEMU itself drives (no passt).
    pub(super) user_networking: bool,
    /// Numbers of the vcpus that are online.
    pub(super) vcpus: Vec<u32>,
    /// How many iothreads it was given.
    pub(super) iothreads: u32,
    /// What it says about kvmpilot.
    pub(super) policy: Option<PolicySample>,
}

impl Facts {
    /// Reads the XML that libvirt wrote. Unknown elements are passed over.
    pub(super) fn parse(xml: &str) -> Result<Self, roxmltree::Error> {
        let document = Document::parse(xml)?;
        let domain = document.root_element();
        let devices = child(domain, "devices");
        let device = |name: &'static str| {
            devices
                .into_iter()
                .flat_map(|devices| devices.children())
                .filter(move |node| node.has_tag_name(name))
        };
        let agent = device("channel")
            .filter_map(|channel| child(channel, "target"))
            .find(|target| target.attribute("name") == Some(AGENT_CHANNEL));
        Ok(Self {
            accel: domain.attribute("type").unwrap_or_default().to_owned(),
            balloon_refusal: balloon_refusal(domain, devices),
            tuning: Tuning::of(domain),
            balloon_alias: device("memballoon")
                .find_map(|balloon| child(balloon, "alias")?.attribute("name"))
                .map(str::to_owned),
            os: os(domain),
            agent_connected: agent.map(|target| target.attribute("state") == Some("connected")),
            taps: device("interface")
                .filter_map(|interface| child(interface, "target")?.attribute("dev"))
                .map(str::to_owned)
                .collect(),
            disks: device("disk")
                .filter_map(|disk| {
                    let source = child(disk, "source")?;
                    let image = ["file", "dev", "name", "volume", "dir"];
                    let image = image.iter().find_map(|name| source.attribute(*name)).map(str::to_owned);
                    Some((child(disk, "target")?.attribute("dev")?.to_owned(), image))
                })
                .collect(),
            user_networking: device("interface").any(|interface| {
                let backend = child(interface, "backend").and_then(|backend| backend.attribute("type"));
                interface.attribute("type") == Some("user") && backend != Some("passt")
            }),
            vcpus: online_vcpus(domain),
            iothreads: child(domain, "iothreads")
                .and_then(|iothreads| iothreads.text()?.trim().parse().ok())
                .unwrap_or(0),
            policy: metadata::find(domain),
        })
    }
}

pub(super) fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|child| child.has_tag_name(name))
}

/// What `virt-install` and `virt-manager` write down about the guest's system.
fn os(domain: Node<'_, '_>) -> Option<String> {
    let written = child(domain, "metadata")
        .and_then(|metadata| metadata.descendants().find(|node| node.has_tag_name((OSINFO_NAMESPACE, "os"))))
        .and_then(|os| os.attribute("id"));
    let enlightened = || child(child(domain, "features")?, "hyperv").map(|_| WINDOWS);
    written.or_else(enlightened).map(str::to_owned)
}

fn online_vcpus(domain: Node<'_, '_>) -> Vec<u32> {
    // <vcpus> is there when vcpus can be plugged one by one; then the online ones may have gaps.
    if let Some(list) = child(domain, "vcpus") {
        return list
            .children()
            .filter(|vcpu| vcpu.attribute("enabled") == Some("yes"))
            .filter_map(|vcpu| vcpu.attribute("id")?.parse().ok())
            .collect();
    }
    let Some(vcpu) = child(domain, "vcpu") else { return Vec::new() };
    let count = vcpu.attribute("current").or_else(|| vcpu.text()).and_then(|text| text.trim().parse().ok());
    (0..count.unwrap_or(0)).collect()
}

/// Facts and names by domain.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Counts what was forgotten: facts that were read before that must not be stored after it.
    forgotten: AtomicU64,
    facts: Mutex<HashMap<Uuid, Arc<Facts>>>,
    names: Mutex<HashMap<Uuid, String>>,
}

impl Cache {
    /// The cached facts, else those of `read`, which returns XML.
    pub(super) fn facts(
        &self,
        domain: Uuid,
        read: impl FnOnce() -> Result<String, ErrorKind>,
    ) -> Result<Arc<Facts>, ErrorKind> {
        if let Some(facts) = lock(&self.facts).get(&domain) {
            return Ok(Arc::clone(facts));
        }
        let before = self.forgotten.load(Ordering::SeqCst);
        let facts = Facts::parse(&read()?);
        let facts = Arc::new(facts.map_err(|error| ErrorKind::Other(format!("domain XML: {error}")))?);
        let mut cached = lock(&self.facts);
        if self.forgotten.load(Ordering::SeqCst) == before {
            cached.insert(domain, Arc::clone(&facts));
        }
        Ok(facts)
    }

    /// Something about the domain changed. Called from libvirt's event thread: must not block.
    pub(super) fn forget(&self, domain: Uuid) {
        let mut facts = lock(&self.facts);
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        facts.remove(&domain);
    }

    /// Events may have been lost.
    pub(super) fn forget_all(&self) {
        let mut facts = lock(&self.facts);
        self.forgotten.fetch_add(1, Ordering::SeqCst);
        facts.clear();
    }

    /// Takes over the names of the active domains and drops what belongs to others.
    pub(super) fn set_names(&self, names: HashMap<Uuid, String>) {
        lock(&self.facts).retain(|domain, _| names.contains_key(domain));
        *lock(&self.names) = names;
    }

    /// What to call a domain in messages.
    pub(super) fn name(&self, domain: Uuid) -> String {
        lock(&self.names).get(&domain).cloned().unwrap_or_else(|| domain.to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_live_domain() {
        let xml = "<domain type='qemu' id='3'><metadata>\
            <k:policy xmlns:k='https://kvmpilot.dev/policy/1' class='latency'/>\
            <l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'>\
            <l:os id='http://openbsd.org/openbsd/7.4'/></l:libosinfo></metadata>\
            <iothreads>2</iothreads><vcpu placement='static' current='2'>4</vcpu><devices>\
            <interface type='bridge'><source bridge='br0'/><target dev='vnet7'/></interface>\
            <interface type='user'/>\
            <disk type='file'><source file='/i/a.qcow2'/><target dev='vda'/></disk>\
            <disk type='file' device='cdrom'><target dev='sda'/></disk>\
            <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='connected'/></channel>\
            <memballoon model='virtio'><stats period='1'/><alias name='balloon0'/></memballoon></devices></domain>";
        let facts = Facts::parse(xml).unwrap();
        let expected = Facts {
            accel: "qemu".to_owned(),
            balloon_refusal: None,
            tuning: Tuning::default(),
            balloon_alias: Some("balloon0".to_owned()),
            os: Some("http://openbsd.org/openbsd/7.4".to_owned()),
            agent_connected: Some(true),
            taps: vec!["vnet7".to_owned()],
            disks: vec![("vda".to_owned(), Some("/i/a.qcow2".to_owned()))],
            user_networking: true,
            vcpus: vec![0, 1],
            iothreads: 2,
            policy: Some(PolicySample {
                settings: vec![("class".to_owned(), "latency".to_owned())],
                wrong: Vec::new(),
            }),
        };
        assert_eq!(facts, expected);
    }

    #[test]
    fn vcpus_may_have_gaps() {
        let xml = "<domain type='kvm'><vcpu current='2'>3</vcpu><vcpus><vcpu id='0' enabled='yes'/>\
            <vcpu id='1' enabled='no'/><vcpu id='2' enabled='yes'/></vcpus></domain>";
        assert_eq!(Facts::parse(xml).unwrap().vcpus, [0, 2]);
    }

    #[test]
    fn knows_windows_by_its_metadata_or_its_enlightenments() {
        let os = |inside: &str| {
            let xml = format!("<domain type='kvm'>{inside}</domain>");
            Facts::parse(&xml).unwrap().os
        };
        let metadata = |id: &str| {
            format!(
                "<metadata><l:libosinfo xmlns:l='{OSINFO_NAMESPACE}'><l:os id='{id}'/></l:libosinfo></metadata>"
            )
        };
        let debian = "http://debian.org/debian/12";
        assert_eq!(os(&metadata(debian)).as_deref(), Some(debian));
        let hyperv = "<features><acpi/><hyperv mode='custom'><relaxed state='on'/></hyperv></features>";
        assert_eq!(os(hyperv).as_deref(), Some(WINDOWS));
        assert_eq!(os(&format!("{}{hyperv}", metadata(debian))).as_deref(), Some(debian));
        assert_eq!(os("<features><acpi/></features>"), None);
    }

    #[test]
    fn an_event_between_read_and_store_is_not_lost() {
        let cache = Cache::default();
        let domain = Uuid::from_u128(1);
        let read = |xml: &'static str| move || Ok(xml.to_owned());
        let stale = cache.facts(domain, || {
            cache.forget(domain);
            read("<domain type='old'/>")()
        });
        assert_eq!(stale.unwrap().accel, "old");
        assert_eq!(cache.facts(domain, read("<domain type='new'/>")).unwrap().accel, "new");
        assert_eq!(cache.facts(domain, read("<domain type='newer'/>")).unwrap().accel, "new");
    }
}
