use std::{ffi::OsString, io, os::unix::process::ExitStatusExt as _, process::ExitStatus};

use anyhow::{Context as _, Result};
use rustix::{
    fs::{Mode, OFlags, open},
    process::{Pid, Signal, getpgrp, kill_process},
    termios::tcgetpgrp,
};
use tokio::process::{Child, Command as Process};

use crate::next_step::NextStep as _;

/// The command that is traced while it runs. Its stdin, stdout and stderr are ours, untouched.
#[derive(Debug)]
pub(super) struct Command {
    child: Child,
}

impl Command {
    /// Starts it; `argv` is not empty.
    pub(super) fn spawn(argv: &[OsString], environment: &[(OsString, OsString)]) -> Result<Self> {
        let name = argv.first().context("there is no command to run")?;
        let mut process = Process::new(name);
        process.args(&argv[1..]).envs(environment.iter().map(|(name, value)| (name, value)));
        let child = process
            .spawn()
            .with_context(|| format!("cannot run {}", name.display()))
            .next_step("check the command after `--`; it is looked up in PATH, without a shell")?;
        Ok(Self { child })
    }

    /// Waits for its end and returns its exit code as a shell has it. Cancel-safe.
    pub(super) async fn wait(&mut self) -> io::Result<u8> {
        self.child.wait().await.map(code)
    }

    /// Hands a signal on that we got, unless the terminal gave it to the command already.
    pub(super) fn hand_on(&self, signal: i32) {
        if signal != libc::SIGINT || !in_foreground() {
            self.signal(signal);
        }
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    fn signal(&self, signal: i32) {
        // Until it is waited for, the pid is its own.
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid as i32));
        if let (Some(pid), Some(signal)) = (pid, Signal::from_named_raw(signal)) {
            // It may have ended a moment ago, which is what was wanted.
            let _ = kill_process(pid, signal);
        }
    }
}

/// 128 and the signal's number for one that a signal ended, as shells do.
fn code(status: ExitStatus) -> u8 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .and_then(|code| u8::try_from(code).ok())
        .unwrap_or(u8::MAX)
}

/// Whether we are in the foreground process group of our terminal: then its Ctrl-C goes to the
/// command (which shares the group) as well as to us.
fn in_foreground() -> bool {
    open("/dev/tty", OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
        .and_then(tcgetpgrp)
        .is_ok_and(|group| group == getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(code(ExitStatus::from_raw(0)), 0);
        assert_eq!(code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(code(ExitStatus::from_raw(libc::SIGKILL)), 137);
    }
}
