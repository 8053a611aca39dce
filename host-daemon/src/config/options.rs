//! The table of all options: where each is written, what it accepts and what it sets.

use std::time::Duration;

use kvmpilot_core::policy::{Actuator, CPU_SHARES, DomainPolicy, FLOOR, MAX_FACTOR};
use kvmpilot_core::units::KiB;

use super::value::{DAY, Read, SECOND, Value};
use super::{Config, otlp, tcp};

/// One option of a section, or of `[[domain]]`.
pub(super) struct Choice<T> {
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    pub(super) set: fn(&mut T, Value<'_>) -> Read<()>,
}

pub(super) const fn option<T>(
    section: &'static str,
    key: &'static str,
    set: fn(&mut T, Value<'_>) -> Read<()>,
) -> Choice<T> {
    Choice { section, key, set }
}

/// Periods that only have to make sense.
const PERIOD: std::ops::RangeInclusive<Duration> = SECOND..=DAY;

/// Makes the setter of the field `$($field).+` from a reader of values.
macro_rules! sets {
    ($($field:ident).+, |$value:ident| $read:expr) => {
        |target, $value| {
            target.$($field).+ = $read?;
            Ok(())
        }
    };
}

/// Every option outside `[[domain]]`.
#[rustfmt::skip]
pub(super) const OPTIONS: &[Choice<Config>] = &[
    option("daemon", "libvirt_uri", sets!(daemon.libvirt_uri, |v| v.name())),
    option("daemon", "state_directory", sets!(daemon.state_directory, |v| v.path())),
    option("daemon", "socket", sets!(daemon.socket, |v| v.path())),
    option("daemon", "socket_group", sets!(daemon.socket_group, |v| v.name())),
    option("daemon", "read_socket", sets!(daemon.read_socket, |v| v.unless("off", Value::path))),
    option("daemon", "hook_socket", sets!(daemon.hook_socket, |v| v.unless("off", Value::path))),
    option("daemon", "log_level", sets!(daemon.log_level, |v| v.word())),
    option("tcp", "address", sets!(daemon.tcp.address, |v| tcp::address(v))),
    option("tcp", "access", sets!(daemon.tcp.access, |v| v.word())),
    option("tcp", "plain", sets!(daemon.tcp.plain, |v| v.word())),
    option("tcp", "certificate", sets!(daemon.tcp.certificate, |v| v.unless("", Value::path))),
    option("tcp", "key", sets!(daemon.tcp.key, |v| v.unless("", Value::path))),
    option("agent", "enabled", sets!(daemon.agent.enabled, |v| v.boolean())),
    option("agent", "timeout", sets!(daemon.agent.timeout, |v| v.duration(SECOND..=SECOND * 60))),
    option("agent", "max_output", sets!(daemon.agent.max_output_bytes,
        |v| v.size(KiB(64)..=KiB::from_mib(16)).map(|size| size.0 * 1024))),
    option("agent", "off", sets!(daemon.agent.off, |v| v.names())),
    option("agent", "off_systems", sets!(daemon.agent.off_systems, |v| v.names())),
    option("probes", "enabled", sets!(daemon.probes.enabled, |v| v.boolean())),
    option("probes", "max_threads", sets!(daemon.probes.max_threads, |v| v.whole(64..=1 << 18))),
    option("probes", "max_domains", sets!(daemon.probes.max_domains, |v| v.whole(1..=4096))),
    option("flows", "enabled", sets!(daemon.flows.enabled, |v| v.boolean())),
    option("flows", "max_per_domain", sets!(daemon.flows.max_per_domain, |v| v.whole(64..=1 << 16))),
    option("store", "retention", sets!(daemon.store.retention, |v| v.duration(SECOND * 3600..=DAY * 3660))),
    option("store", "max_size", sets!(daemon.store.max_bytes,
        |v| v.size(KiB::from_mib(8)..=KiB::from_mib(1 << 20)).map(|size| size.0 * 1024))),

    option("otlp", "endpoint", sets!(daemon.otlp.endpoint, |v| otlp::endpoint(v))),
    option("otlp", "period", sets!(daemon.otlp.period, |v| v.duration(SECOND..=SECOND * 3600))),
    option("otlp", "timeout", sets!(daemon.otlp.timeout, |v| v.duration(SECOND..=SECOND * 60))),
    option("otlp", "queue", sets!(daemon.otlp.queue_bytes, |v| bytes(v, KiB(64)..=KiB::from_mib(1 << 10)))),
    option("otlp", "headers", sets!(daemon.otlp.headers, |v| otlp::headers(v))),

    option("rules", "directory", sets!(rules_directory, |v| v.unless("default", Value::path))),

    option("baseline", "enabled", sets!(policy.baseline.enabled, |v| v.boolean())),
    option("baseline", "learn", sets!(policy.baseline.learn, |v| v.duration(SECOND * 10..=DAY * 30))),
    option("baseline", "memory", sets!(policy.baseline.memory, |v| v.duration(SECOND * 60..=DAY * 365))),
    option("baseline", "deviations", sets!(policy.baseline.deviations, |v| v.number(1.0..=100.0))),

    option("watched", "files", sets!(policy.watched.files, |v| v.duration(SECOND * 5..=DAY))),

    option("modes", "default", sets!(policy.mode, |v| v.word())),
    option("modes", "ladder", |config, v| actuator_mode(config, Actuator::Ladder, v)),
    option("modes", "weight", |config, v| actuator_mode(config, Actuator::Weight, v)),
    option("modes", "placement", |config, v| actuator_mode(config, Actuator::Placement, v)),
    option("modes", "balloon", |config, v| actuator_mode(config, Actuator::Balloon, v)),
    option("modes", "resize", |config, v| actuator_mode(config, Actuator::Resize, v)),

    option("loops", "fast", sets!(policy.periods.fast, |v| v.duration(SECOND / 10..=SECOND * 10))),
    option("loops", "guest", sets!(policy.periods.guest, |v| v.duration(PERIOD))),
    option("loops", "cycle", sets!(policy.periods.cycle, |v| v.duration(SECOND * 5..=DAY))),

    option("state", "high", sets!(policy.state.high, |v| v.number(0.01..=1.0))),
    option("state", "low", sets!(policy.state.low, |v| v.number(0.0..=1.0))),
    option("state", "cycles", sets!(policy.state.cycles, |v| v.whole(1..=1000))),

    option("ladder", "protected", sets!(policy.ladder.protected, |v| v.names())),
    option("ladder", "max_processes", sets!(policy.ladder.max_processes, |v| v.whole(1..=10_000))),
    option("ladder", "affinity", sets!(policy.ladder.affinity, |v| v.boolean())),

    option("weight", "period", sets!(policy.weight.period, |v| v.duration(PERIOD))),
    option("weight", "latency_target", sets!(policy.weight.latency_target, |v| v.number(0.001..=1.0))),
    option("weight", "standard_target", sets!(policy.weight.standard_target, |v| v.number(0.001..=1.0))),
    option("weight", "dead_band", sets!(policy.weight.dead_band, |v| v.number(0.0..=1.0))),
    option("weight", "max_factor", sets!(policy.weight.max_factor, |v| v.number(MAX_FACTOR))),
    option("weight", "relax_after", sets!(policy.weight.relax_after, |v| v.duration(PERIOD))),
    option("weight", "relax_step", sets!(policy.weight.relax_step, |v| v.number(0.01..=1.0))),

    option("placement", "allowed", sets!(policy.placement.allowed, |v| v.unless("all", Value::cpu_set))),
    option("placement", "rest", sets!(policy.placement.rest, |v| v.duration(PERIOD))),

    option("balloon", "floor", sets!(policy.balloon.floor, |v| v.size(FLOOR))),
    option("balloon", "guard", sets!(policy.balloon.guard, |v| v.size(KiB::from_mib(16)..=KiB::from_mib(1 << 20)))),
    option("balloon", "window", sets!(policy.balloon.window, |v| v.duration(PERIOD))),
    option("balloon", "step_permille", sets!(policy.balloon.step_permille, |v| v.whole(1..=500))),
    option("balloon", "step_period", sets!(policy.balloon.step_period, |v| v.duration(PERIOD))),
    option("balloon", "stale_after", sets!(policy.balloon.stale_after, |v| v.duration(PERIOD))),
    option("balloon", "qemu_monitor", sets!(daemon.qemu_monitor, |v| v.boolean())),

    option("guard", "max_changes", sets!(policy.guard.max_changes, |v| v.whole(1..=10_000))),
    option("guard", "max_pin_part", sets!(policy.guard.max_pin_part, |v| v.number(0.0..=1.0))),
    option("guard", "oscillation_hold", sets!(policy.guard.oscillation_hold, |v| v.duration(PERIOD))),
    option("guard", "enforce", sets!(policy.guard.enforce, |v| v.boolean())),
    option("guard", "yield_to_competitors", sets!(policy.guard.yield_to_competitors, |v| v.boolean())),
    option("guard", "suspend_for_change", sets!(policy.guard.suspend_for_change, |v| v.boolean())),

    option("overhead", "enabled", sets!(policy.overhead.enabled, |v| v.boolean())),
    option("overhead", "budget", sets!(policy.overhead.budget, |v| v.number(0.0001..=1.0))),
    option("overhead", "calm", sets!(policy.overhead.calm, |v| v.duration(PERIOD))),
];

/// Every option of a `[[domain]]` entry.
#[rustfmt::skip]
pub(super) const DOMAIN_OPTIONS: &[Choice<DomainPolicy>] = &[
    option("domain", "name", sets!(name, |v| v.name())),
    option("domain", "class", sets!(wishes.class, |v| v.word().map(Some))),
    option("domain", "mode", sets!(wishes.mode, |v| v.unless("default", Value::word))),
    option("domain", "modes", |entry, v| v.table(entry, MODES)),
    option("domain", "protected", sets!(wishes.protected, |v| v.names())),
    option("domain", "floor", sets!(wishes.floor, |v| v.size(FLOOR).map(Some))),
    option("domain", "weight", |entry, v| v.table(entry, WEIGHT)),
    option("domain", "pcpus", sets!(wishes.pcpus, |v| v.unless("all", Value::cpu_set))),
    option("domain", "enforce", sets!(wishes.enforce, |v| v.boolean().map(Some))),
    option("domain", "suspend_for_change", sets!(wishes.suspend_for_change, |v| v.boolean().map(Some))),
];

/// The modes of one domain by actuator.
const MODES: &[Choice<DomainPolicy>] = &[
    option("domain.modes", "ladder", |entry, v| own_mode(entry, Actuator::Ladder, v)),
    option("domain.modes", "weight", |entry, v| own_mode(entry, Actuator::Weight, v)),
    option("domain.modes", "placement", |entry, v| own_mode(entry, Actuator::Placement, v)),
    option("domain.modes", "balloon", |entry, v| own_mode(entry, Actuator::Balloon, v)),
    option("domain.modes", "resize", |entry, v| own_mode(entry, Actuator::Resize, v)),
];

/// The limits of one domain's weight.
#[rustfmt::skip]
const WEIGHT: &[Choice<DomainPolicy>] = &[
    option("domain.weight", "max_factor", sets!(wishes.weight.max_factor, |v| v.number(MAX_FACTOR).map(Some))),
    option("domain.weight", "min", sets!(wishes.weight.min, |v| v.whole(CPU_SHARES).map(Some))),
    option("domain.weight", "max", sets!(wishes.weight.max, |v| v.whole(CPU_SHARES).map(Some))),
];

fn bytes(value: Value<'_>, range: std::ops::RangeInclusive<KiB>) -> Read<usize> {
    value.size(range).map(|size| usize::try_from(size.0 * 1024).unwrap_or(usize::MAX))
}

fn own_mode(entry: &mut DomainPolicy, actuator: Actuator, value: Value<'_>) -> Read<()> {
    entry.wishes.set_mode_of(actuator, value.unless("default", Value::word)?);
    Ok(())
}

fn actuator_mode(config: &mut Config, actuator: Actuator, value: Value<'_>) -> Read<()> {
    let mode = value.unless("default", Value::word)?;
    config.policy.actuator_modes.retain(|(other, _)| *other != actuator);
    config.policy.actuator_modes.extend(mode.map(|mode| (actuator, mode)));
    Ok(())
}
