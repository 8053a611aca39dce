//! [`Link`], what all connections share, and [`Session`], the connection of one worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use tokio::sync::{broadcast, watch};
use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::error::ErrorKind;
use super::events::{DomainEvent, Sink};
use super::facts::Cache;
use super::status::Status;
use super::supervisor::Signal;
use super::{ffi, pool};

/// Keepalive: a probe each 5 s, dead after 5 unanswered. libvirt's own defaults.
const KEEPALIVE_INTERVAL_S: i32 = 5;
const KEEPALIVE_COUNT: u32 = 5;

/// Handles that a session keeps; with more it begins anew. Those of domains that are gone for good end that way.
const HANDLES: usize = 1024;

/// What all connections to one libvirt share.
pub(super) struct Link {
    pub(super) uri: String,
    pub(super) status: watch::Sender<Status>,
    /// Rises when the connection breaks; sessions of an older epoch are closed.
    pub(super) epoch: AtomicU64,
    pub(super) cache: Arc<Cache>,
    pub(super) events: broadcast::Sender<DomainEvent>,
}

impl Link {
    /// Opens a connection and arms its keepalive.
    pub(super) fn connect(&self) -> Result<Connect, ErrorKind> {
        let connection = Connect::open(Some(&self.uri))?;
        // The test driver has none.
        let _ = connection.set_keep_alive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT);
        Ok(connection)
    }

    /// A fresh sink for the callbacks of one connection.
    pub(super) fn sink(&self, closed: Sender<Signal>) -> Arc<Sink> {
        Arc::new(Sink {
            cache: Arc::clone(&self.cache),
            events: self.events.clone(),
            closed: Mutex::new(closed),
            epoch: self.epoch.load(Ordering::SeqCst),
        })
    }
}

/// A worker's connection.
pub(super) struct Session {
    /// Handles of domains. libvirt's QEMU driver finds a domain by the UUID in them and looks at nothing else
    /// (`qemuDomainObjFromDomain`), so one serves for all lives of a domain, and spares libvirtd a lookup for each call of ours.
    handles: RefCell<HashMap<Uuid, Domain>>,
    pub(super) link: Arc<Link>,
    pub(super) connection: Connect,
    /// pcpus of the host, also the offline ones: the length of a cpumap.
    pub(super) pcpus: u32,
    /// The flags that mean "the live domain only". The test driver refuses them for pins.
    pub(super) live: u32,
    epoch: u64,
}

impl Session {
    pub(super) fn open(link: &Arc<Link>) -> Result<Self, ErrorKind> {
        let epoch = link.epoch.load(Ordering::SeqCst);
        if let down @ Status::Down { .. } = &*link.status.borrow() {
            return Err(ErrorKind::NotConnected(down.to_string()));
        }
        let connection = link.connect().map_err(|error| ErrorKind::NotConnected(error.to_string()))?;
        let live = if link.uri.starts_with("test:") {
            sys::VIR_DOMAIN_AFFECT_CURRENT
        } else {
            sys::VIR_DOMAIN_AFFECT_LIVE
        };
        let pcpus = ffi::host_pcpus(&connection)?;
        Ok(Self { handles: RefCell::default(), link: Arc::clone(link), connection, pcpus, live, epoch })
    }

    /// A handle for calls. Its name and its number of the run may be those of an earlier life.
    pub(super) fn domain(&self, domain: Uuid) -> Result<Domain, ErrorKind> {
        let known = self.handles.borrow().get(&domain).cloned();
        known.map_or_else(|| self.look_up(domain), Ok)
    }

    /// The domain as libvirt knows it now, with its name and its number of the run.
    pub(super) fn look_up(&self, uuid: Uuid) -> Result<Domain, ErrorKind> {
        let domain = self.connection.lookup_domain_by_uuid(uuid)?;
        let mut handles = self.handles.borrow_mut();
        if handles.len() >= HANDLES {
            handles.clear();
        }
        handles.insert(uuid, domain.clone());
        Ok(domain)
    }

    /// Says so where a call failed because the wire is broken.
    pub(super) fn explain(&self, error: ErrorKind) -> ErrorKind {
        match error {
            ErrorKind::Other(message) if !self.connection.is_alive().unwrap_or(false) => {
                ErrorKind::NotConnected(message)
            }
            error => error,
        }
    }
}

impl pool::Session for Session {
    type Error = ErrorKind;

    fn usable(&self) -> bool {
        self.epoch == self.link.epoch.load(Ordering::SeqCst) && self.connection.is_alive().unwrap_or(false)
    }
}
