//! stderr for lines that nobody has to read: whoever writes never waits for a reader. A thread writes
//! them, up to a bound; what does not fit is left out and counted.
//! May touch: stderr.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Bytes that wait at most: the pages of a report are far below it.
const QUEUE_MAX: usize = 1 << 20;
/// Bytes that are written at once. Less is a surer sign of progress.
const AT_ONCE: usize = 4 << 10;

/// stderr. Its writes succeed and do not wait.
#[derive(Clone, Debug)]
pub(crate) struct Unhurried {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    todo: Condvar,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: Vec<u8>,
    /// Bytes that the thread has and has not written.
    in_hand: usize,
    left_out: u64,
    /// Whoever read went away.
    closed: bool,
    stop: bool,
}

impl State {
    fn left(&self) -> usize {
        self.text.len() + self.in_hand
    }
}

fn global() -> &'static OnceLock<Unhurried> {
    static STDERR: OnceLock<Unhurried> = OnceLock::new();
    &STDERR
}

/// The process's stderr.
pub(crate) fn stderr() -> Unhurried {
    global().get_or_init(|| Unhurried::to(Box::new(io::stderr()))).clone()
}

/// Waits until everything is written, or nobody read any of it for so long.
pub(crate) fn finish(patience: Duration) {
    if let Some(stderr) = global().get() {
        stderr.finish(patience);
    }
}

impl Unhurried {
    fn to(out: Box<dyn Write + Send>) -> Self {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = thread::Builder::new().name("stderr".to_owned()).stack_size(64 << 10);
        if thread.spawn(move || its.run(out)).is_err() {
            shared.state().closed = true;
        }
        Self { shared }
    }

    fn finish(&self, patience: Duration) {
        let mut state = self.shared.state();
        let (mut left, mut since) = (state.left(), Instant::now());
        while state.left() > 0 && !state.closed && since.elapsed() < patience {
            let wait = patience.saturating_sub(since.elapsed());
            let waited = self.shared.done.wait_timeout(state, wait);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            if state.left() < left {
                (left, since) = (state.left(), Instant::now());
            }
        }
    }
}

impl Write for Unhurried {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.shared.state();
        if state.closed {
            return Ok(bytes.len());
        }
        if state.left_out > 0 && state.left() == 0 {
            let left_out = std::mem::take(&mut state.left_out);
            let line = format!("({left_out} lines are missing here: nobody read them)\n");
            state.text.extend_from_slice(line.as_bytes());
        }
        if state.left_out > 0 || state.left() + bytes.len() > QUEUE_MAX {
            let lines = bytes.split(|byte| *byte == b'\n').count() as u64 - 1;
            state.left_out += lines.max(u64::from(state.left_out == 0));
        } else {
            state.text.extend_from_slice(bytes);
        }
        drop(state);
        self.shared.todo.notify_one();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: Box<dyn Write + Send>) {
        let mut text = Vec::new();
        loop {
            let idle = |state: &mut State| state.text.is_empty() && !state.stop;
            let waited = self.todo.wait_while(self.state(), idle);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner);
            if state.stop {
                return;
            }
            text.clear();
            std::mem::swap(&mut text, &mut state.text);
            state.in_hand = text.len();
            drop(state);
            for part in text.chunks(AT_ONCE) {
                let written = out.write_all(part).and_then(|()| out.flush());
                let mut state = self.state();
                state.in_hand -= part.len();
                if written.is_err() {
                    *state = State { closed: true, ..State::default() };
                    self.done.notify_all();
                    return;
                }
                self.done.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Read as _},
        os::fd::OwnedFd,
    };

    use super::*;

    fn pipe() -> (BufReader<std::fs::File>, Unhurried) {
        let (read, write): (OwnedFd, OwnedFd) = rustix::pipe::pipe().unwrap();
        let out = Unhurried::to(Box::new(std::fs::File::from(write)));
        (BufReader::new(std::fs::File::from(read)), out)
    }

    #[test]
    fn who_does_not_read_holds_nobody_up_and_learns_what_is_missing() {
        let (mut read, mut out) = pipe();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let began = Instant::now();
        for _ in 0..3_000 {
            out.write_all(&line).unwrap();
        }
        out.finish(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let mut read_lines = 0;
        let mut text = String::new();
        while out.shared.state().left() > 0 || read_lines == 0 {
            text.clear();
            read.read_line(&mut text).unwrap();
            read_lines += 1;
        }
        out.write_all(b"last\n").unwrap();
        loop {
            text.clear();
            read.read_line(&mut text).unwrap();
            if text.starts_with('(') {
                break;
            }
            read_lines += 1;
        }
        let missing =
            format!("({} lines are missing here: nobody read them)\n", 3_000 - read_lines);
        assert_eq!(text, missing);
        text.clear();
        read.read_line(&mut text).unwrap();
        assert_eq!(text, "last\n");
    }

    #[test]
    fn a_reader_that_went_away_is_forgotten() {
        let (read, mut out) = pipe();
        drop(read);
        out.write_all(b"unread\n").unwrap();
        out.finish(Duration::from_secs(10));
        out.write_all(b"unread\n").unwrap();
        assert_eq!(out.shared.state().left(), 0);
        let (mut read, mut out) = pipe();
        out.write_all(b"read\n").unwrap();
        out.finish(Duration::from_secs(10));
        let mut bytes = [0; 5];
        read.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"read\n");
    }
}
