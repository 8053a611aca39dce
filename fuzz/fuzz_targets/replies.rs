//! Fuzzes replies of the agent's commands.
#![no_main]

use kvmpilot::agent::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::replies(data));
