//! The probes against the kernel's own books, on threads that these tests make. Needs root and a kernel with BTF. The
//! truth is `/proc/PID/task/TID/schedstat`.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cost;
mod identity;
mod life;
mod load;
mod steal;
mod totals;
mod workers;
