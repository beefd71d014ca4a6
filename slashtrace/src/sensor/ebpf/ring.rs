//! The ring buffer of the kernel programs, and what was read from it and not judged yet.
//!
//! Whoever waits for records reads them itself, at once. While it judges, looks at /proc or writes
//! to disk, a thread reads in its place, so that the ring does not fill: it waits on the same
//! descriptor and reads whatever nobody has read [`RELIEF`] after it came. When the machine is idle
//! it sleeps.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{MapData, RingBuf};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Notify,
};

/// How long a record may lie in the ring before the thread reads it. The ring (1 MiB) must not fill
/// in that time: it does at 50 MB/s, some 85,000 workers a second.
const RELIEF: Duration = Duration::from_millis(20);
/// Bytes of records that are kept in memory at most, and at least where there is little: this part of
/// the machine's memory. What is beyond stays in the ring until that is full, too, which the kernel
/// programs count. A worker's life takes some 530 bytes, so 100,000 in one burst have room even if
/// none is judged meanwhile, because others use the CPUs. Judging so many takes seconds, and so does
/// the end of a recording in which they wait.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
const QUEUE_BYTES_MIN: u64 = 8 << 20;
const QUEUE_PART: u64 = 64;
/// How nice the thread is: it reads for some microseconds at a time, and what it cannot read in time
/// is lost.
const NICE: i32 = -10;
/// Bytes that are allocated at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// Bytes of a record's length, before it.
const LENGTH_BYTES: usize = size_of::<u32>();
/// Bytes of the thread's stack.
const STACK_BYTES: usize = 64 << 10;

/// Where records come from: the ring buffer, or a script in tests.
pub trait Source: Send + 'static {
    /// Gives the oldest record to `put`; whether there was one.
    fn read(&mut self, put: &mut dyn FnMut(&[u8])) -> bool;
}

impl Source for RingBuf<MapData> {
    fn read(&mut self, put: &mut dyn FnMut(&[u8])) -> bool {
        let record = self.next();
        if let Some(record) = &record {
            put(record);
        }
        record.is_some()
    }
}

/// Records in memory, oldest first.
#[derive(Debug, Default)]
struct Queue {
    /// Records, each after its length; full ones first.
    chunks: VecDeque<Bytes>,
    /// What is being filled.
    tail: BytesMut,
    bytes: usize,
    records: usize,
}

impl Queue {
    fn put(&mut self, record: &[u8]) {
        let needed = LENGTH_BYTES + record.len();
        if self.tail.capacity() - self.tail.len() < needed {
            self.close_tail();
            // Uses its old memory again if nobody reads that any more.
            self.tail.reserve(needed.max(CHUNK_BYTES));
        }
        self.tail.put_u32_ne(record.len() as u32);
        self.tail.put_slice(record);
        self.bytes += needed;
        self.records += 1;
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.chunks.push_back(self.tail.split().freeze());
        }
    }

    fn take(&mut self, max: usize) -> Vec<Bytes> {
        let mut taken = Vec::with_capacity(max.min(self.records));
        while taken.len() < max && self.records > 0 {
            if self.chunks.is_empty() {
                self.close_tail();
            }
            let Some(chunk) = self.chunks.front_mut() else { break };
            let length = chunk.get_u32_ne() as usize;
            taken.push(chunk.split_to(length));
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
            self.bytes -= LENGTH_BYTES + length;
            self.records -= 1;
        }
        taken
    }
}

struct State<S> {
    source: S,
    queue: Queue,
    /// Bytes of records that there is room for.
    room: usize,
}

struct Shared<S> {
    state: Mutex<State<S>>,
    /// What both wait on.
    ring: OwnedFd,
    /// Written to end the thread.
    stop: OwnedFd,
    /// The thread has read something. The descriptor does not say so any more.
    relieved: Notify,
}

impl<S: Source> Shared<S> {
    fn lock(&self) -> MutexGuard<'_, State<S>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves records from the ring to memory as far as there is room, or until at least so many are
    /// there, whatever room there is; whether the ring is empty.
    fn drain(&self, records: Option<usize>) -> bool {
        let State { source, queue, room } = &mut *self.lock();
        while records.map_or(queue.bytes < *room, |records| queue.records < records) {
            if !source.read(&mut |record| queue.put(record)) {
                return true;
            }
        }
        false
    }

    /// What the thread does.
    fn relieve(&self) {
        // Of this thread alone (setpriority(2), "C library/kernel differences"). Without the privilege
        // it waits for its turn.
        let _ = rustix::process::setpriority_process(None, NICE);
        let stop = || PollFd::new(&self.stop, PollFlags::IN);
        let relief = Timespec { tv_sec: 0, tv_nsec: RELIEF.as_nanos() as i64 };
        loop {
            let mut fds = [stop(), PollFd::new(&self.ring, PollFlags::IN)];
            if !waited(poll(&mut fds, None)) || !fds[0].revents().is_empty() {
                return;
            }
            // Whoever waits for records usually reads them now.
            let mut fds = [stop()];
            if !waited(poll(&mut fds, Some(&relief))) || !fds[0].revents().is_empty() {
                return;
            }
            let before = self.lock().queue.records;
            self.drain(None);
            if self.lock().queue.records > before {
                self.relieved.notify_one();
            }
        }
    }
}

/// Bytes of records that there is room for on this machine.
fn room() -> usize {
    let info = rustix::system::sysinfo();
    let memory = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit));
    (memory / QUEUE_PART).clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX) as usize
}

/// Whether waiting went well; a signal is no failure.
fn waited(result: rustix::io::Result<usize>) -> bool {
    matches!(result, Ok(_) | Err(Errno::INTR))
}

/// A copy of a descriptor, for the reactor alone.
#[derive(Debug)]
struct Readable(OwnedFd);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// The ring buffer, with the thread that relieves its reader.
pub struct Ring<S: Source = RingBuf<MapData>> {
    shared: Arc<Shared<S>>,
    ready: AsyncFd<Readable>,
    thread: Option<JoinHandle<()>>,
}

impl<S: Source> std::fmt::Debug for Ring<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("queue", &self.shared.lock().queue).finish_non_exhaustive()
    }
}

impl Ring {
    /// Starts the thread. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If the descriptor cannot be polled, or the system has no thread or descriptor left.
    pub fn start(events: RingBuf<MapData>) -> Result<Self> {
        let fd =
            events.as_fd().try_clone_to_owned().context("cannot copy the ring's descriptor")?;
        Self::start_with(events, fd, room())
    }
}

impl<S: Source> Ring<S> {
    fn start_with(source: S, fd: OwnedFd, room: usize) -> Result<Self> {
        let copy = fd.try_clone().context("cannot copy the ring's descriptor")?;
        // SAFETY: `Readable` owns its descriptor, always gives the same one, and keeps it open until
        // the `AsyncFd` that owns it is dropped.
        let ready = unsafe { AsyncFd::register_with_interest(Readable(copy), Interest::READABLE) }
            .map_err(|_| anyhow!("the ring buffer cannot be polled"))?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .context("cannot make an eventfd")?;
        let state = Mutex::new(State { source, queue: Queue::default(), room });
        let shared = Arc::new(Shared { state, ring: fd, stop, relieved: Notify::new() });
        let relieving = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("ring".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || relieving.relieve())
            .context("cannot start the thread that reads the ring buffer")?;
        Ok(Self { shared, ready, thread: Some(thread) })
    }

    /// Waits until the ring, or memory, has something to read. Cancel-safe: it reads nothing.
    ///
    /// # Errors
    /// If the reactor is gone.
    pub async fn readable(&self) -> io::Result<()> {
        tokio::select! {
            ready = self.ready.readable() => ready.map(|mut ready| ready.retain_ready()),
            () = self.shared.relieved.notified() => Ok(()),
        }
    }

    /// Moves what the ring holds to memory, as far as there is room.
    pub fn drain(&mut self) {
        use std::task::{Context, Poll, Waker};
        // Taken before the reading, so that what comes after it makes it ready again.
        let ready = self.ready.poll_read_ready(&mut Context::from_waker(Waker::noop()));
        let empty = self.shared.drain(None);
        if empty && let Poll::Ready(Ok(mut ready)) = ready {
            ready.clear_ready();
        }
    }

    /// Moves records to memory until `count` are there, whatever room there is; or until the ring
    /// is empty. The number of records in memory.
    pub fn drain_to(&mut self, count: usize) -> usize {
        self.shared.drain(Some(count));
        self.queued()
    }

    /// Takes the oldest records from memory.
    pub fn take(&mut self, max: usize) -> Vec<Bytes> {
        self.shared.lock().queue.take(max)
    }

    /// Records in memory.
    pub fn queued(&self) -> usize {
        self.shared.lock().queue.records
    }
}

impl<S: Source> Drop for Ring<S> {
    fn drop(&mut self) {
        // An eventfd takes this; the thread waits on nothing that it would not leave for it.
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of it has been said on stderr.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Instant,
    };

    use super::*;

    /// Bytes of records that there is room for here.
    const ROOM: usize = 8 << 20;

    /// A source of so many records of its own, which its descriptor announces.
    struct Script {
        left: Arc<AtomicUsize>,
        record: Vec<u8>,
    }

    impl Source for Script {
        fn read(&mut self, put: &mut dyn FnMut(&[u8])) -> bool {
            let some = self.left.load(Ordering::SeqCst) > 0;
            if some {
                self.left.fetch_sub(1, Ordering::SeqCst);
                put(&self.record);
            }
            some
        }
    }

    fn ring(records: usize, bytes: usize) -> (Ring<Script>, Arc<AtomicUsize>) {
        let left = Arc::new(AtomicUsize::new(records));
        // Readable for good, as a ring is that holds something.
        let fd = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        let script = Script { left: Arc::clone(&left), record: vec![7; bytes] };
        (Ring::start_with(script, fd, ROOM).unwrap(), left)
    }

    fn wait_for(what: &str, done: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < end, "not within 20 s: {what}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_queue_gives_back_what_it_was_given_in_order() {
        let mut queue = Queue::default();
        let record = |n: usize| vec![n as u8; n % 1_000];
        for n in 0..3_000 {
            queue.put(&record(n));
        }
        assert!(queue.chunks.len() > 10, "{}", queue.chunks.len());
        let mut taken = Vec::new();
        while queue.records > 0 {
            taken.extend(queue.take(7));
            queue.put(b"later");
            taken.extend(queue.take(1));
        }
        for (n, got) in taken.iter().take(3_000).enumerate() {
            assert_eq!(*got, record(n), "{n}");
        }
        assert!(taken.iter().skip(3_000).all(|got| *got == b"later"[..]));
        assert_eq!((queue.bytes, queue.chunks.len()), (0, 0), "memory is given back");
        assert!(queue.take(5).is_empty());
    }

    #[tokio::test]
    async fn records_are_read_while_their_reader_is_busy_but_no_more_than_there_is_room_for() {
        const SIZE: usize = 60_000;
        let (mut ring, left) = ring(1_000, SIZE);
        // Nobody takes any; this blocks the reader.
        wait_for("the thread reads", || ring.queued() > 0);
        wait_for("there is no more room", || ring.shared.lock().queue.bytes >= ROOM);
        thread::sleep(3 * RELIEF);
        assert!(ring.shared.lock().queue.bytes < ROOM + 2 * SIZE);
        assert_eq!(
            left.load(Ordering::SeqCst) + ring.queued(),
            1_000,
            "the rest stays in the ring"
        );
        ring.drain();
        assert!(left.load(Ordering::SeqCst) > 0, "its reader has no more room either");
        // A reconciliation wants all that the kernel has counted.
        assert_eq!(ring.drain_to(1_000), 1_000);
        let mut taken = 0;
        while ring.queued() > 0 {
            let batch = ring.take(64);
            assert!((1..=64).contains(&batch.len()) && batch.iter().all(|it| it.len() == SIZE));
            taken += batch.len();
        }
        assert_eq!((taken, left.load(Ordering::SeqCst)), (1_000, 0));
    }

    #[tokio::test]
    async fn it_ends_at_once_whatever_the_thread_does() {
        for records in [0, 1_000_000] {
            let (ring, _) = ring(records, 100);
            thread::sleep(RELIEF / 2);
            let began = Instant::now();
            drop(ring);
            assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        }
    }
}
