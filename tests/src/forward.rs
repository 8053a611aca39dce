//! A way from this machine's loopback to a port on the loopback of a lab, for browsers.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::Lab;

/// Carries connections until it is dropped; those that there are then go on until one side ends.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Lab {
    /// Runs `work` in the lab's network namespace, on a thread of its own: the sockets that it makes are there.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = File::open(format!("/proc/{}/ns/net", self.keeper_pid()))?;
        let enter = || setns(namespace, CloneFlags::CLONE_NEWNET).map(|()| work());
        let result = thread::scope(|scope| scope.spawn(enter).join());
        result.map_err(|_| anyhow!("a panic in the lab's network"))?.context("cannot enter the lab's network")
    }

    /// Carries connections to a free port of this machine's loopback to `port` on that of the lab.
    ///
    /// # Errors
    /// When there is no port, or the lab's network namespace cannot be entered.
    pub fn forward(&self, port: u16) -> Result<Forward> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        // Threads belong to the network of the thread that starts them. The listener stays where it was made.
        let thread = self.in_network(|| {
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let Ok(outer) = stream else { continue };
                    if let Ok(inner) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                        join(&outer, &inner);
                        join(&inner, &outer);
                    }
                }
            })
        })?;
        Ok(Forward { address, over, thread: Some(thread) })
    }
}

fn join(from: &TcpStream, to: &TcpStream) {
    if let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Write);
        });
    }
}

impl Forward {
    /// Where to connect.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
