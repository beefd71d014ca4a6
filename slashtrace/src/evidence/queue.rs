//! Between whoever makes lines and whoever writes them: a bounded queue and a thread. The maker never
//! waits for a disk or a reader.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    place::UNREAD,
    target::{LOOK, Target},
};
use crate::model::Record;

/// Bytes of lines that wait at most. A finding about thousands of workers has some 100 KB.
pub(super) const QUEUE_MAX: usize = 8 << 20;
/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// The thread writes, and reads what it wrote when a file of a folder ends.
const STACK: usize = 1 << 20;

/// The maker's half.
#[derive(Debug)]
pub(super) struct Queue {
    shared: Arc<Shared>,
    name: String,
    is_stdout: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something to do for the thread.
    todo: Condvar,
    /// Something was written, or could not be.
    done: Condvar,
    /// Held for as long as a write takes: the maker never waits for it.
    target: Mutex<Target>,
    /// Whether anything but lines changed since that was asked.
    news: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// `seq` of the last of them.
    last: u64,
    /// Bytes that the target has and has not written.
    in_target: usize,
    trouble: Option<String>,
    closed: bool,
    reopen: bool,
    stop: bool,
    notes: Vec<String>,
}

impl State {
    fn left(&self) -> usize {
        self.lines.len() + self.in_target
    }
}

impl Queue {
    /// Starts the thread.
    pub(super) fn new(target: Target) -> Result<Self> {
        let (name, is_stdout) = (target.name(), target.is_stdout());
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            todo: Condvar::new(),
            done: Condvar::new(),
            target: Mutex::new(target),
            news: AtomicBool::new(false),
        });
        let its = Arc::clone(&shared);
        thread::Builder::new()
            .name("evidence".to_owned())
            .stack_size(STACK)
            .spawn(move || its.run())
            .context("cannot start the thread that writes evidence")?;
        Ok(Self { shared, name, is_stdout })
    }

    /// What it is written to.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The recording's first record: a file that has to be begun anew begins with it.
    pub(super) fn begin_with(&self, start: Record) {
        // The thread has had nothing to write yet.
        self.shared.target().begin_with(start);
    }

    /// Hands lines over, the last of which has this `seq`; false if there is no room for them. `lines` is empty afterwards.
    pub(super) fn push(&self, lines: &mut Vec<u8>, last: u64, wake: bool) -> bool {
        let mut state = self.shared.state();
        let left = state.left();
        let fits = left == 0 || left + lines.len() <= QUEUE_MAX;
        if fits {
            state.last = last;
            if state.lines.is_empty() {
                std::mem::swap(&mut state.lines, lines);
            } else {
                state.lines.append(lines);
            }
        }
        lines.clear();
        drop(state);
        if fits && wake {
            self.shared.todo.notify_one();
        }
        fits
    }

    /// Writes everything that waits: here and now if that can be done without waiting for anybody,
    /// or else waits up to `patience` for the thread. Whether it is written.
    pub(super) fn commit(&self, patience: Duration) -> bool {
        // Poisoned or taken, the thread has it.
        let mine = self.shared.target.try_lock().ok();
        if let Some(mut target) = mine {
            let mut state = self.shared.state();
            if state.trouble.is_none() {
                let last = state.last;
                target.push(&mut state.lines, last);
                state.in_target = target.left();
                drop(state);
                if target.left() == 0 {
                    return true;
                }
                if target.is_ready() {
                    let written = target.write();
                    self.shared.after(&mut target, written);
                }
            }
        }
        self.wait(patience)
    }

    /// Waits until everything is written, it is known that it cannot be, or `patience` is over.
    /// Whether it is written.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let mut state = self.shared.state();
        if state.left() > 0 {
            self.shared.todo.notify_one();
        }
        while state.left() > 0 && state.trouble.is_none() && !state.closed {
            let ahead = until.saturating_duration_since(Instant::now());
            if ahead.is_zero() {
                break;
            }
            let waited = self.shared.done.wait_timeout(state, ahead);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.left() == 0
    }

    /// Whether anything but lines changed since this was last asked: it is cheap.
    pub(super) fn has_news(&self) -> bool {
        self.shared.news.swap(false, Ordering::Relaxed)
    }

    /// Bytes that wait, why they do (if that is known), and what people are to know.
    pub(super) fn standing(&self) -> (usize, Option<String>, Vec<String>) {
        let mut state = self.shared.state();
        (state.left(), state.trouble.clone(), std::mem::take(&mut state.notes))
    }

    /// Whether whoever reads stdout went away.
    pub(super) fn is_closed(&self) -> bool {
        self.is_stdout && self.shared.state().closed
    }

    /// Has the path opened again.
    pub(super) fn reopen(&self) {
        self.shared.state().reopen = true;
        self.shared.todo.notify_one();
    }

    /// Waits until what was written is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.shared.target().sync()
    }
}

impl Drop for Queue {
    /// The thread ends when it can: it may wait for a disk.
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.todo.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn run(&self) {
        let mut pause = LOOK;
        loop {
            let mut state = self.state();
            let idle = |state: &State| {
                (state.left() == 0 || state.trouble.is_some()) && !state.reopen && !state.stop
            };
            if idle(&state) {
                let waited = self.todo.wait_timeout_while(state, pause, |state| idle(state));
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            if state.stop {
                return;
            }
            drop(state);
            let mut target = self.target();
            let mut state = self.state();
            let reopen = std::mem::take(&mut state.reopen);
            let last = state.last;
            target.push(&mut state.lines, last);
            state.in_target = target.left();
            drop(state);
            if reopen {
                target.reopen();
            } else {
                target.look();
            }
            let written = target.write_and_turn();
            let full = matches!(&written, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
            let left = self.after(&mut target, written);
            // Whoever commits and does not write by itself waits for this.
            self.done.notify_all();
            pause = match left {
                // A FIFO's reader makes room at any time.
                true if full && target.has_room(RETRY) => Duration::ZERO,
                true => RETRY,
                false => LOOK,
            };
        }
    }

    /// Notes what came of a write; whether something is left.
    fn after(&self, target: &mut Target, written: io::Result<()>) -> bool {
        let mut state = self.state();
        state.in_target = target.left();
        let trouble = written.err().map(|error| {
            let gone = error.kind() == io::ErrorKind::BrokenPipe;
            state.closed |= gone && target.is_stdout();
            match error.kind() {
                io::ErrorKind::WouldBlock => UNREAD.to_owned(),
                io::ErrorKind::BrokenPipe => "whoever read it went away".to_owned(),
                _ => error.to_string(),
            }
        });
        let changed = trouble.is_some() != state.trouble.is_some() || !target.notes.is_empty();
        state.trouble = trouble;
        state.notes.append(&mut target.notes);
        let left = state.in_target > 0;
        drop(state);
        if changed {
            self.news.store(true, Ordering::Relaxed);
        }
        left
    }
}
