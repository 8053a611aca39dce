//! Services.

use std::fmt::Write as _;

use kvmpilot_core::decide::service::learn::Learned;
use kvmpilot_core::policy::ServicePolicy;
use kvmpilot_core::sample::SocketProtocol;

use super::Scene;
use crate::api::views::{LearnedView, ServicesView};

pub(super) fn services(scene: &Scene<'_>) -> ServicesView {
    let known = &scene.history.services;
    let status = |service: &ServicePolicy| known.get(&service.name).map(|known| known.status.clone());
    ServicesView { services: scene.policy.services.iter().filter_map(status).collect() }
}

/// What was learned, as a file.
#[must_use]
pub fn learned(learned: &Learned) -> LearnedView {
    let Learned { service, notes } = learned;
    LearnedView {
        name: service.name.clone(),
        components: service.components.len(),
        connections: service.connections.len(),
        toml: toml(service, notes),
        notes: notes.clone(),
    }
}

fn toml(service: &ServicePolicy, notes: &[String]) -> String {
    let mut text = "# Learned by `kvmpilot service learn` from what ran and talked at that moment. Take out what does not belong\n\
                    # to the service. It is in force in a file of /etc/kvmpilot/services.d after `systemctl reload kvmpilotd`.\n"
        .to_owned();
    for note in notes {
        let _ = writeln!(text, "# {}", note.replace(|c: char| c.is_control(), " "));
    }
    let quoted = |value: &str| toml::Value::String(value.to_owned()).to_string();
    let protocol = |protocol| if protocol == SocketProtocol::Udp { "protocol = \"udp\"\n" } else { "" };
    let _ = writeln!(text, "\n[[service]]\nname = {}", quoted(&service.name));
    for component in &service.components {
        let _ = writeln!(
            text,
            "\n[[service.component]]\nname = {}\ndomain = {}",
            quoted(&component.name),
            quoted(&component.domain)
        );
        for (key, value) in [("process", &component.process), ("unit", &component.unit)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{key} = {}", quoted(value));
            }
        }
        if let Some(port) = component.port {
            let _ = write!(text, "port = {port}\n{}", protocol(component.protocol));
        }
    }
    for connection in &service.connections {
        let _ = write!(
            text,
            "\n[[service.connection]]\nfrom = {}\nto = {}\nport = {}\n{}",
            quoted(&connection.from),
            quoted(&connection.to),
            connection.port,
            protocol(connection.protocol)
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use kvmpilot_core::policy::{ComponentPolicy, ConnectionPolicy};

    use super::*;

    #[test]
    fn what_was_learned_is_read_back_as_it_was_whatever_its_names() {
        let component = |name: &str, process: &str, port| ComponentPolicy {
            name: name.into(),
            domain: "we\"b\n[x]".into(),
            process: Some(process.into()),
            unit: None,
            port,
            protocol: SocketProtocol::Udp,
        };
        let service = ServicePolicy {
            name: "sh\\op".into(),
            components: vec![
                component("a", "ht\"tpd]]'''\u{fffd}", Some(80)),
                ComponentPolicy {
                    unit: Some("x.service".into()),
                    process: None,
                    ..component("b", "", Some(7))
                },
            ],
            connections: vec![ConnectionPolicy {
                from: "a".into(),
                to: "b".into(),
                port: 7,
                protocol: SocketProtocol::Udp,
            }],
            ..ServicePolicy::default()
        };
        let text = learned(&Learned { service: service.clone(), notes: vec!["a\nb = 1".into()] }).toml;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kvmpilot.toml");
        std::fs::write(&path, &text).unwrap();
        let read = crate::config::load(Some(&path)).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let source = read.policy.services[0].source.clone();
        assert_eq!(read.policy.services, [ServicePolicy { source, ..service }]);
    }
}
