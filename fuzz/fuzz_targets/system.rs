//! Fuzzes what the program for rarely changing things prints.
#![no_main]

use kvmpilot::agent::fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzzing::system_program(data));
