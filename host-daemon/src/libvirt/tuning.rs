//! [`Tuning`]: what the XML of a domain says about its CPUs and where its memory is to be: where its administrator has
//! decided, kvmpilot does not.
//!
//! Pins are not looked at here: the live XML shows ours, too. Which pins are the administrator's, history knows.

use kvmpilot_core::CpuSet;
use roxmltree::Node;

use super::facts::child;

/// What it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tuning {
    /// Why its threads must not be placed.
    pub(super) placement_refusal: Option<String>,
    /// Why its weight must not be changed.
    pub(super) weight_refusal: Option<String>,
    /// NUMA nodes that its memory is bound to.
    pub(super) memory_nodes: Option<CpuSet>,
}

impl Tuning {
    pub(super) fn of(domain: Node<'_, '_>) -> Self {
        let settings = || child(domain, "cputune").into_iter().flat_map(|tune| tune.children());
        let real_time = settings().find_map(real_time);
        // Both give parts of a cache or of the memory's bandwidth to vcpus, by resctrl.
        let resctrl = settings()
            .find(|node| node.has_tag_name("cachetune") || node.has_tag_name("memorytune"))
            .map(|node| {
                format!("a part of the cache or of the memory's bandwidth is its own ({})", name(node))
            });
        Self {
            placement_refusal: real_time.clone().or(resctrl),
            weight_refusal: real_time,
            memory_nodes: child(domain, "numatune").and_then(|tune| memory_nodes(child(tune, "memory")?)),
        }
    }
}

fn name<'a>(node: Node<'a, '_>) -> &'a str {
    node.tag_name().name()
}

/// `<vcpusched scheduler='fifo'>` and its like: the threads of such a domain run before all others, and a weight means
/// nothing to them.
fn real_time(node: Node<'_, '_>) -> Option<String> {
    let scheduler = node.attribute("scheduler").filter(|scheduler| matches!(*scheduler, "fifo" | "rr"))?;
    let scheduled = matches!(name(node), "vcpusched" | "iothreadsched" | "emulatorsched");
    scheduled.then(|| format!("it runs in real time ({} {scheduler})", name(node)))
}

/// Where mode is `preferred`, memory may be elsewhere.
fn memory_nodes(memory: Node<'_, '_>) -> Option<CpuSet> {
    let bound =
        memory.attribute("mode").is_none_or(|mode| matches!(mode, "strict" | "restrictive" | "interleave"));
    let nodes: CpuSet = memory.attribute("nodeset")?.parse().ok()?;
    (bound && !nodes.is_empty()).then_some(nodes)
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    fn tuning(xml: &str) -> Tuning {
        Tuning::of(Document::parse(&format!("<domain>{xml}</domain>")).unwrap().root_element())
    }

    #[test]
    fn what_an_administrator_has_tuned_is_left_alone() {
        let real_time = tuning("<cputune><vcpusched vcpus='0' scheduler='fifo' priority='1'/></cputune>");
        assert_eq!(real_time.placement_refusal.as_deref(), Some("it runs in real time (vcpusched fifo)"));
        assert_eq!(real_time.weight_refusal, real_time.placement_refusal);
        for tuned in ["<cachetune vcpus='0-1'/>", "<memorytune vcpus='0'/>"] {
            let resctrl = tuning(&format!("<cputune>{tuned}</cputune>"));
            assert!(resctrl.placement_refusal.is_some() && resctrl.weight_refusal.is_none(), "{resctrl:?}");
        }
    }

    #[test]
    fn pins_and_shares_are_no_reason_by_themselves() {
        let plain = "<cputune><shares>2048</shares><vcpupin vcpu='0' cpuset='1'/><emulatorpin cpuset='0'/>\
                     <vcpusched vcpus='0' scheduler='batch'/></cputune>";
        assert_eq!(tuning(plain), Tuning::default());
        assert_eq!(tuning(""), Tuning::default());
    }

    #[test]
    fn memory_is_bound_unless_it_is_only_preferred() {
        let nodes = |memory: &str| tuning(&format!("<numatune>{memory}</numatune>")).memory_nodes;
        assert_eq!(nodes("<memory mode='strict' nodeset='1'/>"), Some(CpuSet::from_iter([1])));
        assert_eq!(nodes("<memory nodeset='0-1'/>"), Some(CpuSet::first(2)), "strict is libvirt's default");
        for free in
            ["<memory mode='preferred' nodeset='1'/>", "<memory placement='auto'/>", "<memory nodeset='x'/>"]
        {
            assert_eq!(nodes(free), None, "{free}");
        }
    }
}
