//! systemd's units, from the files of their cgroups.

use std::collections::BTreeMap;

use kvmpilot_core::sample::UnitSample;

/// A unit's name is a file's name.
const NAME_CHARS: usize = 255;

/// Reads a line of grep: `system.slice/httpd.service/cpu.weight:100`.
pub(super) fn read_unit(line: &[u8], units: &mut BTreeMap<String, UnitSample>, most: usize) {
    let Some((path, value)) = std::str::from_utf8(line).ok().and_then(|line| line.split_once(':')) else {
        return;
    };
    let mut parts = path.rsplit('/');
    let (Some(file), Some(name)) = (parts.next(), parts.next()) else { return };
    let is_unit = (name.ends_with(".service") || name.ends_with(".scope")) && name.len() <= NAME_CHARS;
    // What a unit's own processes make below it is theirs, and no unit of the system's.
    let in_slices = parts.all(|part| part.ends_with(".slice"));
    if !is_unit || !in_slices || (units.len() >= most && !units.contains_key(name)) {
        return;
    }
    let unit = units
        .entry(name.to_owned())
        .or_insert_with(|| UnitSample { name: name.to_owned(), ..UnitSample::default() });
    match file {
        "cpu.weight" => unit.weight = value.parse().ok().filter(|weight| (1..=10_000).contains(weight)),
        "cpu.stat" => {
            unit.usage_usec = value.strip_prefix("usage_usec ").and_then(|usec| usec.parse().ok());
        }
        "cpu.pressure" => {
            let total = value.strip_prefix("some ").and_then(|rest| rest.rsplit_once("total="));
            unit.waited_usec = total.and_then(|(_, usec)| usec.parse().ok());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_what_only_looks_like_one_is_not() {
        let mut units = BTreeMap::new();
        for line in [
            "system.slice/httpd.service/cpu.stat:usage_usec 719360",
            "system.slice/httpd.service/cpu.pressure:some avg10=0.00 avg60=0.00 avg300=0.00 total=212965",
            "system.slice/httpd.service/cpu.weight:25",
            "user.slice/user-0.slice/session-1.scope/cpu.stat:usage_usec 5",
            "system.slice/evil.service/nginx.service/cpu.weight:10000",
            "system.slice/odd.service/cpu.weight:0",
            "system.slice/cpu.weight:100",
        ] {
            read_unit(line.as_bytes(), &mut units, 3);
        }
        let unit = |name: &str, weight, usage_usec, waited_usec| UnitSample {
            name: name.to_owned(),
            weight,
            usage_usec,
            waited_usec,
        };
        let expected = [
            unit("httpd.service", Some(25), Some(719_360), Some(212_965)),
            unit("odd.service", None, None, None),
            unit("session-1.scope", None, Some(5), None),
        ];
        assert_eq!(units.into_values().collect::<Vec<_>>(), expected);
    }
}
