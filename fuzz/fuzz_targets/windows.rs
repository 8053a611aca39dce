//! Fuzzes what the programs for Windows print.
#![no_main]

use kvmpilot::agent::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::windows_programs(data));
