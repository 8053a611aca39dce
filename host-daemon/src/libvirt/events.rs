//! libvirt's events: registration by FFI (the binding has none), the default event loop, and our own [`DomainEvent`].
//!
//! Callbacks run in libvirt's event thread. They copy ids, empty the cache's place and send; they never call libvirt
//! over the wire, never block and never panic (a panic would abort across `extern "C"`).

use std::mem::transmute;
use std::os::raw::{c_char, c_int, c_ulonglong, c_void};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::broadcast;
use uuid::Uuid;
use virt::connect::Connect;
use virt::sys;

use super::error::ErrorKind;
use super::facts::Cache;
use super::supervisor::Signal;

/// Something happened to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DomainEvent {
    /// It started, stopped, paused, ...
    Lifecycle {
        /// The domain.
        domain: Uuid,
        /// What it did.
        change: Lifecycle,
    },
    /// The balloon moved.
    BalloonChanged {
        /// The domain.
        domain: Uuid,
        /// Memory that it has now.
        current_kib: u64,
    },
    /// A pin, a weight or another tunable changed, by us or by somebody else.
    Tuned {
        /// The domain.
        domain: Uuid,
    },
    /// The guest agent came or went.
    Agent {
        /// The domain.
        domain: Uuid,
        /// Whether it is there now.
        connected: bool,
    },
    /// A device came or went.
    DevicesChanged {
        /// The domain.
        domain: Uuid,
    },
    /// Its metadata changed: its own word about kvmpilot may be another one.
    MetadataChanged {
        /// The domain.
        domain: Uuid,
    },
    /// A migration, backup or snapshot ended.
    JobCompleted {
        /// The domain.
        domain: Uuid,
    },
    /// Events may have been lost (new connection, or the reader was too slow): read everything again.
    Resync,
}

/// What a domain did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "libvirt's names, virDomainEventType")]
pub enum Lifecycle {
    Defined,
    Undefined,
    Started,
    Suspended,
    Resumed,
    Stopped,
    Shutdown,
    PmSuspended,
    Crashed,
    Unknown,
}

/// A reader of events. Each reader gets all of them.
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<DomainEvent>,
    lost: u64,
}

impl Events {
    pub(super) const fn new(receiver: broadcast::Receiver<DomainEvent>) -> Self {
        Self { receiver, lost: 0 }
    }

    /// The next event; `None` when the gateway is gone. Safe to cancel.
    pub async fn next(&mut self) -> Option<DomainEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(lost)) => {
                self.lost += lost;
                Some(DomainEvent::Resync)
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    /// How many events this reader missed because it was too slow; each gap ended with a [`DomainEvent::Resync`].
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }
}

/// Where callbacks put what they learn.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) cache: Arc<Cache>,
    pub(super) events: broadcast::Sender<DomainEvent>,
    /// Where the supervisor hears that the connection closed.
    pub(super) closed: Mutex<Sender<Signal>>,
    /// The connection's epoch.
    pub(super) epoch: u64,
}

/// Starts libvirt's default event loop in a thread of its own, once per process. Has to happen before the first
/// connection is opened: without the loop there are no events, and keepalive kills the connections.
pub(super) fn start_loop() -> Result<(), ErrorKind> {
    static LOOP: OnceLock<Result<(), String>> = OnceLock::new();
    let run = || loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::warn!(%error, "libvirt's event loop failed a turn");
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    let start = || {
        virt::error::clear_error_callback();
        virt::event::event_register_default_impl().map_err(|error| error.message().to_owned())?;
        let builder = std::thread::Builder::new().name("libvirt-events".to_owned());
        builder.spawn(run).map(|_| ()).map_err(|error| format!("cannot start the event thread: {error}"))
    };
    LOOP.get_or_init(start).clone().map_err(ErrorKind::Other)
}

/// The events of one connection. Dropping it takes them off: a registration holds a reference to its connection,
/// which would otherwise never close.
pub(super) struct Registration {
    connection: Connect,
    ids: Vec<c_int>,
    watches_close: bool,
}

impl Registration {
    /// Registers for everything in [`DomainEvent`] that this libvirt has.
    pub(super) fn new(connection: &Connect, sink: &Arc<Sink>) -> Result<Self, ErrorKind> {
        type Generic = sys::virConnectDomainEventGenericCallback;
        let mut this = Self { connection: connection.clone(), ids: Vec::new(), watches_close: false };
        // SAFETY: libvirt calls a callback with the arguments of its event id, whatever the type it was registered
        // under; each id below is paired with the type that libvirt documents for it.
        let table = unsafe {
            [
                (
                    sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                    transmute::<sys::virConnectDomainEventCallback, Generic>(Some(on_lifecycle)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
                    transmute::<sys::virConnectDomainEventBalloonChangeCallback, Generic>(Some(on_balloon)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_TUNABLE,
                    transmute::<sys::virConnectDomainEventTunableCallback, Generic>(Some(on_tunable)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
                    transmute::<sys::virConnectDomainEventAgentLifecycleCallback, Generic>(Some(on_agent)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
                    transmute::<sys::virConnectDomainEventDeviceAddedCallback, Generic>(Some(on_device)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
                    transmute::<sys::virConnectDomainEventDeviceRemovedCallback, Generic>(Some(on_device)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
                    transmute::<sys::virConnectDomainEventMetadataChangeCallback, Generic>(Some(on_metadata)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_JOB_COMPLETED,
                    transmute::<sys::virConnectDomainEventJobCompletedCallback, Generic>(Some(on_job)),
                ),
            ]
        };
        for (id, callback) in table {
            match this.add(sink, id, callback) {
                Ok(()) => {}
                // Without lifecycle events the inventory would be wrong; without the others it is only slower.
                Err(error) if id == sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE => return Err(error),
                Err(error) => tracing::debug!(event = id, %error, "this libvirt lacks an event"),
            }
        }
        this.watch_close(sink);
        Ok(this)
    }

    fn add(
        &mut self,
        sink: &Arc<Sink>,
        id: sys::virDomainEventID,
        callback: sys::virConnectDomainEventGenericCallback,
    ) -> Result<(), ErrorKind> {
        let id = c_int::try_from(id).map_err(|_| ErrorKind::Invalid(format!("event id {id}")))?;
        let opaque = Arc::into_raw(Arc::clone(sink)).cast_mut().cast::<c_void>();
        // SAFETY: the connection is open; a null domain means all. On success libvirt owns the reference in `opaque`
        // and gives it to `release` once, on failure it is taken back below.
        let registered = unsafe {
            let connection = self.connection.as_ptr();
            sys::virConnectDomainEventRegisterAny(
                connection,
                std::ptr::null_mut(),
                id,
                callback,
                opaque,
                Some(release),
            )
        };
        if registered < 0 {
            let error = virt::error::Error::last_error();
            // SAFETY: libvirt did not keep it.
            unsafe { release(opaque) };
            return Err(error.into());
        }
        self.ids.push(registered);
        Ok(())
    }

    fn watch_close(&mut self, sink: &Arc<Sink>) {
        let opaque = Arc::into_raw(Arc::clone(sink)).cast_mut().cast::<c_void>();
        // SAFETY: as in `add`.
        self.watches_close = unsafe {
            sys::virConnectRegisterCloseCallback(
                self.connection.as_ptr(),
                Some(on_close),
                opaque,
                Some(release),
            )
        } == 0;
        if !self.watches_close {
            // The test driver has no wire that could break.
            // SAFETY: libvirt did not keep it.
            unsafe { release(opaque) };
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for id in &self.ids {
            // SAFETY: the connection is held by `self`, the id came from it. On a dead connection the call fails after
            // it has freed the local half, which is all that is wanted.
            unsafe { sys::virConnectDomainEventDeregisterAny(self.connection.as_ptr(), *id) };
        }
        if self.watches_close {
            // SAFETY: as above.
            unsafe { sys::virConnectUnregisterCloseCallback(self.connection.as_ptr(), Some(on_close)) };
        }
    }
}

/// Gives back the reference that a registration held.
unsafe extern "C" fn release(opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Arc::into_raw` and libvirt frees it once.
    drop(unsafe { Arc::from_raw(opaque.cast_const().cast::<Sink>()) });
}

/// Hands the sink and the domain's id to `handle`.
///
/// # Safety
/// `domain` and `opaque` are those of a callback that was registered by [`Registration`].
unsafe fn tell(
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
    changes_xml: bool,
    event: impl FnOnce(Uuid) -> DomainEvent,
) {
    let mut id = [0_u8; 16];
    // SAFETY: a local accessor that fills VIR_UUID_BUFLEN (16) bytes; the domain lives as long as the callback.
    if unsafe { sys::virDomainGetUUID(domain, id.as_mut_ptr()) } != 0 {
        return;
    }
    // SAFETY: the registration holds a reference while callbacks can come.
    let sink = unsafe { &*opaque.cast_const().cast::<Sink>() };
    let domain = Uuid::from_bytes(id);
    if changes_xml {
        sink.cache.forget(domain);
    }
    // Nobody listening is fine.
    let _ = sink.events.send(event(domain));
}

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    _detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let change = match sys::virDomainEventType::try_from(event) {
        Ok(sys::VIR_DOMAIN_EVENT_DEFINED) => Lifecycle::Defined,
        Ok(sys::VIR_DOMAIN_EVENT_UNDEFINED) => Lifecycle::Undefined,
        Ok(sys::VIR_DOMAIN_EVENT_STARTED) => Lifecycle::Started,
        Ok(sys::VIR_DOMAIN_EVENT_SUSPENDED) => Lifecycle::Suspended,
        Ok(sys::VIR_DOMAIN_EVENT_RESUMED) => Lifecycle::Resumed,
        Ok(sys::VIR_DOMAIN_EVENT_STOPPED) => Lifecycle::Stopped,
        Ok(sys::VIR_DOMAIN_EVENT_SHUTDOWN) => Lifecycle::Shutdown,
        Ok(sys::VIR_DOMAIN_EVENT_PMSUSPENDED) => Lifecycle::PmSuspended,
        Ok(sys::VIR_DOMAIN_EVENT_CRASHED) => Lifecycle::Crashed,
        _ => Lifecycle::Unknown,
    };
    // SAFETY: called by libvirt with our opaque.
    unsafe { tell(domain, opaque, true, |domain| DomainEvent::Lifecycle { domain, change }) };
    0
}

unsafe extern "C" fn on_balloon(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    current_kib: c_ulonglong,
    opaque: *mut c_void,
) {
    // SAFETY: called by libvirt with our opaque. No fact of ours depends on the balloon.
    unsafe { tell(domain, opaque, false, |domain| DomainEvent::BalloonChanged { domain, current_kib }) };
}

unsafe extern "C" fn on_tunable(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _: sys::virTypedParameterPtr,
    _: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: called by libvirt with our opaque. No fact of ours depends on tunables.
    unsafe { tell(domain, opaque, false, |domain| DomainEvent::Tuned { domain }) };
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    let connected = u32::try_from(state) == Ok(sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED);
    // SAFETY: called by libvirt with our opaque.
    unsafe { tell(domain, opaque, true, |domain| DomainEvent::Agent { domain, connected }) };
}

unsafe extern "C" fn on_device(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: called by libvirt with our opaque.
    unsafe { tell(domain, opaque, true, |domain| DomainEvent::DevicesChanged { domain }) };
}

unsafe extern "C" fn on_metadata(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _type: c_int,
    _uri: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: called by libvirt with our opaque.
    unsafe { tell(domain, opaque, true, |domain| DomainEvent::MetadataChanged { domain }) };
}

unsafe extern "C" fn on_job(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    _: sys::virTypedParameterPtr,
    _: c_int,
    opaque: *mut c_void,
) {
    // SAFETY: called by libvirt with our opaque.
    unsafe { tell(domain, opaque, false, |domain| DomainEvent::JobCompleted { domain }) };
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, reason: c_int, opaque: *mut c_void) {
    // SAFETY: the registration holds a reference while callbacks can come.
    let sink = unsafe { &*opaque.cast_const().cast::<Sink>() };
    let closed = sink.closed.lock().unwrap_or_else(PoisonError::into_inner);
    // The supervisor being gone is fine.
    let _ = closed.send(Signal::Closed { epoch: sink.epoch, reason });
}
