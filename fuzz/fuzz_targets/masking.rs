//! Fuzzes command lines, and the secrets in them.
#![no_main]

use kvmpilot::agent::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::masking(data));
