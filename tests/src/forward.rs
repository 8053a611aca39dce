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
    /// Carries connections to a free port of this machine's loopback to `port` on that of the lab.
    ///
    /// # Errors
    /// When there is no port, or the lab's network namespace cannot be entered.
    pub fn forward(&self, port: u16) -> Result<Forward> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let namespace = File::open(format!("/proc/{}/ns/net", self.keeper_pid()))?;
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        // A thread of its own: from now on what it connects to is in the lab. The listener stays where it was made.
        let (ready, entered) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            let result = setns(namespace, CloneFlags::CLONE_NEWNET);
            let failed = result.is_err();
            if ready.send(result).is_ok() && !failed {
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
            }
        });
        let entered = entered.recv().map_err(|_| anyhow!("the forwarder ended"))?;
        entered.context("cannot enter the lab's network namespace")?;
        Ok(Forward { address, over, thread: Some(thread) })
    }
}

fn join(from: &TcpStream, to: &TcpStream) {
    if let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) {
        thread::spawn(move || {
            // Whoever ends first ends both.
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
