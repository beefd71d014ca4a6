//! The kernel's table of tracked processes: who is dead by the time a worker executes leaves
//! nothing in it, however it came to be the worker's forker; who ends while it is put there ends once.

use std::{
    ffi::{CString, OsString, c_int, c_long},
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    process, ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use slashtrace::model::{Body, ParentSource, Role};
use slashtrace_tests::{Program, Recording, Setup, Step, host, program::ORDERS, recorded};

const LIVES: usize = 2_000;
const PATIENCE: Duration = Duration::from_mins(3);

/// A program that can be executed after fork(2), where nothing may be allocated.
struct Prepared {
    _strings: Vec<CString>,
    binary: CString,
    argv: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
}

impl Prepared {
    fn new(program: &Program) -> Self {
        let c_string = |bytes: &[u8]| CString::new(bytes).expect("no NUL");
        let mut orders = OsString::from(format!("{ORDERS}="));
        orders.push(serde_json::to_string(&program.steps).expect("orders are plain data"));
        let mut strings: Vec<CString> = program.argv.iter().map(|token| c_string(token)).collect();
        let argv = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        let orders = c_string(orders.as_bytes());
        let environment = vec![orders.as_ptr(), ptr::null()];
        strings.push(orders);
        let binary = c_string(host::subject().as_os_str().as_bytes());
        Self { _strings: strings, binary, argv, environment }
    }

    /// Executes it; does not return.
    fn execute(&self) -> ! {
        // SAFETY: pointers to NUL-terminated strings in arrays that end with a null pointer.
        unsafe {
            libc::execve(self.binary.as_ptr(), self.argv.as_ptr(), self.environment.as_ptr());
            libc::_exit(127)
        }
    }
}

fn wait_for_end(pid: c_int) {
    let mut status = 0;
    // SAFETY: the status is valid for writing.
    let reaped = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!((reaped, status), (pid, 0), "{}", io::Error::last_os_error());
}

/// Starts the program from a process that is gone before the program is executed, as a launcher
/// does that forks twice. Returns the pid of the one that is gone.
fn launch(program: &Prepared) -> u32 {
    // SAFETY: the children call nothing but fork, getppid, sched_yield, execve and _exit.
    let forker = unsafe { libc::fork() };
    if forker == 0 {
        // SAFETY: as above.
        unsafe {
            let forker = libc::getpid();
            if libc::fork() == 0 {
                while libc::getppid() == forker {
                    libc::sched_yield();
                }
                program.execute();
            }
            libc::_exit(0);
        }
    }
    assert!(forker > 0, "{}", io::Error::last_os_error());
    wait_for_end(forker);
    forker.cast_unsigned()
}

fn exited_workers(records: &[slashtrace::model::Record]) -> usize {
    let is_worker = |body: &Body| matches!(body, Body::Exit(exit) if exit.role == Role::Worker);
    records.iter().filter(|record| is_worker(&record.body)).count()
}

#[test]
fn two_thousand_double_forked_lives_leave_nothing_in_the_table() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let worker = Prepared::new(&recording.worker("twice_forked", Vec::new()));
    let forkers: Vec<u32> = (0..LIVES).map(|_| launch(&worker)).collect();
    recording
        .wait_for("the end of all workers", PATIENCE, |so_far| exited_workers(so_far) == LIVES);
    let recorded = recording.stop();

    let workers = recorded.workers();
    assert_eq!(workers.len(), LIVES);
    for worker in &workers {
        let parent = worker.parent.as_ref().expect("the forker is known");
        assert!(parent.gone && parent.how == ParentSource::Fork, "{parent:?}");
        assert!(forkers.contains(&parent.process.pid), "{parent:?}");
    }
    // Nobody but the workers was tracked, and they have ended; but for this process, which forked
    // their forkers and so is their gateway.
    assert_eq!(recorded.exits().len(), LIVES);
    assert_eq!((recorded.counter("tracked"), recorded.counter("stale-entry")), (1, 0));
}

#[test]
fn a_dead_forker_of_a_sibling_is_not_tracked() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let worker = Prepared::new(&recording.worker("sibling", Vec::new()));
    let (reader, writer) = io::pipe().expect("a pipe");
    // SAFETY: the children call nothing but clone, read, execve and _exit.
    let forker = unsafe { libc::fork() };
    if forker == 0 {
        let flags = c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
        // SAFETY: as above; without a stack the child runs on a copy of this one, as after fork.
        unsafe {
            if libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) == 0 {
                let mut byte = 0_u8;
                libc::read(reader.as_raw_fd(), (&raw mut byte).cast(), 1);
                worker.execute();
            }
            libc::_exit(0);
        }
    }
    wait_for_end(forker);
    io::Write::write_all(&mut &writer, b"x").expect("the worker reads it");
    recording.wait_for("the worker's end", PATIENCE, |so_far| exited_workers(so_far) == 1);
    let recorded = recording.stop();

    let parent = recorded.worker("sibling").parent.as_ref().expect("the forker is known");
    // Who clones a sibling passes it on to its own parent, which uses it.
    assert_eq!((parent.process.pid, parent.gone), (process::id(), false), "{parent:?}");
    assert!(recorded.exits().iter().all(|exit| exit.pid != forker.cast_unsigned()), "{recorded}");
}

#[test]
fn a_living_forker_of_a_sibling_is_not_its_gateway() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    let worker = Prepared::new(&recording.worker("sibling", vec![Step::Sleep(500)]));
    // SAFETY: the children call nothing but clone, usleep, execve and _exit.
    let forker = unsafe { libc::fork() };
    if forker == 0 {
        let flags = c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
        // SAFETY: as above.
        unsafe {
            if libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) == 0 {
                worker.execute();
            }
            libc::usleep(1_500_000);
            libc::_exit(0);
        }
    }
    wait_for_end(forker);
    recording.wait_for("the worker's end", PATIENCE, |so_far| exited_workers(so_far) == 1);
    let recorded = recording.stop();

    let parent = recorded.worker("sibling").parent.as_ref().expect("the forker is known");
    assert_eq!((parent.process.pid, parent.gone), (process::id(), false), "{parent:?}");
    assert!(recorded.exits().iter().all(|exit| exit.pid != forker.cast_unsigned()), "{recorded}");
}

/// This process and those above it, pid 1 left out.
fn chain() -> u64 {
    let parent = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    std::iter::successors(Some(process::id()), |pid| parent(*pid))
        .take_while(|pid| *pid > 1)
        .map(|_| 1)
        .sum()
}

#[test]
fn who_ends_while_it_is_adopted_ends_once() {
    if !host::may_load_kernel_programs() {
        return;
    }
    for round in 0..3 {
        let setup = Setup::ebpf();
        let brief = setup.worker("brief", vec![Step::Sleep(5)]);
        let enough = AtomicBool::new(false);
        // They come and go while it starts, so some end while they are put into its table.
        let recording = thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !enough.load(Ordering::Relaxed) {
                        brief.run();
                    }
                });
            }
            let recording = setup.start();
            recording.wait_for("lives after the start", PATIENCE, |so_far| {
                exited_workers(so_far) >= 100
            });
            enough.store(true, Ordering::Relaxed);
            recording
        });
        recording.wait_for("the end of all workers", PATIENCE, |so_far| {
            exited_workers(so_far) == recorded::workers(so_far).len()
        });
        let recorded = recording.stop();

        for worker in recorded.workers() {
            recorded.exit_of(worker.identity());
        }
        let inherited = recorded.workers().iter().filter(|worker| worker.inherited).count();
        println!("round {round}: {inherited} of {} were there", recorded.workers().len());
        assert!(recorded.counter("tracked") <= chain(), "{recorded}");
        assert_eq!(recorded.counter("stale-entry"), 0);
    }
}
