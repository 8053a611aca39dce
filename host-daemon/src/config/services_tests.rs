//! Tests of services in the configuration: what is accepted, and one test for each kind of mistake.

use std::fs;

use kvmpilot_core::policy::{ConnectionPolicy, FilePolicy};
use kvmpilot_core::sample::SocketProtocol;

use super::*;

const SHOP: &str = "[[service]]\nname = \"shop\"\n\
    [[service.component]]\nname = \"web\"\ndomain = \"web\"\nprocess = \"httpd\"\nport = 80\n\
    [[service.component]]\nname = \"db\"\ndomain = \"db\"\nunit = \"db.service\"\nport = 7000\nprotocol = \"udp\"\n\
    [[service.connection]]\nfrom = \"web\"\nto = \"db\"\nport = 7000\n";

fn load_files(files: &[(&str, &str)]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    for name in ["conf.d", "services.d"] {
        fs::create_dir(directory.path().join(name)).unwrap();
    }
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    load(Some(&directory.path().join("kvmpilot.toml")))
        .map_err(|error| error.to_string().replace(&format!("{}/", directory.path().display()), ""))
}

fn mistake(more: &str) -> String {
    load_files(&[("kvmpilot.toml", &format!("{SHOP}{more}"))]).unwrap_err()
}

#[test]
fn services_are_read_from_all_three_places_and_add_up() {
    let file = "[[service.file]]\ncomponent = \"web\"\npath = \"/etc/a b.conf\"\n";
    let config = load_files(&[
        ("kvmpilot.toml", &format!("{SHOP}{file}")),
        ("conf.d/x.toml", &SHOP.replace("\"shop\"", "\"second\"")),
        ("services.d/y.toml", &SHOP.replace("\"shop\"", "\"third\"")),
    ])
    .unwrap();
    let names: Vec<_> = config.policy.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["shop", "second", "third"]);
    let shop = &config.policy.services[0];
    assert_eq!((shop.components[0].process.as_deref(), shop.components[0].port), (Some("httpd"), Some(80)));
    assert_eq!(shop.components[1].unit.as_deref(), Some("db.service"));
    assert_eq!(shop.components[1].protocol, SocketProtocol::Udp);
    let connection =
        ConnectionPolicy { from: "web".into(), to: "db".into(), port: 7000, protocol: SocketProtocol::Tcp };
    assert_eq!(shop.connections, [connection]);
    let file = FilePolicy { component: "web".into(), path: "/etc/a b.conf".into(), sha256: None };
    assert_eq!(shop.files, [file]);
    assert!(shop.source.ends_with("kvmpilot.toml:1"), "{}", shop.source);
}

#[test]
fn a_mistake_is_shown_where_it_stands() {
    let shown = mistake("[[service.connection]]\nfrom = \"web\"\nto = \"dbb\"\nport = 1\n");
    assert_eq!(
        shown,
        "kvmpilot.toml:20:6: there is no component \"dbb\"\n20 | to = \"dbb\"\n   |      ^^^^^\n   = did you mean db?"
    );
    for (more, words) in [
        ("[[service.component]]\ndomain = \"web\"\n", "this service.component has no name"),
        ("[[service.component]]\nname = \"x\"\n", "this service.component has no domain"),
        ("[[service.component]]\nname = \"web\"\ndomain = \"x\"\n", "two components \"web\""),
        ("[[service.component]]\nname = \"x\"\ndomain = \"d\"\nport = 70000\n", "is out of range"),
        ("[[service.component]]\nname = \"x\"\ndomain = \"d\"\nprot = 7\n", "there is no prot in it"),
        ("[[service.component]]\nname = \"x\"\ndomain = \"d\"\nprotocol = \"sctp\"\n", "\"tcp\""),
        ("[[service.connection]]\nfrom = \"web\"\nto = \"web\"\nport = 1\n", "from \"web\" to itself"),
        ("[[service.connection]]\nfrom = \"web\"\nto = \"db\"\n", "has no port"),
        ("[[service.file]]\ncomponent = \"web\"\npath = \"etc/x\"\n", "start it with /"),
        ("[[service.file]]\ncomponent = \"web\"\npath = \"/x\"\nsha256 = \"abc\"\n", "64 hexadecimal digits"),
        ("[service.file]\npath = \"/x\"\n", "two pairs of brackets"),
        ("[[service.files]]\npath = \"/x\"\n", "did you mean file?"),
        (
            "[[service]]\nname = \"shop\"\n[[service.component]]\nname=\"a\"\ndomain=\"a\"\n",
            "a service \"shop\" already, in kvmpilot.toml:1",
        ),
        ("[[service]]\nname = \"empty\"\n", "service \"empty\" has no components"),
        ("[[service]]\n[[service.component]]\nname=\"a\"\ndomain=\"a\"\n", "this service has no name"),
    ] {
        let shown = mistake(more);
        assert!(
            shown.contains(words) && shown.contains("kvmpilot.toml:") && shown.contains('^'),
            "{more}\n{shown}"
        );
    }
    assert!(load_files(&[("kvmpilot.toml", "service = 7\n")]).unwrap_err().contains("write [[service]]"));
}

#[test]
fn what_a_guest_would_be_asked_is_bounded() {
    let files = |count: usize| -> String {
        (0..count).map(|n| format!("[[service.file]]\ncomponent = \"web\"\npath = \"/{n}\"\n")).collect()
    };
    assert!(load_files(&[("kvmpilot.toml", &format!("{SHOP}{}", files(32)))]).is_ok());
    assert!(mistake(&files(33)).contains("at most 32 are possible"));
    let second = format!("{}{}", SHOP.replace("\"shop\"", "\"second\""), files(20));
    assert!(mistake(&format!("{}{second}", files(20))).contains("more than 32 files of domain \"web\""));
    let long = format!("[[service.file]]\ncomponent = \"web\"\npath = \"/{}\"\n", "x".repeat(1024));
    assert!(mistake(&long).contains("write at most 1024 bytes"));
    let parts: String =
        (0..63).map(|n| format!("[[service.component]]\nname = \"c{n}\"\ndomain = \"d\"\n")).collect();
    assert!(load_files(&[("kvmpilot.toml", &format!("[[service]]\nname = \"x\"\n{parts}{parts}"))]).is_err());
    let services: String = (0..257).map(|n| SHOP.replace("\"shop\"", &format!("\"s{n}\""))).collect();
    assert!(load_files(&[("kvmpilot.toml", &services)]).unwrap_err().contains("more than 256 services"));
}

#[test]
fn files_for_services_hold_nothing_else() {
    for text in ["[daemon]\nlog_level = \"debug\"\n", "[[domain]]\nname = \"x\"\n", "x = 1\n"] {
        let shown = load_files(&[("kvmpilot.toml", ""), ("services.d/y.toml", text)]).unwrap_err();
        assert!(shown.contains("has no place in a file of services.d"), "{shown}");
        assert!(shown.starts_with("services.d/y.toml:1:"), "{shown}");
    }
}
