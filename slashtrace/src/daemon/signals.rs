use std::{fs, future::pending, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that end a recording in order.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    /// Takes over SIGINT, SIGTERM and SIGHUP, save those that whoever started us has told to be
    /// ignored (`nohup`, a background job of a script).
    pub(super) fn install() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let take = |kind: SignalKind| {
            if is_ignored(&status, kind.as_raw_value()) { Ok(None) } else { signal(kind).map(Some) }
        };
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    /// The next signal's number. Cancel-safe.
    pub(super) async fn next(&mut self) -> i32 {
        tokio::select! {
            () = next(&mut self.interrupt) => libc::SIGINT,
            () = next(&mut self.terminate) => libc::SIGTERM,
            () = next(&mut self.hangup) => libc::SIGHUP,
        }
    }
}

async fn next(signal: &mut Option<Signal>) {
    let received = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if received.is_none() {
        pending::<()>().await;
    }
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
