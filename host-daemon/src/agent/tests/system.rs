//! What changes rarely, from guests that were made up and from this machine.

use kvmpilot_core::sample::{GuestSystem, ServiceState};
use proptest::prelude::*;

use crate::agent::system::parse;

const K: &str = "0123456789abcdef";

fn read(rest: &str) -> GuestSystem {
    let mut system = GuestSystem::default();
    parse(format!("{rest}\n{K} end\n").as_bytes(), K, &mut system).unwrap();
    system
}

#[test]
fn reads_all_sections() {
    let system = read(&format!(
        "\n{K} users\nroot:x:0:0:root:/:/bin/sh\nalias:x:0:0::/:\nd\u{1b}b:x:33:33::/:/x\nno user\n\n{K} services\n{K} systemd\n\
         ssh.service loaded active running OpenBSD Secure Shell server\n\n{K} release\nID=alpine\nPRETTY_NAME=\"Alpine 3\"\n\
         \n{K} kernel\nkernel 6.1.0\nhost web\n\n{K} mounts\nFilesystem 1024-blocks Used Available Capacity Mounted on\n\
         /dev/vda1 1000 600 400 60% /\n/dev/vdb x y z 1% /b\n\n{K} net\nInter-| Receive\n face |bytes packets\n\
         eth0: 100 1 0 0 0 0 0 0 200 2 0 0 0 0 0 0\n"
    ));
    assert_eq!(system.users[&0], "root");
    assert_eq!(system.users[&33], "d\u{fffd}b");
    assert_eq!(
        (system.services[0].name.as_str(), system.services[0].state),
        ("ssh.service", ServiceState::Running)
    );
    assert_eq!((system.os.as_deref(), system.os_id.as_deref()), (Some("Alpine 3"), Some("alpine")));
    assert_eq!((system.kernel.as_deref(), system.host_name.as_deref()), (Some("6.1.0"), Some("web")));
    assert_eq!(system.file_systems.len(), 1);
    assert_eq!((system.file_systems[0].total_kib, system.file_systems[0].used_kib), (Some(1000), Some(600)));
    assert_eq!(system.interfaces.len(), 1);
    assert_eq!(
        (system.interfaces[0].received_bytes, system.interfaces[0].sent_bytes),
        (Some(100), Some(200))
    );
}

#[test]
fn takes_only_so_much() {
    let users: String = (0..5000).map(|uid| format!("u{uid}:x:{uid}:0::/:\n")).collect();
    let units = "a.service loaded active running x\n".repeat(5000);
    let system = read(&format!("\n{K} users\n{users}\n{K} systemd\n{units}"));
    assert_eq!((system.users.len(), system.services.len()), (1024, 512));
    assert!(parse(b"nothing", K, &mut GuestSystem::default()).is_err());
}

proptest! {
    #[test]
    fn never_panics(
        pieces in proptest::collection::vec(proptest::sample::select(vec![
            K, " ", "\n", "users", "systemd", "openrc", "scripts", "release", "kernel", "mounts", "net", "end", "\0", "a:x:1",
            "18446744073709551616", "eth0: 1 2 3", "[ started ]", "ID=", "\u{e4}", "/dev/x 1 2 3 4% /",
        ]), 0..60),
    ) {
        let _ = parse(pieces.concat().as_bytes(), K, &mut GuestSystem::default());
    }
}
