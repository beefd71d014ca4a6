use std::{fs, future::pending, io};

use rustix::fs::{Mode, OFlags, open};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a recording in order.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
    /// Whether SIGHUP has files opened anew instead.
    reopens: bool,
    /// Whether there was a controlling terminal that may close.
    terminal: bool,
}

impl Signals {
    /// Takes over SIGINT and SIGTERM, whoever told them to be ignored (a script does so for what it
    /// runs in the background), and SIGHUP, unless it is ignored (`nohup`). With `reopens`, SIGHUP
    /// has files opened anew.
    pub(super) fn install(reopens: bool) -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let hangup = if is_ignored(&status, libc::SIGHUP) {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            reopens,
            terminal: has_terminal(),
        })
    }

    /// The next signal's number. Cancel-safe.
    pub(super) async fn next(&mut self) -> i32 {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => received(hangup).await,
                None => pending().await,
            }
        };
        let number = tokio::select! {
            () = received(&mut self.interrupt) => libc::SIGINT,
            () = received(&mut self.terminate) => libc::SIGTERM,
            () = hangup => libc::SIGHUP,
        };
        if !self.reopens(number) {
            super::ending::acknowledge();
        }
        number
    }

    /// Whether this signal asks for files to be opened anew: SIGHUP, unless it came because our
    /// terminal closed.
    pub(super) fn reopens(&self, signal: i32) -> bool {
        self.reopens && signal == libc::SIGHUP && self.terminal == has_terminal()
    }
}

async fn received(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        pending::<()>().await;
    }
}

/// Whether there is a controlling terminal. One that was hung up is none any more (tty(4)).
fn has_terminal() -> bool {
    open("/dev/tty", OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).is_ok()
}

/// Whether /proc/self/status (proc_pid_status(5), `SigIgn`) has a signal as ignored.
fn is_ignored(status: &str, signal: i32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000000002\n";
        assert!(is_ignored(status, libc::SIGHUP));
        assert!(is_ignored(status, libc::SIGPIPE));
        assert!(!is_ignored(status, libc::SIGINT));
        assert!(!is_ignored("", libc::SIGINT));
    }
}
