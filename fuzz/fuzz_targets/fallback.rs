//! Fuzzes the replies that stand in where an agent may not run programs.
#![no_main]

use kvmpilot::agent::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::fallback(data));
