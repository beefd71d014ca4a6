//! Programs to run: any argv, and what the process is to do. The orders travel in the environment,
//! so that argv can hold anything.

use std::{
    ffi::OsString,
    io::{self, Read as _, Write as _},
    os::unix::{ffi::OsStringExt as _, process::CommandExt as _},
    process::{Child, Command, ExitStatus, Stdio},
};

use serde::{Deserialize, Serialize};

use crate::host;

/// Environment variable with the orders, JSON.
pub const ORDERS: &str = "SUBJECT";

/// What a subject does, one step after the other; behind the last it exits with code 0.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Step {
    /// Sleeps so many milliseconds.
    Sleep(u64),
    /// Exits with this code.
    Exit(u8),
    /// Answers each read of stdin that returns data with one byte on stdout, until EOF.
    Serve,
    /// Waits for one byte on stdin.
    AwaitByte,
    /// Spawns a child as `posix_spawn(3)` does it (vfork and execve).
    Spawn(Program),
    /// The same, with a pipe to its stdin of which only this process has the other end.
    SpawnWithPipe(Program),
    /// Opens a PTY, spawns a program of this argv as the leader of a session on it, which outlives
    /// it and sleeps for a minute, and closes the PTY's master after so many milliseconds.
    OnTerminal(Vec<String>, u64),
    /// Ignores SIGTERM from now on, also behind an exec.
    IgnoreTerm,
    /// Stops itself (SIGSTOP).
    Stop,
    /// Spawns a child from a thread, which then ends.
    SpawnFromThread(Program),
    /// Forks a child that runs these steps, without exec.
    Fork(Vec<Step>),
    /// Forks so many children, which sleep until they are killed, or for ten minutes.
    ForkMany(usize),
    /// Opens so many descriptors more, which are not inherited by what it executes.
    Descriptors(usize),
    /// Closes all but stdin, stdout and stderr.
    CloseDescriptors,
    /// Starts so many children that share its table of descriptors (`CLONE_FILES`) and sleep until they
    /// are killed, or for ten minutes.
    ShareDescriptors(usize),
    /// Sends itself SIGCONT without end, for so many milliseconds.
    Continue(u64),
    /// Executes another program in this process.
    Exec(Program),
    /// The same from a thread other than the leader.
    ExecFromThread(Program),
    /// Runs so many threads to their end.
    Threads(usize),
    /// The leader ends; another thread ends the process so many milliseconds later, with this code.
    LeaderEnds(u64, u8),
    /// Reaps every child.
    Reap,
    /// Becomes this user and group, without a way back.
    User(u32),
    /// Adopts what its descendants leave behind (`PR_SET_CHILD_SUBREAPER`).
    Subreaper,
    /// Waits for SIGTERM, which is blocked from then on, also behind an exec.
    AwaitTerm,
}

/// An argv, and what the process is to do.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Program {
    /// argv, `argv[0]` included.
    pub argv: Vec<Vec<u8>>,
    /// The orders.
    pub steps: Vec<Step>,
}

impl Program {
    /// A program that is no worker.
    pub fn new(argv0: &str, steps: Vec<Step>) -> Self {
        Self { argv: vec![argv0.into()], steps }
    }

    /// With one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<[u8]>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// The command that runs it: the binary is `subject`, whatever `argv[0]` says.
    pub fn command(&self) -> Command {
        let mut command = Command::new(host::subject());
        self.apply(&mut command);
        command
    }

    /// Gives `command` this argv and these orders.
    pub fn apply(&self, command: &mut Command) {
        let mut argv = self.argv.iter().map(|token| OsString::from_vec(token.clone()));
        command.arg0(argv.next().unwrap_or_default()).args(argv);
        command.env(ORDERS, serde_json::to_string(&self.steps).expect("orders are plain data"));
    }

    /// Starts it as a child of this process, with pipes on stdin and stdout.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&self) -> Subject {
        Subject::of(&mut self.command())
    }

    /// Starts it and waits for its end; returns its pid.
    pub fn run(&self) -> u32 {
        let mut child = self.command().stdin(Stdio::null()).spawn().expect("subject runs");
        let pid = child.id();
        child.wait().expect("a child can be waited for");
        pid
    }

    /// Length of its argument area, bytes.
    pub fn argv_bytes(&self) -> u64 {
        self.argv.iter().map(|token| token.len() as u64 + 1).sum()
    }
}

/// A running child. It is killed and reaped when this goes away.
#[derive(Debug)]
pub struct Subject {
    child: Child,
}

impl Subject {
    /// A command that runs one, with pipes on stdin and stdout.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn of(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self { child: command.spawn().expect("subject runs: cargo builds it with the tests") }
    }

    /// Thread group id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the child is not reaped yet");
    }

    /// Lets a subject that waits for a byte go on.
    pub fn go_on(&mut self) {
        self.child.stdin.as_mut().expect("a pipe").write_all(b"\n").expect("the subject reads");
    }

    /// Has it read once, and waits for its answer.
    pub fn call(&mut self) {
        self.go_on();
        let mut answer = [0];
        self.child.stdout.as_mut().expect("a pipe").read_exact(&mut answer).expect("an answer");
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.close_stdin();
        self.child.wait().expect("a child can be waited for")
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let killed: io::Result<()> = self.child.kill();
        if killed.is_ok() {
            drop(self.child.wait());
        }
    }
}
