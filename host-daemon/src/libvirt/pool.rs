//! A small pool of OS threads for blocking calls, where a call that hangs costs one thread and nobody else.
//!
//! Knows nothing of libvirt: a worker owns one session (a connection) that it opens when it first needs it. Calls with
//! the same key never run side by side, so a hung domain holds one worker at most; that worker is given up ("stuck",
//! replaced by a new one) when its caller's deadline passes, and ends itself when its call returns. Until then the
//! key is refused. perf.md 5.3: a call into a stopped QEMU blocked for more than 12 s, the second one for 30 s.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use uuid::Uuid;

/// What a worker keeps between calls.
pub(super) trait Session: Sized + Send + 'static {
    /// Why a session cannot be opened, or a call in it failed.
    type Error: Send + 'static;
    /// Whether the next call may use it; if not, a new one is opened.
    fn usable(&self) -> bool;
}

/// Why a call has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The deadline passed; `started` tells whether a worker had begun.
    Deadline { started: bool },
    /// An earlier call with the same key is stuck for so long.
    Quarantined(Duration),
    /// No worker is left, and so many are stuck that none may be added.
    Overloaded(usize),
    /// The call panicked.
    Died,
}

type Open<S> = Box<dyn Fn() -> Result<S, <S as Session>::Error> + Send + Sync>;
type Work<S> = Box<dyn FnOnce(Result<&S, <S as Session>::Error>) + Send>;

/// The pool. Dropping it ends the workers as they become idle.
pub(super) struct Pool<S: Session>(Arc<Shared<S>>);

struct Shared<S: Session> {
    name: &'static str,
    /// Workers that are not stuck.
    workers: usize,
    /// Stuck workers that are replaced.
    sacrifices: usize,
    open: Open<S>,
    state: Mutex<State<S>>,
    wake: Condvar,
}

struct State<S: Session> {
    next_id: u64,
    queue: VecDeque<Job<S>>,
    running: HashMap<u64, Running>,
    idle: usize,
    closed: bool,
}

struct Job<S: Session> {
    id: u64,
    key: Option<Uuid>,
    work: Work<S>,
}

struct Running {
    key: Option<Uuid>,
    since: Instant,
    stuck: bool,
}

impl<S: Session> Pool<S> {
    /// A pool of at most `workers` threads, of which `sacrifices` are replaced while they are stuck.
    pub(super) fn new(name: &'static str, workers: usize, sacrifices: usize, open: Open<S>) -> Self {
        let state =
            State { next_id: 0, queue: VecDeque::new(), running: HashMap::new(), idle: 0, closed: false };
        Self(Arc::new(Shared {
            name,
            workers: workers.max(1),
            sacrifices,
            open,
            state: Mutex::new(state),
            wake: Condvar::new(),
        }))
    }

    /// Runs `work` in a session. Calls with the same key wait for each other; the wait counts against the deadline.
    /// A caller that goes away earlier gives the call up in the same way as the deadline.
    pub(super) async fn call<T, F>(
        &self,
        key: Option<Uuid>,
        deadline: Duration,
        work: F,
    ) -> Result<Result<T, S::Error>, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&S) -> Result<T, S::Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work: Work<S> = Box::new(move |session| {
            // The caller may be gone; then nobody wants the result.
            let _ = reply.send(session.and_then(work));
        });
        let mut ticket = self.submit(key, work)?;
        let answered = tokio::time::timeout(deadline, answer).await;
        match answered {
            Ok(result) => {
                ticket.settled = true;
                result.map_err(|_| Refusal::Died)
            }
            Err(_) => Err(Refusal::Deadline { started: ticket.give_up() }),
        }
    }

    /// Whether a call with this key was given up and has not returned yet.
    pub(super) fn is_stuck(&self, key: Uuid) -> bool {
        self.0.lock().running.values().any(|call| call.stuck && call.key == Some(key))
    }

    fn submit(&self, key: Option<Uuid>, work: Work<S>) -> Result<Ticket<'_, S>, Refusal> {
        let mut state = self.0.lock();
        if let Some(stuck) = state.running.values().find(|call| call.stuck && call.key == key) {
            return Err(Refusal::Quarantined(stuck.since.elapsed()));
        }
        let (live, stuck) = state.census();
        if live == 0 && stuck >= self.0.workers + self.0.sacrifices {
            return Err(Refusal::Overloaded(stuck));
        }
        let id = state.next_id;
        state.next_id += 1;
        state.queue.push_back(Job { id, key, work });
        Shared::grow(&self.0, &mut state);
        self.0.wake.notify_all();
        Ok(Ticket { shared: &self.0, id, settled: false })
    }
}

impl<S: Session> Drop for Pool<S> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.wake.notify_all();
    }
}

impl<S: Session> State<S> {
    /// Workers that are free or working, and workers that are stuck.
    fn census(&self) -> (usize, usize) {
        let stuck = self.running.values().filter(|call| call.stuck).count();
        (self.idle + self.running.len() - stuck, stuck)
    }

    /// Takes the oldest job whose key is not in use.
    fn take(&mut self) -> Option<Job<S>> {
        let busy = |key: Option<Uuid>| key.is_some() && self.running.values().any(|call| call.key == key);
        let at = self.queue.iter().position(|job| !busy(job.key))?;
        self.queue.remove(at)
    }
}

impl<S: Session> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a worker if there is work for it and room.
    fn grow(shared: &Arc<Self>, state: &mut State<S>) {
        let (live, stuck) = state.census();
        let room = live < shared.workers && live + stuck < shared.workers + shared.sacrifices;
        if !room || state.idle >= state.queue.len() || state.closed {
            return;
        }
        let worker = Arc::clone(shared);
        let spawned = std::thread::Builder::new().name(shared.name.to_owned()).spawn(move || worker.work());
        match spawned {
            Ok(_) => state.idle += 1,
            Err(error) => tracing::error!(pool = shared.name, %error, "cannot start a worker thread"),
        }
    }

    /// A worker's life.
    fn work(&self) {
        let mut session: Option<S> = None;
        let mut state = self.lock();
        loop {
            if state.closed {
                state.idle -= 1;
                return;
            }
            let Some(job) = state.take() else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.idle -= 1;
            state.running.insert(job.id, Running { key: job.key, since: Instant::now(), stuck: false });
            drop(state);

            let survived = catch_unwind(AssertUnwindSafe(|| {
                if !session.as_ref().is_some_and(S::usable) {
                    session = None;
                    match (self.open)() {
                        Ok(opened) => session = Some(opened),
                        Err(error) => return (job.work)(Err(error)),
                    }
                }
                if let Some(session) = &session {
                    (job.work)(Ok(session));
                }
            }));
            if survived.is_err() {
                // What the panic left behind is not to be trusted, not even to be closed.
                std::mem::forget(session.take());
                tracing::error!(pool = self.name, "a call panicked");
            }

            state = self.lock();
            let finished = state.running.remove(&job.id);
            self.wake.notify_all();
            if finished.is_none_or(|call| call.stuck) {
                return;
            }
            state.idle += 1;
        }
    }
}

/// A call under way, as its caller holds it.
struct Ticket<'a, S: Session> {
    shared: &'a Arc<Shared<S>>,
    id: u64,
    settled: bool,
}

impl<S: Session> Ticket<'_, S> {
    /// Takes the job from the queue or, if a worker has begun with it, gives that worker up. Tells which.
    fn give_up(&mut self) -> bool {
        self.settled = true;
        let mut state = self.shared.lock();
        if let Some(at) = state.queue.iter().position(|job| job.id == self.id) {
            state.queue.remove(at);
            return false;
        }
        if let Some(call) = state.running.get_mut(&self.id) {
            call.stuck = true;
            Shared::grow(self.shared, &mut state);
        }
        true
    }
}

impl<S: Session> Drop for Ticket<'_, S> {
    fn drop(&mut self) {
        if !self.settled {
            self.give_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(500);
    const LONG: Duration = Duration::from_secs(10);

    struct Number(usize);

    impl Session for Number {
        type Error = &'static str;
        fn usable(&self) -> bool {
            true
        }
    }

    /// A pool whose sessions are numbered as they are opened.
    fn pool(workers: usize, sacrifices: usize) -> Pool<Number> {
        let opened = AtomicUsize::new(0);
        let open = move || Ok(Number(opened.fetch_add(1, Ordering::SeqCst)));
        Pool::new("test", workers, sacrifices, Box::new(open))
    }

    fn key(number: u128) -> Option<Uuid> {
        Some(Uuid::from_u128(number))
    }

    /// A call that hangs until the returned sender is dropped.
    async fn hang(pool: &Pool<Number>, key: Option<Uuid>) -> (Refusal, mpsc::Sender<()>) {
        let (release, hold) = mpsc::channel::<()>();
        let refusal = pool.call(key, SHORT, move |_| Ok(hold.recv().is_ok())).await.unwrap_err();
        (refusal, release)
    }

    #[tokio::test]
    async fn stuck_workers_are_replaced_and_bounded() {
        let pool = pool(1, 2);
        let mut held = Vec::new();
        for number in 0..3 {
            let (refusal, release) = hang(&pool, key(number)).await;
            assert_eq!(refusal, Refusal::Deadline { started: true });
            held.push(release);
        }
        let refused = pool.call(key(9), LONG, |_| Ok(())).await.unwrap_err();
        assert_eq!(refused, Refusal::Overloaded(3));
        // One comes back: it ends itself, and there is room for a new one.
        assert!(pool.is_stuck(Uuid::from_u128(2)));
        held.pop();
        let give_up = Instant::now() + LONG;
        loop {
            match pool.call(key(9), LONG, |session| Ok(session.0)).await {
                Ok(session) => {
                    break assert_eq!(session, Ok(3), "a worker was used again after it had been stuck");
                }
                Err(refusal) => assert_eq!(refusal, Refusal::Overloaded(3)),
            }
            assert!(Instant::now() < give_up);
            tokio::task::yield_now().await;
        }
        assert!(pool.is_stuck(Uuid::from_u128(0)) && !pool.is_stuck(Uuid::from_u128(2)));
    }

    #[tokio::test]
    async fn calls_with_one_key_never_overlap_and_leave_room_for_others() {
        let pool = pool(2, 0);
        let (release, hold) = mpsc::channel::<()>();
        let first = pool.call(key(1), LONG, move |_| Ok(hold.recv().is_err()));
        let second = pool.call(key(1), LONG, |_| Ok(true));
        let third = async {
            let answer = pool.call(key(2), LONG, |_| Ok(())).await;
            drop(release);
            answer
        };
        let (first, second, third) = tokio::join!(first, second, third);
        assert_eq!((first, second, third), (Ok(Ok(true)), Ok(Ok(true)), Ok(Ok(()))));
    }

    #[tokio::test]
    async fn what_waits_too_long_is_never_begun() {
        let pool = pool(1, 0);
        let (refusal, release) = hang(&pool, key(1)).await;
        assert_eq!(refusal, Refusal::Deadline { started: true });
        let (begun, seen) = mpsc::channel::<()>();
        let refused = pool.call(key(2), SHORT, move |_| Ok(begun.send(()).is_ok())).await.unwrap_err();
        assert_eq!(refused, Refusal::Overloaded(1));
        drop(release);
        assert_eq!(seen.recv(), Err(mpsc::RecvError));
    }

    #[tokio::test]
    async fn a_busy_pool_lets_calls_expire_in_the_queue() {
        let pool = pool(1, 0);
        let (release, hold) = mpsc::channel::<()>();
        let long = pool.call(key(1), LONG, move |_| Ok(hold.recv().is_err()));
        let short = async {
            let refusal = pool.call(key(2), SHORT, |_| Ok(())).await;
            drop(release);
            refusal
        };
        let (long, short) = tokio::join!(long, short);
        assert_eq!(short, Err(Refusal::Deadline { started: false }));
        assert_eq!(long, Ok(Ok(true)));
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_call() {
        let pool = pool(1, 0);
        let died = pool.call(None, LONG, |_| -> Result<(), _> { panic!("on purpose") }).await;
        assert_eq!(died, Err(Refusal::Died));
        assert_eq!(pool.call(None, LONG, |session| Ok(session.0)).await, Ok(Ok(1)));
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_gives_its_call_up() {
        let pool = pool(1, 1);
        let (release, hold) = mpsc::channel::<()>();
        let gone =
            tokio::time::timeout(SHORT, pool.call(key(1), LONG, move |_| Ok(hold.recv().is_ok()))).await;
        assert!(gone.is_err());
        assert!(matches!(pool.call(key(1), LONG, |_| Ok(())).await, Err(Refusal::Quarantined(_))));
        assert_eq!(pool.call(key(2), LONG, |session| Ok(session.0)).await, Ok(Ok(1)));
        drop(release);
    }
}
