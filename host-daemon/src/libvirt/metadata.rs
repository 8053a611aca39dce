//! The domain's own word about kvmpilot: `<kvmpilot:policy>` in the `<metadata>` of its XML, found and written. What the
//! settings mean is core's business; here are only elements with text.

use kvmpilot_core::sample::PolicySample;
use roxmltree::Node;

use super::facts::child;

/// The namespace of the element.
pub(super) const NAMESPACE: &str = "https://kvmpilot.dev/policy/1";
/// How all versions of it begin.
const FAMILY: &str = "https://kvmpilot.dev/policy/";

/// Settings that are looked at; there are a dozen.
const MOST_SETTINGS: usize = 64;
/// Characters of one setting's text.
const MOST_TEXT: usize = 4096;

/// What the XML of a domain says about kvmpilot, if anything.
pub(super) fn find(domain: Node<'_, '_>) -> Option<PolicySample> {
    let ours = |node: &Node<'_, '_>| node.tag_name().namespace().is_some_and(|uri| uri.starts_with(FAMILY));
    let mut elements = child(domain, "metadata")?.children().filter(ours);
    let first = elements.next()?;
    let mut found = read(first);
    if elements.next().is_some() {
        found.wrong.push("there is more than one element of kvmpilot's".to_owned());
    }
    Some(found)
}

/// What one element says.
pub(super) fn read(element: Node<'_, '_>) -> PolicySample {
    let mut found = PolicySample::default();
    let uri = element.tag_name().namespace();
    if uri.is_some_and(|uri| uri != NAMESPACE) || element.tag_name().name() != "policy" {
        let name = element.tag_name().name();
        found.wrong.push(format!(
            "its element <{name}> of {} is not <policy> of {NAMESPACE}, the one that this version knows",
            uri.unwrap_or("no namespace")
        ));
        return found;
    }
    if let Some(attribute) = element.attributes().next() {
        found.wrong.push(format!("<policy> has an attribute {}; settings are elements", attribute.name()));
    }
    for node in element.children() {
        if found.settings.len() + found.wrong.len() >= MOST_SETTINGS {
            found.wrong.push(format!("it has more than {MOST_SETTINGS} elements"));
            break;
        }
        if node.is_text() && node.text().is_some_and(|text| !text.trim().is_empty()) {
            found.wrong.push("there is text beside the settings".to_owned());
        }
        if !node.is_element() {
            continue;
        }
        let name = node.tag_name().name();
        let foreign = node.tag_name().namespace().is_some_and(|uri| uri != NAMESPACE);
        let text: String = node.children().filter_map(|part| part.text()).collect();
        let plain = node.attributes().next().is_none() && node.children().all(|part| !part.is_element());
        if foreign || !plain || text.chars().count() > MOST_TEXT {
            let shown: String = name.chars().take(64).collect();
            found.wrong.push(format!("<{shown}> is no plain element of kvmpilot's with a short text"));
        } else {
            found.settings.push((name.to_owned(), text.trim().to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use roxmltree::Document;

    use super::*;

    fn found(metadata: &str) -> Option<PolicySample> {
        let xml = format!("<domain type='kvm'><metadata>{metadata}</metadata></domain>");
        find(Document::parse(&xml).unwrap().root_element())
    }

    fn policy(settings: &str) -> PolicySample {
        found(&format!("<kvmpilot:policy xmlns:kvmpilot='{NAMESPACE}'>{settings}</kvmpilot:policy>")).unwrap()
    }

    #[test]
    fn settings_are_elements_with_text_with_or_without_prefix() {
        let expected: Vec<_> = [("class", "latency"), ("mode.balloon", "observe")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .to_vec();
        for written in [
            "<class>latency</class>\n  <mode.balloon> observe </mode.balloon>",
            "<kvmpilot:class>latency</kvmpilot:class><!-- why --><kvmpilot:mode.balloon>observe</kvmpilot:mode.balloon>",
        ] {
            assert_eq!(policy(written), PolicySample { settings: expected.clone(), wrong: Vec::new() });
        }
        assert_eq!(policy(""), PolicySample::default());
    }

    #[test]
    fn the_metadata_of_others_is_none_of_our_business() {
        assert_eq!(found(""), None);
        assert_eq!(
            found("<nova:instance xmlns:nova='http://openstack.org'><class>x</class></nova:instance>"),
            None
        );
        assert_eq!(find(Document::parse("<domain/>").unwrap().root_element()), None);
    }

    #[test]
    fn what_is_no_setting_is_said() {
        let long = format!("<class>{}</class>", "x".repeat(MOST_TEXT + 1));
        let many = "<class>batch</class>".repeat(200);
        for (written, says) in [
            ("latency", "text beside"),
            ("<class kind='x'>latency</class>", "<class> is no plain element"),
            ("<class><b>latency</b></class>", "<class> is no plain element"),
            ("<o:class xmlns:o='urn:other'>latency</o:class>", "<class> is no plain element"),
            (&long, "<class> is no plain element"),
            (&many, "more than 64"),
        ] {
            let found = policy(written);
            assert!(found.wrong.iter().any(|wrong| wrong.contains(says)), "{says} in {found:?}");
            assert!(found.settings.len() <= MOST_SETTINGS);
        }
        let attribute = found(&format!("<k:policy xmlns:k='{NAMESPACE}' class='latency'/>")).unwrap();
        assert!(attribute.wrong[0].contains("attribute class"), "{attribute:?}");
        let newer =
            found("<k:policy xmlns:k='https://kvmpilot.dev/policy/2'><class>x</class></k:policy>").unwrap();
        assert!(newer.wrong[0].contains("the one that this version knows"), "{newer:?}");
        let twice =
            found(&format!("<a:policy xmlns:a='{NAMESPACE}'/><b:policy xmlns:b='{FAMILY}9'/>")).unwrap();
        assert!(twice.wrong[0].contains("more than one"), "{twice:?}");
    }
}
