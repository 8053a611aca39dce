//! The places where a test ends the daemon as `kill -9` would. Between any two of them something has reached the disk,
//! libvirt or a guest.

/// Ends this process here if the environment variable `KVMPILOT_CRASH_AT` names this place. In debug builds only.
///
/// In their order on the way of an order: `start` (approved, nothing done), `announce` (live value read), `claim` (ledger on
/// disk), `set` (order applied), `read_back` (value set), `settle` (read back), `conclude` (ledger settled), `answer` (order
/// verified), `judge` (trial over). On the way back: `put_back` (a restore has looked), `forget` (it has put a value back).
pub(crate) fn crash_point(name: &str) {
    crash_point_after(name, || ());
}

/// The same, after what is still on its way to the disk.
pub(crate) fn crash_point_after(name: &str, arrive: impl FnOnce()) {
    if cfg!(debug_assertions) && std::env::var_os("KVMPILOT_CRASH_AT").is_some_and(|at| at == name) {
        arrive();
        tracing::error!(name, "ending here, as KVMPILOT_CRASH_AT says");
        std::process::abort();
    }
}
