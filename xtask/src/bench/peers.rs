//! Other ways to learn of processes, from packages of Debian: bpftrace, forkstat, `ps | awk`.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Bench, process};
use crate::apt;

/// A way to learn of processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    /// A script that prints argv at execve and each exit.
    Bpftrace,
    /// The kernel's process events by netlink.
    Forkstat,
    /// Every second the list of all processes.
    Ps,
}

const BPFTRACE: &str = "tracepoint:syscalls:sys_enter_execve { printf(\"exec %d \", pid); \
                        join(args->argv); } \
                        tracepoint:sched:sched_process_exit { printf(\"exit %d\\n\", pid); }";
/// The token is in the environment, or the shell would find itself.
const PS: &str = "while :; do ps -eo pid,args | \
                  awk '$2 ~ /worker$/ && index($0, ENVIRON[\"TOKEN\"]) { print $1 }'; sleep 1; done";

impl Peer {
    /// All that can be had here; a line on stderr for each that cannot.
    pub(crate) fn provide() -> Result<Vec<Self>> {
        let mut peers = Vec::new();
        for peer in [Self::Bpftrace, Self::Forkstat, Self::Ps] {
            let needed = match peer {
                Self::Bpftrace => ("bpftrace", "bpftrace"),
                Self::Forkstat => ("forkstat", "forkstat"),
                Self::Ps => ("ps", "procps"),
            };
            match apt::provide(&[needed])? {
                None => peers.push(peer),
                Some(why) => eprintln!("    SKIPPED {}: {why}", peer.name()),
            }
        }
        Ok(peers)
    }

    /// What the table calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Bpftrace => "bpftrace",
            Self::Forkstat => "forkstat",
            Self::Ps => "ps|awk each 1 s",
        }
    }

    /// Starts it and waits until it watches.
    pub(crate) fn start(self, bench: &Bench) -> Result<Watching> {
        let file = bench.folder.join("peer.txt");
        let mut command = match self {
            Self::Bpftrace => {
                let mut command = Command::new("bpftrace");
                command.args(["-e", BPFTRACE]);
                command
            }
            Self::Forkstat => {
                let mut command = Command::new("forkstat");
                command.args(["-e", "exec,exit"]);
                command
            }
            Self::Ps => {
                let mut command = Command::new("sh");
                command.args(["-c", PS]).env("TOKEN", &bench.token);
                command
            }
        };
        let output = fs::File::create(&file).context("cannot write a peer's output")?;
        command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {}", self.name()))?;
        let watching = Watching { peer: self, child, file };
        let begun = Instant::now();
        while self == Self::Bpftrace && process::programs(watching.pid()).len() < 2 {
            ensure!(begun.elapsed() < Duration::from_secs(30), "bpftrace does not attach");
            thread::sleep(Duration::from_millis(50));
        }
        // The last steps to watching are not seen from outside.
        thread::sleep(Duration::from_secs(1));
        Ok(watching)
    }
}

/// A peer that runs.
pub(crate) struct Watching {
    peer: Peer,
    child: Child,
    file: PathBuf,
}

impl Watching {
    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its CPU time, user and system, and that of what it started, ns.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        let (user, system) = process::times_ns(self.pid())?;
        Ok(user + system)
    }

    /// Ends it; of how many execs of a worker it shows pid and token.
    pub(crate) fn stop(mut self, token: &str) -> Result<u64> {
        // As from a terminal: what they hold back is written then.
        process::signal(if self.peer == Peer::Ps { "-TERM" } else { "-INT" }, self.pid())?;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "{} does not end", self.peer.name());
            thread::sleep(Duration::from_millis(20));
        }
        let text = fs::read(&self.file)?;
        Ok(shown(self.peer, &String::from_utf8_lossy(&text), token))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shown(peer: Peer, text: &str, token: &str) -> u64 {
    match peer {
        Peer::Bpftrace => {
            text.lines().filter(|l| l.starts_with("exec ") && l.contains(token)).count() as u64
        }
        Peer::Forkstat => {
            text.lines().filter(|l| l.contains(" exec ") && l.contains(token)).count() as u64
        }
        Peer::Ps => text.lines().collect::<BTreeSet<_>>().len() as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_shows_is_a_worker_with_its_token() {
        let traced = "Attaching 2 probes...\nexec 7 /w -m tok --session-key a\nexit 7\nexec 8 ls\n";
        assert_eq!(shown(Peer::Bpftrace, traced, "tok"), 1);
        let forkstat = "Time Event PID\n10:00:00 exec    7  worker -m tok\n10:00:00 exit 7 tok\n";
        assert_eq!(shown(Peer::Forkstat, forkstat, "tok"), 1);
        assert_eq!(shown(Peer::Ps, "7\n8\n7\n", "tok"), 2);
    }
}
