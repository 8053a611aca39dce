//! What `inventory.sh` prints, into a [`GuestSample`]. Pure, total and bounded: any bytes give a sample or an error.

use std::collections::{BTreeMap, BTreeSet};

use kvmpilot_core::sample::{GuestSample, ProcessSample, UnitSample};

use super::AgentError;
use super::exec::malformed;
use super::net::Net;
use super::process::Draft;
use super::unit::read_unit;

/// Clock ticks a second in `/proc` (`USER_HZ`): 100 on every architecture that KVM runs on.
const USER_HZ: u64 = 100;

/// Notes in [`GuestSample::truncated`] at most.
const NOTES: usize = 16;

/// The agent runs as a user who may not look at the processes of others.
const BLIND: &str = "guest agent: its user may not see the guest's processes; qemu-ga has to run as root";

/// How much is taken from a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) processes: usize,
    pub(super) sockets: usize,
    /// Where the script cuts its output.
    pub(super) bytes: usize,
}

/// Reads the output of `inventory.sh` that was run with `nonce`.
pub(super) fn parse(output: &[u8], nonce: &str, bounds: Bounds) -> Result<GuestSample, AgentError> {
    let mut sample = GuestSample { ticks_per_second: USER_HZ, ..GuestSample::default() };
    let mut processes = BTreeMap::<u32, Draft>::new();
    let mut net = Net::default();
    let mut units = BTreeMap::<String, UnitSample>::new();
    let (mut own, mut schedstat) = (0, false);
    let mut separator = None;
    let (mut complete, mut too_many) = (false, false);

    let mut sections = sections(output, nonce).peekable();
    if sections.peek().is_none() {
        return Err(malformed(
            "inventory: no section; does the guest have a POSIX shell, awk, head, grep and ls?",
        ));
    }
    while let Some((name, body)) = sections.next() {
        let cut = sections.peek().is_none() && name != "end";
        // A last line that was cut could read like another value; the next poll has it whole.
        let whole =
            if cut { &body[..body.iter().rposition(|byte| *byte == b'\n').unwrap_or(0)] } else { body };
        match name {
            "system" => (own, schedstat) = system(whole, &mut sample)?,
            "process" => {
                // From the first section, whose first process is pid 1: others may have gone, and left nothing.
                let known = match separator {
                    Some(known) => known,
                    None => find_separator(body, nonce)?,
                };
                separator = Some(known);
                for record in records(body, known, cut) {
                    match Draft::read_stat(record, schedstat) {
                        Some(_) if processes.len() >= bounds.processes => too_many = true,
                        Some(draft) => drop(processes.insert(draft.pid(), draft)),
                        None => {}
                    }
                }
            }
            "status" => lines(whole).for_each(|line| Draft::read_status(line, &mut processes)),
            "exe" => lines(whole).for_each(|line| Draft::read_exe(line, &mut processes)),
            "units" => lines(whole).for_each(|line| read_unit(line, &mut units, bounds.processes)),
            "fd" => lines(whole).for_each(|line| net.read_owner(line)),
            "net" => lines(whole).for_each(|line| net.read_socket(line, bounds.sockets)),
            "blind" => sample.unread = Some(BLIND.to_owned()),
            "end" => complete = true,
            _ => match name.strip_prefix("more ") {
                Some(what) if sample.truncated.len() < NOTES => sample.truncated.push(what.to_owned()),
                _ => {}
            },
        }
    }
    if too_many {
        sample.truncated.push(format!("processes beyond {}", bounds.processes));
    }
    if !complete {
        sample.truncated.push(format!("output after {} bytes", bounds.bytes));
    }
    if sample.uptime_cs == 0 {
        return Err(malformed("inventory: no uptime"));
    }
    let samples: Vec<ProcessSample> = processes.into_values().map(Draft::finish).collect();
    sample.processes = without_descendants(samples, own);
    sample.units = units.into_values().collect();
    if net.more {
        sample.truncated.push(format!("sockets beyond {}", bounds.sockets));
    }
    (sample.sockets, sample.listeners) = net.finish();
    Ok(sample)
}

/// Sections by name. A section starts with a line of the nonce and its name and ends before the next one.
pub(super) fn sections<'a>(output: &'a [u8], nonce: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    let starts =
        move |line: &&'a [u8]| line.starts_with(nonce.as_bytes()) && line.get(nonce.len()) == Some(&b' ');
    let mut heads = Vec::new();
    for line in output.split(|byte| *byte == b'\n').filter(starts) {
        let offset = line.as_ptr().addr() - output.as_ptr().addr();
        heads.push((offset, line));
    }
    (0..heads.len()).map(move |at| {
        let (offset, line) = heads[at];
        let name = std::str::from_utf8(&line[nonce.len() + 1..]).unwrap_or_default();
        let from = (offset + line.len() + 1).min(output.len());
        // Without the newline before the next head.
        let to = heads.get(at + 1).map_or(output.len(), |(next, _)| next.saturating_sub(1)).max(from);
        (name, &output[from..to])
    })
}

pub(super) fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// Reads the system section; returns the pid of the script's own shell.
fn system(body: &[u8], sample: &mut GuestSample) -> Result<(u32, bool), AgentError> {
    let text = std::str::from_utf8(body).map_err(|_| malformed("inventory: system section is not text"))?;
    let (mut own, mut schedstat) = (0, false);
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next().unwrap_or_default() {
            "uptime" => {
                let uptime = words.next().and_then(centiseconds);
                sample.uptime_cs = uptime.ok_or_else(|| malformed("inventory: uptime"))?;
            }
            "loadavg" => {
                let load = words.next().and_then(|word| word.parse::<f64>().ok());
                sample.load1 = load.filter(|load| load.is_finite());
                let threads = words.nth(2).and_then(|word| word.split_once('/'));
                sample.runnable = threads.and_then(|(runnable, _)| runnable.parse().ok());
            }
            "sys/kernel/sched_autogroup_enabled" => sample.autogroup = words.next().map(|word| word == "1"),
            "systemd" => sample.systemd = true,
            "taskset" => sample.sets_affinity = true,
            "schedstat" => schedstat = true,
            "self" => own = words.next().and_then(|word| word.parse().ok()).unwrap_or(0),
            "cpu" => {
                // user nice system idle iowait irq softirq steal; guest time is already in user and nice.
                let ticks: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
                if let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = ticks[..] {
                    let busy = [user, nice, system, irq, softirq, steal];
                    sample.busy_ticks = busy.iter().try_fold(0_u64, |sum, part| sum.checked_add(*part));
                    sample.steal_ticks = Some(steal);
                }
            }
            word if word.starts_with("cpu") => {
                sample.vcpus_online = Some(sample.vcpus_online.unwrap_or(0).saturating_add(1));
            }
            _ => {}
        }
    }
    Ok((own, schedstat))
}

/// `12.34` as 1234.
fn centiseconds(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_once('.')?;
    let hundredths: u64 = if hundredths.len() == 2 { hundredths.parse().ok()? } else { return None };
    seconds.parse::<u64>().ok()?.checked_mul(100)?.checked_add(hundredths)
}

/// What stands before each process: the environment of the program that printed them, which a process cannot know.
/// The first thing behind it is the first process: its pid, a space and an opening parenthesis.
fn find_separator<'a>(body: &'a [u8], nonce: &str) -> Result<&'a [u8], AgentError> {
    let name = find(body, b" (").unwrap_or(0);
    let digits = body[..name].iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let separator = &body[..name - digits];
    if find(separator, nonce.as_bytes()).is_none() {
        return Err(malformed("inventory: a program's own environment cannot be read in the guest"));
    }
    Ok(separator)
}

/// Processes of a section: each is the separator, its stat and its command line. A last one that was cut is left out.
fn records<'a>(body: &'a [u8], separator: &'a [u8], cut: bool) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = find(body, separator).map(|at| &body[at + separator.len()..]);
    std::iter::from_fn(move || {
        let record = rest?;
        let next = find(record, separator);
        rest = next.map(|at| &record[at + separator.len()..]);
        match next {
            Some(at) => Some(&record[..at]),
            None if cut => None,
            None => Some(record),
        }
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    if needle.is_empty() {
        return None;
    }
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Leaves out the script itself and what it started: a subshell and its programs, so two generations.
fn without_descendants(mut processes: Vec<ProcessSample>, own: u32) -> Vec<ProcessSample> {
    let mut family = BTreeSet::from([own]);
    for _generation in 0..2 {
        let children = processes.iter().filter(|process| family.contains(&process.parent));
        let children: Vec<u32> = children.map(|process| process.key.pid).collect();
        family.extend(children);
    }
    processes.retain(|process| own == 0 || !family.contains(&process.key.pid));
    processes
}
