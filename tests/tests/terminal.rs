//! Terminals: the close of a master is seen when it happens, and named only where it matters.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use slashtrace::model::{Body, Record, TerminalEvent, TerminalState};
use slashtrace_tests::{Setup, host};
use tempfile::TempDir;

/// More than it takes to look at it twice.
const SOON: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that opens a PTY, runs a worker on it, closes the master at `close`, opens another
/// PTY (of the same index) and runs a worker on that, and exits at the next line.
const SCRIPT: &str = r#"
import fcntl, os, pty, signal, subprocess, sys, termios
def worker(key):
    master, slave = pty.openpty()
    def lead():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-m", sys.argv[1], "--session-key", key],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, preexec_fn=lead)
    print(os.ttyname(slave).rsplit("/")[-1], flush=True)
    os.close(slave)
    return master, child
master, one = worker("first")
input()
os.close(master)
_, two = worker("second")
input()
os.close(_)
one.kill(), two.kill()
"#;

fn terminals(records: &[Record]) -> Vec<&TerminalEvent> {
    let bodies = records.iter().filter_map(|record| match &record.body {
        Body::Terminal(event) => Some(&**event),
        _ => None,
    });
    bodies.collect()
}

fn closes(records: &[Record]) -> Vec<&TerminalEvent> {
    terminals(records).into_iter().filter(|one| one.state == TerminalState::Closed).collect()
}

/// A container: a mount namespace with a devpts of its own.
const CONTAINER: &str =
    "mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts && exec \"$@\"";

/// Watches what happens on terminals; returns the instances of devpts that they were on.
fn watch(setup: Setup, in_container: bool) -> Vec<u64> {
    let setup = setup.flag("--sample-interval=500ms");
    let token = setup.token().to_owned();
    let recording = setup.start();
    let mut holder = Command::new(if in_container { "unshare" } else { "python3" });
    if in_container {
        holder.args(["-m", "sh", "-c", CONTAINER, "sh", "python3"]);
    }
    let mut holder = holder
        .args(["-c", SCRIPT, &token])
        .env("PYTHONPATH", modules(&token).path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 runs");
    let mut lines = BufReader::new(holder.stdout.take().expect("a pipe")).lines();
    let mut index = || -> u32 {
        lines.next().expect("a line").expect("that can be read").parse().expect("an index")
    };
    let mut stdin = holder.stdin.take().expect("a pipe");

    let first = index();
    recording.wait_for("the first terminal", PATIENCE, |records| {
        terminals(records).iter().any(|one| one.index == first)
    });
    thread::sleep(SOON);
    assert!(closes(&recording.so_far()).is_empty(), "it is open");
    writeln!(stdin, "close").expect("it reads");
    recording.wait_for("its close", PATIENCE, |records| closes(records).len() == 1);

    let second = index();
    recording.wait_for("the second terminal", PATIENCE, |records| {
        let mut opened: Vec<u64> = terminals(records).iter().map(|one| one.opened_ns).collect();
        opened.dedup();
        opened.len() == 2
    });
    writeln!(stdin, "end").expect("it reads");
    recording.wait_for("the end of its holder", PATIENCE, |records| closes(records).len() == 2);
    assert!(holder.wait().expect("a child can be waited for").success());
    let recorded = recording.stop();
    let closed: Vec<u32> = closes(&recorded.records).iter().map(|one| one.index).collect();
    assert_eq!(closed, [first, second]);
    closes(&recorded.records).iter().map(|one| one.instance).collect()
}

/// A folder with the bundled worker under the name of this recording.
fn modules(token: &str) -> &'static TempDir {
    let folder = Box::leak(Box::new(tempfile::tempdir().expect("a folder")));
    let (package, module) = token.split_once('.').expect("a module in a package");
    let package = folder.path().join(package);
    fs::create_dir(&package).expect("a package");
    let worker = host::fixture("leaky_gateway/tui_gateway/slash_worker.py");
    fs::copy(worker, package.join(format!("{module}.py"))).expect("the worker is copied");
    folder
}

#[test]
fn a_close_is_seen_at_once_and_a_reused_index_is_another_terminal() {
    if host::may_load_kernel_programs() {
        watch(Setup::ebpf(), false);
    }
}

#[test]
fn terminals_of_a_container_are_seen_too() {
    if host::may_load_kernel_programs() {
        let ours = rustix::fs::stat("/dev/pts").expect("a devpts").st_dev;
        let theirs = watch(Setup::ebpf(), true);
        assert!(theirs.iter().all(|&instance| instance != ours), "{theirs:?}, ours {ours}");
    }
}

#[test]
fn the_poll_sensor_sees_the_same() {
    if rustix::process::geteuid().is_root() {
        watch(Setup::poll_as(0), false);
    } else {
        host::skip("not root: /proc/PID/root of the workers cannot be looked at");
    }
}
