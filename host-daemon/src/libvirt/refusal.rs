//! Why a balloon must be left alone: what in the domain's XML makes ballooning useless or harmful.

use roxmltree::Node;

use super::facts::child;

/// The first reason that the domain gives. VFIO and vdpa pin guest memory (QEMU inhibits the balloon for VFIO since
/// c65ee433); encrypted guests own their pages; the rest is memory that the administrator wants where it is.
pub(super) fn balloon_refusal(domain: Node<'_, '_>, devices: Option<Node<'_, '_>>) -> Option<String> {
    if let Some(security) = child(domain, "launchSecurity") {
        let kind = security.attribute("type").unwrap_or("unknown type");
        return Some(format!("memory encryption ({kind})"));
    }
    backing(domain).or_else(|| device(devices))
}

fn backing(domain: Node<'_, '_>) -> Option<String> {
    let backing = child(domain, "memoryBacking");
    for (element, reason) in [("locked", "locked memory"), ("hugepages", "huge pages")] {
        if backing.is_some_and(|backing| child(backing, element).is_some()) {
            return Some(reason.to_owned());
        }
    }
    let allocation = backing.and_then(|backing| child(backing, "allocation")?.attribute("mode"));
    if allocation == Some("immediate") {
        return Some("memory that is allocated in advance".to_owned());
    }
    let real_time = child(domain, "cputune").is_some_and(|tune| child(tune, "vcpusched").is_some());
    real_time.then(|| "real-time vcpus".to_owned())
}

fn device(devices: Option<Node<'_, '_>>) -> Option<String> {
    let mut balloon = None;
    for device in devices.into_iter().flat_map(|devices| devices.children()) {
        match (device.tag_name().name(), device.attribute("type").unwrap_or_default()) {
            ("hostdev", kind @ ("pci" | "mdev")) => return Some(format!("VFIO device ({kind})")),
            ("interface", kind @ ("hostdev" | "vdpa")) => {
                return Some(format!("network device that pins memory ({kind})"));
            }
            ("memballoon", _) if device.attribute("model") != Some("none") => balloon = Some(device),
            _ => {}
        }
    }
    let Some(balloon) = balloon else { return Some("no balloon device".to_owned()) };
    // Such a guest takes memory out of the balloon behind our back, counts the balloon as used, and has been seen
    // spinning over it (firecracker#4324).
    if balloon.attribute("autodeflate") == Some("on") {
        return Some("the guest deflates its balloon by itself (autodeflate='on')".to_owned());
    }
    // What a balloon would take is the host's already.
    let reports = balloon.attribute("freePageReporting") == Some("on");
    reports.then(|| "the guest gives free pages back by itself (freePageReporting='on')".to_owned())
}

#[cfg(test)]
mod tests {
    use crate::libvirt::facts::Facts;

    fn refusal(backing: &str, devices: &str) -> Option<String> {
        let xml = format!("<domain type='kvm'>{backing}<devices>{devices}</devices></domain>");
        Facts::parse(&xml).unwrap().balloon_refusal
    }

    #[test]
    fn refuses_balloons_that_would_harm() {
        let balloon = "<memballoon model='virtio'/>";
        assert_eq!(refusal("", balloon), None);
        assert_eq!(refusal("<memoryBacking><access mode='shared'/></memoryBacking>", balloon), None);
        assert_eq!(refusal("<cputune><shares>2048</shares></cputune>", balloon), None);
        let refused = [
            ("", "<memballoon model='none'/>".to_owned(), "no balloon"),
            ("", String::new(), "no balloon"),
            ("", "<memballoon model='virtio' autodeflate='on'/>".to_owned(), "autodeflate"),
            ("", "<memballoon model='virtio' freePageReporting='on'/>".to_owned(), "free pages"),
            ("", format!("<hostdev mode='subsystem' type='pci'/>{balloon}"), "VFIO"),
            ("", format!("{balloon}<hostdev mode='subsystem' type='mdev'/>"), "VFIO"),
            ("", format!("{balloon}<interface type='hostdev'/>"), "pins memory"),
            ("<memoryBacking><locked/></memoryBacking>", balloon.to_owned(), "locked"),
            ("<memoryBacking><hugepages/></memoryBacking>", balloon.to_owned(), "huge pages"),
            ("<memoryBacking><allocation mode='immediate'/></memoryBacking>", balloon.to_owned(), "advance"),
            ("<cputune><vcpusched vcpus='0' scheduler='fifo'/></cputune>", balloon.to_owned(), "real-time"),
            ("<launchSecurity type='tdx'/>", balloon.to_owned(), "encryption (tdx)"),
        ];
        for (backing, devices, reason) in refused {
            let found = refusal(backing, &devices).unwrap_or_default();
            assert!(found.contains(reason), "{backing}{devices}: {found}");
        }
        assert_eq!(refusal("", &format!("<hostdev mode='subsystem' type='usb'/>{balloon}")), None);
    }
}
