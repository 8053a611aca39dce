//! One process of the guest, put together from the files of its `/proc` directory.

use std::collections::BTreeMap;

use kvmpilot_core::sample::{Autogroup, ProcessKey, ProcessSample, SchedPolicy};

use super::text::{command_line, printable};

/// The kernel's `TASK_COMM_LEN` less its NUL: no user process has a longer name.
const COMM_BYTES: usize = 15;
/// `PF_KTHREAD` in a process' flags.
const KERNEL_THREAD: u64 = 0x0020_0000;
const COMMAND_CHARS: usize = 256;
const PATH_CHARS: usize = 256;
const LIST_CHARS: usize = 64;

/// A process as far as it has been read.
#[derive(Debug)]
pub(super) struct Draft {
    sample: ProcessSample,
    /// Two answers for the executable: one of them is another process' lie.
    disputed: bool,
}

impl Draft {
    pub(super) const fn pid(&self) -> u32 {
        self.sample.key.pid
    }

    pub(super) fn finish(self) -> ProcessSample {
        self.sample
    }

    /// Reads `/proc/PID/stat`, which is `PID (comm) state ...` and a newline, with `schedstat`, where the guest has it, and
    /// the command line behind it.
    pub(super) fn read_stat(record: &[u8], schedstat: bool) -> Option<Self> {
        let open = record.iter().position(|byte| *byte == b'(')?;
        let pid = number(record[..open].strip_suffix(b" ")?)?;
        // The name may hold anything, also ")" and newlines; but it is short, and no ")" comes after it.
        let window = &record[open + 1..record.len().min(open + 2 + COMM_BYTES)];
        let close = open + 1 + window.iter().rposition(|byte| *byte == b')')?;
        let end = close + record[close..].iter().position(|byte| *byte == b'\n')?;
        let fields = std::str::from_utf8(&record[close + 1..end]).ok()?;
        let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
        let mut rest = record.get(end + 1..).unwrap_or_default();
        let mut wait_ns = None;
        if schedstat && let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            // Nanoseconds on a vcpu, nanoseconds runnable without one, and how often.
            let times = std::str::from_utf8(&rest[..end]).ok();
            wait_ns = times.and_then(|times| times.split(' ').nth(1)?.parse().ok());
            rest = &rest[end + 1..];
        }
        // proc(5) counts from 1, and the state is its field 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let count = |number: usize| field(number).and_then(|field| field.parse::<u64>().ok());
        if count(9)? & KERNEL_THREAD != 0 {
            return None;
        }
        let nice = field(19)?.parse().ok().filter(|nice| (-20..=19).contains(nice))?;
        Some(Self {
            sample: ProcessSample {
                key: ProcessKey { pid, start_ticks: count(22)? },
                parent: field(4)?.parse().ok()?,
                name: printable(&record[open + 1..close], COMM_BYTES),
                executable: None,
                command: command_line(rest, COMMAND_CHARS),
                uid: None,
                state: field(3)?.chars().next().filter(char::is_ascii_alphabetic)?,
                threads: field(20)?.parse().ok()?,
                cpu_ticks: count(14)?.checked_add(count(15)?)?,
                // Signed in the kernel.
                children_cpu_ticks: count(16).unwrap_or(0).saturating_add(count(17).unwrap_or(0)),
                rss_kib: 0,
                nice,
                policy: match field(41)? {
                    "0" => SchedPolicy::Other,
                    "1" | "2" | "6" => SchedPolicy::RealTime,
                    "3" => SchedPolicy::Batch,
                    "5" => SchedPolicy::Idle,
                    _ => SchedPolicy::Unknown,
                },
                wait_ns,
                autogroup: None,
                unit: None,
                affinity: None,
            },
            disputed: false,
        })
    }

    /// Reads a line of grep: `PID/status:Uid:...` or `PID/cgroup:0::/...`. Each true line starts with its own file.
    pub(super) fn read_status(line: &[u8], processes: &mut BTreeMap<u32, Self>) {
        let Ok(line) = std::str::from_utf8(line) else { return };
        let Some((pid, rest)) = line.split_once('/') else { return };
        let Some(draft) = pid.parse().ok().and_then(|pid| processes.get_mut(&pid)) else { return };
        let Some((file, rest)) = rest.split_once(':') else { return };
        let sample = &mut draft.sample;
        if file == "cgroup" {
            let path = rest.splitn(3, ':').nth(2).unwrap_or_default();
            sample.unit = unit(path).or_else(|| sample.unit.take());
            return;
        }
        if file == "autogroup" {
            sample.autogroup = autogroup(rest);
            return;
        }
        let Some((key, value)) = rest.split_once(':') else { return };
        let mut words = value.split_ascii_whitespace();
        match key {
            // The first is the real one.
            "Uid" => sample.uid = words.next().and_then(|word| word.parse().ok()),
            "VmRSS" => sample.rss_kib = words.next().and_then(|word| word.parse().ok()).unwrap_or(0),
            "Cpus_allowed_list" => {
                let digits =
                    |list: &&str| list.bytes().all(|byte| byte.is_ascii_digit() || b",-".contains(&byte));
                sample.affinity =
                    words.next().filter(digits).map(|list| printable(list.as_bytes(), LIST_CHARS));
            }
            _ => {}
        }
    }

    /// Reads a line of `ls -l`: `... PID/exe -> path`. A path with a newline can add a line that looks like that of
    /// another process; then there are two for that one, and neither is believed.
    pub(super) fn read_exe(line: &[u8], processes: &mut BTreeMap<u32, Self>) {
        const ARROW: &[u8] = b"/exe -> ";
        let Some(at) = line.windows(ARROW.len()).position(|window| window == ARROW) else { return };
        let name = line[..at].rsplit(|byte| *byte == b' ').next().unwrap_or_default();
        let Some(draft) = number(name).and_then(|pid| processes.get_mut(&pid)) else { return };
        let path = printable(&line[at + ARROW.len()..], PATH_CHARS);
        if draft.sample.executable.is_some() || draft.disputed {
            draft.disputed = true;
            draft.sample.executable = None;
        } else {
            // The same program, updated on disk while it ran.
            draft.sample.executable = Some(path.strip_suffix(" (deleted)").unwrap_or(&path).to_owned());
        }
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Reads `/autogroup-7 nice 0`.
fn autogroup(text: &str) -> Option<Autogroup> {
    let (id, nice) = text.strip_prefix("/autogroup-")?.split_once(" nice ")?;
    Some(Autogroup {
        id: id.parse().ok()?,
        nice: nice.parse().ok().filter(|nice| (-20..=19).contains(nice))?,
    })
}

/// The systemd unit of a cgroup path: below slices, or below the slices of a user's own systemd. What a unit makes below
/// itself may have any name.
fn unit(path: &str) -> Option<String> {
    let is_unit = |part: &&str| part.ends_with(".service") || part.ends_with(".scope");
    let mut parts =
        path.split('/').filter(|part| !part.is_empty()).skip_while(|part| part.ends_with(".slice"));
    let first = parts.next().filter(is_unit)?;
    let of_user = first.starts_with("user@").then(|| parts.find(|part| !part.ends_with(".slice"))).flatten();
    Some(printable(of_user.filter(is_unit).unwrap_or(first).as_bytes(), PATH_CHARS))
}
