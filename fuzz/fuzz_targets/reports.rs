//! Fuzzes reports of scripts that change or look at something.
#![no_main]

use kvmpilot::agent::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::reports(data));
