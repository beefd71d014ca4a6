//! A pid that is reused at once, by a worker of another session.
//!
//! Runs in guests of `cargo xtask vm`.

use std::{
    ffi::{CString, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    ptr,
    time::Duration,
};

use slashtrace::model::{Body, Kind, ParentSource};
use slashtrace_tests::{Program, Recording, Step, host, program::ORDERS, recorded};

/// `struct clone_args` of clone3(2) up to `set_tid_size`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
}

/// Starts `program` with this pid and waits for its end.
fn run_as(pid: u32, program: &Program) -> io::Result<()> {
    let c_string = |bytes: &[u8]| CString::new(bytes).expect("no NUL");
    let binary = c_string(host::subject().as_os_str().as_bytes());
    let argv: Vec<CString> = program.argv.iter().map(|token| c_string(token)).collect();
    let mut orders = OsString::from(format!("{ORDERS}="));
    orders.push(serde_json::to_string(&program.steps).expect("orders are plain data"));
    let environment = [c_string(orders.as_bytes())];
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv_pointers, environment_pointers) = (pointers(&argv), pointers(&environment));

    let tid: libc::pid_t = pid.cast_signed();
    let args = CloneArgs {
        exit_signal: libc::SIGCHLD as u64,
        set_tid: (&raw const tid) as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    // SAFETY: the arguments are as clone3(2) describes them. The child has a copy of this memory,
    // and calls nothing but execve and _exit, on what was prepared before.
    let child = unsafe {
        let child = libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>());
        if child == 0 {
            libc::execve(binary.as_ptr(), argv_pointers.as_ptr(), environment_pointers.as_ptr());
            libc::_exit(127);
        }
        child
    };
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    assert_eq!(child, i64::from(pid));
    let mut status = 0;
    // SAFETY: the status is valid for writing.
    let reaped = unsafe { libc::waitpid(tid, &raw mut status, 0) };
    assert_eq!(reaped, tid, "{}", io::Error::last_os_error());
    Ok(())
}

#[test]
fn a_reused_pid_is_another_worker() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    // The pid of a process that has just ended; another one may take it in between, then again.
    let mut reused = None;
    for _ in 0..50 {
        let first = recording.worker("first", vec![Step::Exit(1)]);
        let pid = Program::new("ended", Vec::new()).run();
        match run_as(pid, &first) {
            Ok(()) => {
                let second = recording.worker("second", vec![Step::Exit(2)]);
                run_as(pid, &second).expect("nobody else takes pids as fast");
                reused = Some(pid);
                break;
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => {
                host::skip(&format!("clone3 with set_tid is refused: {error}"));
                return;
            }
        }
    }
    let pid = reused.expect("one of 50 pids is free");
    let recorded = recording.stop();

    let (first, second) = (recorded.worker("first"), recorded.worker("second"));
    assert_eq!((first.pid, second.pid), (pid, pid));
    assert!(second.start_ns > first.start_ns, "{} {}", first.start_ns, second.start_ns);
    assert_eq!(recorded.exit_of(first.identity()).code, Some(1));
    assert_eq!(recorded.exit_of(second.identity()).code, Some(2));
    for worker in [first, second] {
        let parent = worker.parent.as_ref().expect("the forker is known");
        assert_eq!((parent.process.pid, parent.how), (std::process::id(), ParentSource::Fork));
    }
    assert!(recorded.opened(Kind::DuplicateWorker).is_empty(), "{recorded}");
}

#[test]
fn a_reused_pid_of_a_gateway_is_nobody() {
    if !host::may_load_kernel_programs() {
        return;
    }
    let recording = Recording::start();
    // The launcher is gone when its child executes the worker, and its pid is then a stranger's.
    let worker = recording.worker("left", vec![Step::Sleep(500)]);
    let launcher = Program::new(
        "launcher",
        vec![Step::Fork(vec![Step::Sleep(500), Step::Exec(worker)]), Step::Exit(0)],
    );
    let pid = launcher.run();
    recording.wait_for("the worker", Duration::from_secs(30), |records| {
        !recorded::workers(records).is_empty()
    });
    let stranger = Program::new("stranger", vec![Step::Exit(3)]);
    match run_as(pid, &stranger) {
        Ok(()) => {}
        Err(error) => return host::skip(&format!("the pid cannot be had again: {error}")),
    }
    recording.wait_for("the worker's end", Duration::from_secs(30), |records| {
        records.iter().any(|record| matches!(record.body, Body::Exit(_)))
    });
    let recorded = recording.stop();

    let parent = recorded.worker("left").parent.as_ref().expect("the forker is known");
    assert_eq!((parent.process.pid, parent.gone), (pid, true));
    assert!(recorded.exits().iter().all(|exit| exit.pid != pid), "{recorded}");
    // This process, which forked that one.
    assert_eq!(recorded.counter("tracked"), 1);
}
