//! The domain's own word about kvmpilot: `<kvmpilot:policy>` in the `<metadata>` of its XML, found and written. What the
//! settings mean is core's business; here are only an element and its attributes.

use kvmpilot_core::sample::PolicySample;
use roxmltree::{Document, Node};
use uuid::Uuid;
use virt::domain::Domain;
use virt::sys;

use super::Libvirt;
use super::error::{Error, ErrorKind};
use super::facts::child;
use super::session::Session;

/// The namespace of the element.
pub(super) const NAMESPACE: &str = "https://kvmpilot.dev/policy/1";
/// How all versions of it begin.
const FAMILY: &str = "https://kvmpilot.dev/policy/";
/// Its name, and the prefix that libvirt gives it.
const ELEMENT: &str = "policy";
const PREFIX: &str = "kvmpilot";

/// Attributes that are looked at; there are a dozen.
const MOST_SETTINGS: usize = 64;
/// Characters of a name, and of a value.
const LONGEST: (usize, usize) = (64, 4096);

/// Which of the two XMLs of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// That of the running domain.
    Live,
    /// The stored one, with which it starts next time.
    Stored,
}

/// What a domain's XMLs say about kvmpilot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnWord {
    /// Identity.
    pub uuid: Uuid,
    /// libvirt's name.
    pub name: String,
    /// For each XML that it has, live first, what stands there; `None` where it says nothing.
    pub said: Vec<(Scope, Option<PolicySample>)>,
}

impl Libvirt {
    /// What the domain of this name or UUID, which need not run, says about kvmpilot in its XMLs.
    ///
    /// # Errors
    /// [`ErrorKind::DomainGone`] when there is no such domain; when libvirt cannot be asked.
    pub async fn own_word(&self, name_or_uuid: &str) -> Result<OwnWord, Error> {
        let wanted = name_or_uuid.to_owned();
        self.run(&self.0.calls, "reading metadata", None, self.0.options.read_deadline, move |session| {
            let domain = lookup(session, &wanted)?;
            let mut said = Vec::new();
            if domain.is_active()? {
                said.push((Scope::Live, stands_in(&domain.xml_desc(0)?)?));
            }
            if domain.is_persistent()? {
                said.push((Scope::Stored, stands_in(&domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)?)?));
            }
            Ok(OwnWord { uuid: domain.uuid()?, name: domain.name()?, said })
        })
        .await
    }

    /// Writes these settings, name and value, as all that one XML of the domain says about kvmpilot; none at all takes the
    /// element out.
    ///
    /// # Errors
    /// When a name is no XML name or a value no XML text, libvirt refuses, or cannot be asked. After [`ErrorKind::Deadline`]
    /// with `started` it may still be written.
    pub async fn set_own_word(
        &self,
        uuid: Uuid,
        scope: Scope,
        settings: &[(String, String)],
    ) -> Result<(), Error> {
        let settings = settings.to_vec();
        let deadline = self.0.options.set_deadline;
        self.run(&self.0.calls, "writing metadata", Some(uuid), deadline, move |session| {
            let element = if settings.is_empty() { None } else { Some(element(&settings)?) };
            let flags = match scope {
                Scope::Live => sys::VIR_DOMAIN_AFFECT_LIVE,
                Scope::Stored => sys::VIR_DOMAIN_AFFECT_CONFIG,
            };
            let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT)
                .map_err(|_| ErrorKind::Invalid("kind of metadata".to_owned()))?;
            let domain = session.domain(uuid)?;
            domain.set_metadata(kind, element.as_deref(), Some(PREFIX), Some(NAMESPACE), flags)?;
            // The event that says so may come later than the next reading.
            session.link.cache.forget(uuid);
            Ok(())
        })
        .await
    }
}

fn lookup(session: &Session, wanted: &str) -> Result<Domain, ErrorKind> {
    if wanted.contains('\0') {
        return Err(ErrorKind::DomainGone);
    }
    match session.connection.lookup_domain_by_name(wanted) {
        Ok(domain) => Ok(domain),
        Err(error) => match wanted.parse() {
            Ok(uuid) => session.look_up(uuid),
            Err(_) => Err(error.into()),
        },
    }
}

fn stands_in(xml: &str) -> Result<Option<PolicySample>, ErrorKind> {
    let document = Document::parse(xml).map_err(|error| ErrorKind::Other(format!("domain XML: {error}")))?;
    Ok(find(document.root_element()))
}

/// The element as libvirt wants it: without namespace, which it adds itself.
fn element(settings: &[(String, String)]) -> Result<String, ErrorKind> {
    let mut xml = format!("<{ELEMENT}");
    for (name, value) in settings {
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !is_name || value.chars().any(char::is_control) {
            return Err(ErrorKind::Invalid(format!("{name:?}={value:?} cannot be written into XML")));
        }
        let value = value.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
        xml.push_str(&format!(" {name}=\"{value}\""));
    }
    xml.push_str("/>");
    Ok(xml)
}

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
    let short = |text: &str, most| text.chars().take(most).collect::<String>();
    let (uri, name) = (element.tag_name().namespace().unwrap_or("no namespace"), element.tag_name().name());
    if (uri, name) != (NAMESPACE, ELEMENT) {
        let (uri, name) = (short(uri, LONGEST.0), short(name, LONGEST.0));
        found.wrong.push(format!(
            "<{name}> of {uri} is not <{ELEMENT}> of {NAMESPACE}, which is all that this version knows"
        ));
        return found;
    }
    let inside =
        |node: Node<'_, '_>| node.is_element() || node.text().is_some_and(|text| !text.trim().is_empty());
    if element.children().any(|node| !node.is_comment() && inside(node)) {
        found.wrong.push(format!("there is something inside <{ELEMENT}>; its settings are attributes"));
    }
    if element.attributes().len() > MOST_SETTINGS {
        found.wrong.push(format!("it has more than {MOST_SETTINGS} attributes"));
    }
    for attribute in element.attributes().take(MOST_SETTINGS) {
        let (name, value) = (attribute.name(), attribute.value());
        let foreign = attribute.namespace().is_some_and(|uri| uri != NAMESPACE);
        if foreign || name.chars().count() > LONGEST.0 || value.chars().count() > LONGEST.1 {
            found.wrong.push(format!(
                "the attribute {} is too long or of another namespace",
                short(name, LONGEST.0)
            ));
        } else {
            found.settings.push((name.to_owned(), value.trim().to_owned()));
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

    fn policy(attributes: &str) -> PolicySample {
        found(&format!("<kvmpilot:policy xmlns:kvmpilot='{NAMESPACE}' {attributes}/>")).unwrap()
    }

    #[test]
    fn settings_are_attributes() {
        let expected: Vec<_> = [("class", "latency"), ("mode.balloon", "observe")]
            .map(|(name, text)| (name.to_owned(), text.to_owned()))
            .to_vec();
        for written in
            ["class='latency' mode.balloon=' observe '", "kvmpilot:class='latency'\nmode.balloon='observe'"]
        {
            assert_eq!(policy(written), PolicySample { settings: expected.clone(), wrong: Vec::new() });
        }
        assert_eq!(policy(""), PolicySample::default());
        let commented = found(&format!("<k:policy xmlns:k='{NAMESPACE}'> <!-- why --> </k:policy>"));
        assert_eq!(commented, Some(PolicySample::default()));
    }

    #[test]
    fn the_metadata_of_others_is_none_of_our_business() {
        assert_eq!(found(""), None);
        assert_eq!(found("<nova:instance xmlns:nova='http://openstack.org' class='x'/>"), None);
        assert_eq!(find(Document::parse("<domain/>").unwrap().root_element()), None);
    }

    #[test]
    fn what_is_no_setting_is_said() {
        let many: String = (0..200).map(|number| format!(" a{number}='x'")).collect();
        for (written, says) in [
            (format!("class='{}'", "x".repeat(5000)), "class is too long"),
            (format!("{}='x'", "x".repeat(65)), "too long"),
            ("xmlns:o='urn:other' o:class='latency'".to_owned(), "another namespace"),
            (many, "more than 64"),
        ] {
            let found = policy(&written);
            assert!(found.wrong.iter().any(|wrong| wrong.contains(says)), "{says} in {found:?}");
            assert!(found.settings.len() <= MOST_SETTINGS);
        }
        for inside in ["<class>latency</class>", "class=latency"] {
            let full = found(&format!("<k:policy xmlns:k='{NAMESPACE}'>{inside}</k:policy>")).unwrap();
            assert!(full.wrong[0].contains("something inside"), "{full:?}");
        }
        let newer = found("<k:policy xmlns:k='https://kvmpilot.dev/policy/2' class='x'/>").unwrap();
        assert!(newer.wrong[0].contains("all that this version knows"), "{newer:?}");
        let twice =
            found(&format!("<a:policy xmlns:a='{NAMESPACE}'/><b:policy xmlns:b='{FAMILY}9'/>")).unwrap();
        assert!(twice.wrong[0].contains("more than one"), "{twice:?}");
    }
}
