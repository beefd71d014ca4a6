//! Real processes, whose gateway is this one.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::model::Sockets;

/// Real workers, sampled at made-up whole seconds.
struct Real {
    sampler: Sampler,
    book: IdentityBook,
    second: u64,
    children: Vec<Child>,
    seen: HashMap<u32, Sample>,
}

impl Drop for Real {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().expect("it is a child");
            child.wait().expect("it is a child");
        }
    }
}

impl Real {
    fn new() -> Self {
        let proc = ProcFs::default();
        Self {
            book: IdentityBook::new(proc.tick_ns()),
            sampler: Sampler::new(proc),
            second: 0,
            children: Vec::new(),
            seen: HashMap::new(),
        }
    }

    fn identity(&mut self, pid: u32) -> Identity {
        let stat = ProcFs::default().stat(pid).unwrap().expect("it lives");
        self.book.proc(pid, stat.start_ns)
    }

    /// Tracks a worker of this process.
    fn worker(&mut self, pid: u32) -> Identity {
        let (worker, gateway) = (self.identity(pid), self.identity(std::process::id()));
        self.sampler.track(worker, Role::Worker, Some(gateway));
        worker
    }

    /// Starts a worker.
    fn start(&mut self, command: &mut Command) -> u32 {
        let child = command.spawn().expect("it is installed");
        let pid = child.id();
        self.children.push(child);
        self.worker(pid);
        pid
    }

    /// Samples until what is known of the worker is so.
    fn until(&mut self, pid: u32, what: &str, is_so: impl Fn(&Sample) -> bool) -> Sample {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while std::time::Instant::now() < end {
            self.round();
            if let Some(sample) = self.seen.get(&pid).filter(|sample| is_so(sample)) {
                return sample.clone();
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{what} was not seen of {pid}: {:?}", self.seen.get(&pid));
    }

    fn round(&mut self) {
        self.second += 2;
        let now_ns = self.second * SECOND;
        for one in self.sampler.sample(now_ns, &mut self.book, &|_| None).observations {
            let Body::Sample(sample) = one.body else { continue };
            let known = self.seen.entry(sample.pid).or_insert_with(|| sample.clone());
            known.stdin = sample.stdin.or(known.stdin);
            known.output = sample.output.or(known.output);
            known.waits |= sample.waits;
            known.cpu_ms = sample.cpu_ms.or(known.cpu_ms);
            known.syscr_below = sample.syscr_below.or(known.syscr_below);
            known.sockets = sample.sockets.or(known.sockets);
        }
    }

    fn until_stdin(&mut self, pid: u32, state: StdinState) -> StdinPeer {
        let is_so = |sample: &Sample| sample.stdin.is_some_and(|stdin| stdin.state == state);
        self.until(pid, "its stdin", is_so).stdin.unwrap()
    }

    fn until_output(&mut self, pid: u32, state: OutputState) {
        let is_so = |sample: &Sample| sample.output.is_some_and(|output| output.state == state);
        self.until(pid, "its output", is_so);
    }
}

fn sleeper() -> Command {
    let mut command = Command::new("sleep");
    command.arg("60").stdin(Stdio::null()).stdout(Stdio::null());
    command
}

#[test]
fn a_pipe_is_held_and_then_closed_and_its_output_is_read_and_then_not() {
    let mut real = Real::new();
    let pid = real.start(sleeper().stdin(Stdio::piped()).stdout(Stdio::piped()));
    let stdin = real.until_stdin(pid, StdinState::Held);
    assert_eq!(stdin.kind, Some(EndKind::Pipe));
    assert_eq!(stdin.holder.unwrap().pid, std::process::id());
    drop(real.children[0].stdin.take());
    real.until_stdin(pid, StdinState::Unheld);
    real.until_output(pid, OutputState::Read);
    drop(real.children[0].stdout.take());
    real.until_output(pid, OutputState::Unread);
}

/// A shell that waits for what it started, as `npm exec` and `sh -c` do.
#[test]
fn the_memory_of_a_launcher_is_read_with_its_worker_s() {
    use crate::{host::proc::snapshot_of, profile::Profile};
    let mut real = Real::new();
    let launcher = Command::new("sh")
        .args(["-c", "sleep 61.5; :"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("it is installed");
    let pid = launcher.id();
    real.children.push(launcher);
    let proc = ProcFs::default();
    let started = |proc: &ProcFs| proc.children(pid).unwrap().first().copied();
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let spawn = loop {
        let text = "name = \"s\"\n[worker]\ntokens = [\"61.5\"]\nsession = \"none\"\n";
        let profile = Profile::parse(text).unwrap();
        let pids: Vec<u32> = started(&proc).into_iter().chain([pid]).collect();
        let spawns = snapshot_of(&proc, &profile, &mut real.book, &pids).unwrap();
        if let Some(spawn) = spawns.into_iter().find(|spawn| Some(spawn.pid) == started(&proc)) {
            break spawn;
        }
        assert!(std::time::Instant::now() < end, "it did not start");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    let parent = &spawn.parent.as_ref().unwrap().process;
    assert_eq!((parent.pid, parent.launcher.as_deref()), (pid, Some("sh -c")));
    real.sampler.track(spawn.identity(), Role::Worker, Some(parent.identity()));
    real.sampler.launched(&spawn);
    let sample = real.until(spawn.pid, "its memory", |it| it.launchers_rss_kib.is_some());
    let rss = |pid| proc.stat(pid).unwrap().unwrap().rss_kib;
    assert_eq!(sample.launchers_rss_kib, Some(rss(pid)));
    assert!(rss(pid) > 0 && sample.rss_kib.is_some());
    // It outlives the shell otherwise.
    let worker = rustix::process::Pid::from_raw(spawn.pid as i32).unwrap();
    rustix::process::kill_process(worker, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_pipe_that_was_closed_at_the_start_is_unheld() {
    let mut real = Real::new();
    let mut child = sleeper().stdin(Stdio::piped()).spawn().unwrap();
    drop(child.stdin.take());
    let pid = child.id();
    real.children.push(child);
    real.worker(pid);
    real.until_stdin(pid, StdinState::Unheld);
}

#[test]
fn the_peer_of_a_socket_pair_is_followed() {
    let mut real = Real::new();
    let (theirs, ours) = UnixStream::pair().unwrap();
    let (out_theirs, out_ours) = UnixStream::pair().unwrap();
    let mut command = sleeper();
    command.stdin(OwnedFd::from(theirs)).stdout(OwnedFd::from(out_theirs));
    let pid = real.start(&mut command);
    drop(command);
    let stdin = real.until_stdin(pid, StdinState::Held);
    assert_eq!(stdin.kind, Some(EndKind::Socket));
    assert_eq!(stdin.holder.unwrap().pid, std::process::id());
    real.until_output(pid, OutputState::Read);
    drop(ours);
    real.until_stdin(pid, StdinState::Unheld);
    real.until_output(pid, OutputState::Read);
    drop(out_ours);
    real.until_output(pid, OutputState::Unread);
}

#[test]
fn a_peer_that_sends_no_more_has_let_go() {
    let mut real = Real::new();
    let (theirs, ours) = UnixStream::pair().unwrap();
    let pid = real.start(sleeper().stdin(OwnedFd::from(theirs)));
    real.until_stdin(pid, StdinState::Held);
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    real.until_stdin(pid, StdinState::Unheld);
}

#[test]
fn an_end_that_a_sibling_inherited_is_inherited() {
    let mut real = Real::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let first = real.start(sleeper().stdin(reader));
    let second = real.start(sleeper().stderr(writer.try_clone().unwrap()));
    real.until_stdin(first, StdinState::Held);
    drop(writer);
    let stdin = real.until_stdin(first, StdinState::Inherited);
    assert_eq!(stdin.holder.unwrap().pid, second);
    let mut ended = real.children.pop().unwrap();
    let identity = real.identity(second);
    ended.kill().unwrap();
    ended.wait().unwrap();
    real.sampler.exited(identity);
    real.until_stdin(first, StdinState::Unheld);
}

/// Its main thread closes the write end, of which another thread has a copy in a table of its own,
/// until a line comes.
const OWN_TABLE: &str = "
import ctypes, os, subprocess, sys, threading
reader, writer = os.pipe()
worker = subprocess.Popen(['sleep', '60'], stdin=reader, stdout=subprocess.DEVNULL)
os.close(reader)
unshared, closed = threading.Event(), threading.Event()
def own():
    assert ctypes.CDLL(None, use_errno=True).unshare(0x400) == 0
    unshared.set()
    closed.wait()
thread = threading.Thread(target=own)
thread.start()
unshared.wait()
os.close(writer)
print(worker.pid, flush=True)
sys.stdin.readline()
closed.set()
thread.join()
print('over', flush=True)
sys.stdin.readline()
worker.kill()
worker.wait()
";

/// Runs a Python program and gives the pid that it prints, and its output.
fn python(real: &mut Real, program: &str) -> (u32, BufReader<std::process::ChildStdout>) {
    let mut command = Command::new("python3");
    command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 is installed");
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    real.children.push(child);
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    (line.trim().parse().unwrap_or(0), lines)
}

#[test]
fn a_thread_with_a_table_of_its_own_holds_too() {
    let mut real = Real::new();
    let (pid, mut lines) = python(&mut real, OWN_TABLE);
    let gateway = real.children[0].id();
    let (worker, above) = (real.identity(pid), real.identity(gateway));
    real.sampler.track(worker, Role::Worker, Some(above));
    let stdin = real.until_stdin(pid, StdinState::Held);
    assert_eq!(stdin.holder.unwrap().pid, gateway);
    let mut to = real.children[0].stdin.take().unwrap();
    to.write_all(b"\n").unwrap();
    lines.read_line(&mut String::new()).unwrap();
    real.until_stdin(pid, StdinState::Unheld);
    to.write_all(b"\n").unwrap();
    real.children[0].wait().unwrap();
}

/// Its main thread ends, and another one runs on.
const NO_LEADER: &str = "
import ctypes, os, platform, sys, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print(os.getpid(), flush=True)
ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)
";

#[test]
fn a_worker_whose_main_thread_ended_has_a_stdin() {
    let mut real = Real::new();
    let (pid, _lines) = python(&mut real, NO_LEADER);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let state = || ProcFs::default().stat(pid).unwrap().unwrap().state;
    while state() != 'Z' {
        assert!(std::time::Instant::now() < end);
    }
    real.worker(pid);
    real.until_stdin(pid, StdinState::Held);
    drop(real.children[0].stdin.take());
    real.until_stdin(pid, StdinState::Unheld);
}

#[test]
fn who_waits_for_its_stdin_is_seen_to() {
    let mut real = Real::new();
    let mut start = |program: &str| {
        let mut command = Command::new("python3");
        real.start(command.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::null()))
    };
    let sleeps = start("import time\ntime.sleep(60)");
    let waits = start("import sys\nfor line in sys.stdin: pass");
    real.until(waits, "that it waits", |sample| sample.waits);
    // As often again, for the other one.
    let rounds = real.second;
    while real.second < 2 * rounds + 60 {
        real.round();
    }
    assert!(!real.seen[&sleeps].waits);
}

/// Its child reads lines and says so; it only waits for the child.
const WRAPPER: &str = "
import subprocess, sys
child = 'import sys\\nprint(flush=True)\\nfor line in sys.stdin: print(sum(range(10**6)), flush=True)'
server = subprocess.Popen([sys.executable, '-c', child])
print(server.pid, flush=True)
server.wait()
";

#[test]
fn what_a_wrapper_s_child_does_is_its_work() {
    let mut real = Real::new();
    let (child, mut lines) = python(&mut real, WRAPPER);
    let pid = real.children[0].id();
    let worker = real.worker(pid);
    let server = real.identity(child);
    real.sampler.track(server, Role::Descendant, Some(worker));
    lines.read_line(&mut String::new()).unwrap();
    let before = real.until(pid, "what its child read", |sample| sample.syscr_below.is_some());
    let (below, cpu_ms) = (before.syscr_below.unwrap(), before.cpu_ms.unwrap());
    let to = real.children[0].stdin.as_mut().unwrap();
    to.write_all(&[b'\n'; 20]).unwrap();
    for _ in 0..20 {
        lines.read_line(&mut String::new()).unwrap();
    }
    let worked =
        |sample: &Sample| sample.syscr_below.unwrap() > below && sample.cpu_ms.unwrap() > cpu_ms;
    real.until(pid, "its child's work", worked);
}

/// Listens on a Unix socket and on a TCP port, and does to connections what lines say.
const SERVER: &str = "
import os, socket, sys
path = sys.argv[1]
unix = socket.socket(socket.AF_UNIX); unix.bind(path); unix.listen()
tcp = socket.socket(); tcp.bind(('127.0.0.1', 0)); tcp.listen()
print(os.getpid(), flush=True)
print(tcp.getsockname()[1], flush=True)
kept = []
for line in sys.stdin:
    what, *to = line.split()
    if what == 'unix': kept.append(unix.accept()[0])
    elif what == 'tcp': kept.append(tcp.accept()[0])
    elif what == 'out': kept.append(socket.create_connection(('127.0.0.1', int(to[0]))))
    elif what == 'itself':
        kept.append(socket.create_connection(tcp.getsockname())); kept.append(tcp.accept()[0])
        kept.extend(socket.socketpair())
    elif what == 'deaf': unix.close(); tcp.close()
    print(flush=True)
";

struct Server {
    to: std::process::ChildStdin,
    lines: BufReader<std::process::ChildStdout>,
}

impl Server {
    fn asked(&mut self, what: &str) {
        writeln!(self.to, "{what}").unwrap();
        self.lines.read_line(&mut String::new()).unwrap();
    }
}

impl Real {
    fn until_sockets(&mut self, pid: u32, listening: u32, connected: u32) {
        let wanted = Sockets { listening, connected, complete: true };
        let what = format!("{wanted:?}");
        self.until(pid, &what, |sample| sample.sockets == Some(wanted));
    }
}

#[test]
fn sockets_that_a_worker_may_be_spoken_to_by_are_counted() {
    use std::net::{TcpListener, TcpStream};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("worker");
    let mut real = Real::new();
    real.sampler.sockets = Some(SocketWatch::new(&ProcFs::default()));
    let mut command = Command::new("python3");
    command.args(["-c", SERVER]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 is installed");
    let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let pid = child.id();
    real.children.push(child);
    let mut server = Server { to, lines: BufReader::new(from) };
    let mut port = String::new();
    server.lines.read_line(&mut String::new()).unwrap();
    server.lines.read_line(&mut port).unwrap();
    let worker = real.worker(pid);
    real.until_sockets(pid, 2, 0);

    server.asked("itself");
    let unix = UnixStream::connect(&path).unwrap();
    server.asked("unix");
    real.until_sockets(pid, 2, 1);
    let tcp = TcpStream::connect(("127.0.0.1", port.trim().parse().unwrap())).unwrap();
    server.asked("tcp");
    real.until_sockets(pid, 2, 2);
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    server.asked(&format!("out {}", elsewhere.local_addr().unwrap().port()));
    let (accepted, _) = elsewhere.accept().unwrap();
    real.until_sockets(pid, 2, 3);

    // As a descendant of another worker only what serves counts.
    let wrapper = real.start(sleeper().stdin(Stdio::piped()));
    let (above, below) = (real.identity(wrapper), worker);
    real.sampler.untrack(below);
    real.sampler.track(below, Role::Descendant, Some(above));
    real.until_sockets(wrapper, 2, 2);
    drop((unix, tcp, accepted));
    server.asked("deaf");
    real.until_sockets(wrapper, 0, 0);
}

#[test]
fn a_worker_without_sockets_has_none() {
    let mut real = Real::new();
    real.sampler.sockets = Some(SocketWatch::new(&ProcFs::default()));
    let (theirs, _ours) = UnixStream::pair().unwrap();
    let pid = real.start(sleeper().stdin(OwnedFd::from(theirs)));
    real.until_sockets(pid, 0, 0);
    assert_eq!(real.sampler.sockets.as_mut().unwrap().censuses(), 0);
}
