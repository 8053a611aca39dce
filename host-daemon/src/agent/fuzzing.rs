//! Everything that is parsed of what a guest says, as functions over bytes: for the fuzzers in `fuzz/`, and for the test that
//! replays their corpus. None of them may panic, whatever the bytes.

use kvmpilot_core::cpuset::CpuSet;
use kvmpilot_core::sample::{GuestSample, GuestSystem};
use serde::de::DeserializeOwned;

use super::abilities::{Abilities, Info};
use super::exec::{Started, Status, output, read_reply};
use super::facts::{FileSystems, HostName, Interfaces, OsInfo, put_file_systems, put_interfaces};
use super::fallback::{CpuStats, Load, Vcpus, sample};
use super::parse::{Bounds, parse};
use super::text::{command_line, printable};
use super::{files, group, nice, system, windows};

/// The random word of programs' outputs, as the corpus has it.
const K: &str = "0123456789abcdef";
const BYTES: usize = 1 << 20;

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 7] = [
    ("inventory", inventory),
    ("system", system_program),
    ("replies", replies),
    ("fallback", fallback),
    ("windows", windows_programs),
    ("reports", reports),
    ("masking", masking),
];

/// What `inventory.sh` prints.
pub fn inventory(data: &[u8]) {
    const BOUNDS: Bounds = Bounds { processes: 64, sockets: 64, bytes: BYTES };
    if let Ok(sample) = parse(data, K, BOUNDS) {
        assert!(sample.processes.len() <= BOUNDS.processes);
        assert!(sample.sockets.len() + sample.listeners.len() <= BOUNDS.sockets);
        check(&sample);
    }
}

/// What `system.sh` prints.
pub fn system_program(data: &[u8]) {
    let mut found = GuestSystem::default();
    let _ = system::parse(data, K, &mut found);
    check_system(&found);
}

fn read<R: DeserializeOwned>(data: &[u8]) -> Option<R> {
    read_reply("guest-info", std::str::from_utf8(data).ok()?, BYTES).ok()
}

/// Replies of the agent's commands.
pub fn replies(data: &[u8]) {
    let mut found = GuestSystem::default();
    if let Some(info) = read::<Info>(data) {
        assert!(Abilities::new(&info).version.chars().count() <= 40);
    }
    let _ = read::<Started>(data);
    if let Some(status) = read::<Status>(data) {
        let _ = output(status, 1024).map(|output| assert!(output.stdout.len() <= 1024));
    }
    if let Some(info) = read::<OsInfo>(data) {
        info.put(&mut found);
    }
    if let Some(name) = read::<HostName>(data) {
        name.put(&mut found);
    }
    if let Some(file_systems) = read::<FileSystems>(data) {
        put_file_systems(file_systems, &mut found);
    }
    if let Some(interfaces) = read::<Interfaces>(data) {
        put_interfaces(interfaces, &mut found);
    }
    check_system(&found);
}

/// Replies that stand in where programs are forbidden, three of them in lines of their own.
pub fn fallback(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let (load, stats, vcpus) = (lines.next(), lines.next(), lines.next());
    let found =
        sample(load.and_then(read::<Load>), stats.and_then(read::<CpuStats>), vcpus.and_then(read::<Vcpus>));
    assert!(found.load1.is_none_or(|load| load.is_finite() && load >= 0.0));
    check(&found);
}

/// What the programs for Windows print.
pub fn windows_programs(data: &[u8]) {
    const BOUNDS: Bounds = Bounds { processes: 64, sockets: 64, bytes: BYTES };
    if let Ok(sample) = windows::parse_json(data, BOUNDS) {
        assert!(sample.processes.len() <= BOUNDS.processes);
        assert!(sample.sockets.len() + sample.listeners.len() <= BOUNDS.sockets);
        check(&sample);
    }
    let _ = windows::parse(data, BOUNDS);
    let mut found = GuestSystem::default();
    let _ = windows::parse_services(data, &mut found);
    check_system(&found);
    let _ = windows::read_reports(data);
}

/// What scripts report that change or look at something.
pub fn reports(data: &[u8]) {
    let _ = nice::Reports::read(data, String::new());
    let _ = group::reports::<usize, _>(data, group::weight);
    let _ = group::reports::<u64, _>(data, group::first::<i8>);
    let _ = group::reports::<u32, _>(data, group::first::<CpuSet>);
    assert_eq!(files::read(data, 3).len(), 3);
}

/// Command lines, and that a secret in one does not survive.
pub fn masking(data: &[u8]) {
    const SECRET: &str = "Zsesame5Q";
    let line = command_line(data, 200);
    assert!(line.chars().count() <= 200 && !line.chars().any(char::is_control));
    assert!(printable(data, 50).chars().count() <= 50);
    let mut start = data.to_vec();
    start.retain(|byte| *byte != 0);
    // The fuzzer finds the word, and puts it where no secret is.
    if String::from_utf8_lossy(&start).contains(SECRET) {
        return;
    }
    start.extend_from_slice(format!("\0--password={SECRET}\0end").as_bytes());
    let line = command_line(&start, 1 << 16);
    assert!(!line.contains(SECRET), "{line}");
}

fn check(sample: &GuestSample) {
    for process in &sample.processes {
        let texts =
            [Some(&process.name), Some(&process.command), process.executable.as_ref(), process.unit.as_ref()];
        for text in texts.into_iter().flatten() {
            assert!(text.chars().count() <= 256 && !text.chars().any(char::is_control), "{text:?}");
        }
        assert!((-20..=19).contains(&process.nice));
    }
}

fn check_system(system: &GuestSystem) {
    assert!(system.services.len() <= 512 && system.file_systems.len() <= 128 && system.users.len() <= 1024);
    let names = system.services.iter().flat_map(|service| [&service.name, &service.detail]);
    let mounts = system.file_systems.iter().flat_map(|found| [&found.mount, &found.device]);
    let texts = [&system.os, &system.os_id, &system.host_name, &system.kernel, &system.machine];
    for text in names.chain(mounts).chain(texts.into_iter().flatten()) {
        assert!(text.chars().count() <= 256 && !text.chars().any(char::is_control), "{text:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_corpus_of_the_fuzzers_is_replayed() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
        let mut bytes = 0;
        for (name, target) in TARGETS {
            let files =
                std::fs::read_dir(corpus.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            let mut replayed = 0;
            for file in files {
                let data = std::fs::read(file.unwrap().path()).unwrap();
                bytes += data.len();
                target(&data);
                replayed += 1;
            }
            assert!(replayed > 0, "{name} has no corpus");
        }
        assert!(bytes < 100 << 10, "the corpus has grown to {bytes} bytes");
    }
}
