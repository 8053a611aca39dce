//! Fuzzes what the inventory program prints.
#![no_main]

use kvmpilot::agent::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::inventory(data));
