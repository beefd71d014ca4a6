//! How a process ended, in words: the signal or code that the kernel told, and who had sent it.

use crate::{
    model::{Exit, Record, Signal, signal_name},
    report::words::plain,
};

/// How long after a signal an exit with a code is told as what followed it, ns.
const FOLLOWS: u64 = 60_000_000_000;

/// What is said of an end that nobody saw.
pub(super) const UNKNOWN: &str = "how it ended is not known";

/// The signal that a process was sent last.
#[derive(Debug)]
pub(super) struct Sent {
    signal: u8,
    /// `bash(123)`; none if the kernel sent it.
    sender: Option<String>,
    /// Its sender was its parent and ended.
    parent_ended: bool,
    boottime_ns: u64,
}

impl Sent {
    /// One that was delivered and that may end a process; none if it was not.
    pub(super) fn of(record: &Record, signal: &Signal) -> Option<Self> {
        let sender = signal.sender.as_ref();
        (signal.delivered && ends(signal.signal)).then(|| Self {
            signal: signal.signal,
            sender: sender.map(|by| format!("{}({})", plain(&by.comm), by.pid)),
            parent_ended: signal.parent_ended,
            boottime_ns: record.boottime_ns,
        })
    }

    fn text(&self) -> String {
        let sender = self.sender.as_deref().unwrap_or("the kernel");
        let signal = signal_name(self.signal);
        if self.parent_ended {
            return format!(
                "{signal}, which it had asked for at the end of its parent {sender} \
                 (PR_SET_PDEATHSIG)"
            );
        }
        format!("{signal} from {sender}")
    }
}

/// `SIGKILL from bash(123)`, `code 143 after SIGTERM from bash(123)`, `code 0`.
pub(super) fn ending(exit: &Exit, at_ns: u64, last: Option<&Sent>) -> String {
    match (exit.signal, exit.code) {
        (Some(signal), _) => match last.filter(|sent| sent.signal == signal) {
            Some(sent) => sent.text(),
            None => signal_name(signal).into_owned(),
        },
        (None, Some(code)) => {
            match last.filter(|sent| at_ns.saturating_sub(sent.boottime_ns) < FOLLOWS) {
                Some(sent) => format!("code {code} after {}", sent.text()),
                None => format!("code {code}"),
            }
        }
        (None, None) => UNKNOWN.to_owned(),
    }
}

/// Whether a signal ends a process that does nothing about it (signal(7)).
fn ends(signal: u8) -> bool {
    !matches!(
        i32::from(signal),
        libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGURG
            | libc::SIGWINCH
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
    )
}
