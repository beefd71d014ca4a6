//! Does what the environment variable `SUBJECT` orders and pays no attention to its arguments, so
//! that a test can give it any argv.

use std::{
    io::{Read as _, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    ptr, thread,
    time::Duration,
};

use slashtrace_tests::{Program, Step, program::ORDERS};

fn main() {
    let Some(orders) = std::env::var_os(ORDERS) else { return };
    let orders = orders.into_string().expect("orders are UTF-8");
    let steps: Vec<Step> = serde_json::from_str(&orders).expect("orders are steps");
    run(steps);
}

fn run(steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Sleep(ms) => thread::sleep(Duration::from_millis(ms)),
            // SAFETY: ends the process without running anything of it.
            Step::Exit(code) => unsafe { libc::_exit(code.into()) },
            Step::Serve => serve(),
            Step::AwaitByte => std::io::stdin().read_exact(&mut [0]).expect("a byte on stdin"),
            Step::Spawn(program) => drop(spawn(&program)),
            Step::SpawnWithPipe(program) => {
                let mut child = command(&program);
                let child = child.stdin(Stdio::piped()).spawn().expect("a child starts");
                // Open until this process ends.
                std::mem::forget(child);
            }
            Step::OnTerminal(argv, ms) => on_terminal(&argv, ms),
            // SAFETY: ignoring a signal runs no code of ours.
            Step::IgnoreTerm => drop(unsafe { libc::signal(libc::SIGTERM, libc::SIG_IGN) }),
            // SAFETY: stops this process until somebody has it go on.
            Step::Stop => drop(unsafe { libc::raise(libc::SIGSTOP) }),
            Step::SpawnFromThread(program) => {
                drop(thread::spawn(move || spawn(&program)).join().expect("the thread ends"));
            }
            Step::Fork(steps) => fork(steps),
            Step::ForkMany(count) => (0..count).for_each(|_| fork_sleeper()),
            Step::Descriptors(count) => open_descriptors(count),
            Step::CloseDescriptors => {
                // SAFETY: nothing of this process uses a descriptor beyond stderr again.
                unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
            }
            Step::ShareDescriptors(count) => (0..count).for_each(|_| share_with_sleeper()),
            Step::Continue(ms) => send_continue(Duration::from_millis(ms)),
            Step::Exec(program) => exec(&program),
            Step::ExecFromThread(program) => {
                drop(thread::spawn(move || exec(&program)).join());
            }
            Step::Threads(count) => {
                let threads: Vec<_> = (0..count).map(|_| thread::spawn(|| ())).collect();
                for thread in threads {
                    thread.join().expect("the thread ends");
                }
            }
            Step::LeaderEnds(ms, code) => leader_ends(ms, code),
            Step::User(id) => become_user(id),
            // SAFETY: sets a flag of this process.
            Step::Subreaper => drop(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }),
            Step::AwaitTerm => await_term(),
            // SAFETY: a null status is allowed.
            Step::Reap => while unsafe { libc::wait(ptr::null_mut()) } > 0 {},
        }
    }
}

fn command(program: &Program) -> Command {
    // Its own binary, also where it was copied elsewhere.
    let mut command = Command::new("/proc/self/exe");
    program.apply(&mut command);
    command
}

fn spawn(program: &Program) -> Child {
    command(program).spawn().expect("a child starts")
}

fn on_terminal(argv: &[String], ms: u64) {
    use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a PTY");
    unlockpt(&master).expect("it is ours");
    let slave = ptsname(&master, Vec::new()).expect("it has a name");
    let slave = slave.into_string().expect("of digits");
    println!("{slave} {}", std::process::id());
    let (first, rest) = argv.split_first().expect("an argv");
    let program = rest.iter().fold(Program::new(first, vec![Step::Sleep(60_000)]), Program::arg);
    let mut command = command(&program);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: only system calls.
    unsafe {
        command.pre_exec(move || {
            rustix::process::setsid()?;
            let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
            let terminal = rustix::fs::open(slave.as_str(), flags, rustix::fs::Mode::empty())?;
            rustix::process::ioctl_tiocsctty(&terminal)?;
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let mut child = command.spawn().expect("a child starts");
    thread::sleep(Duration::from_millis(ms));
    drop(master);
    thread::sleep(Duration::from_millis(500));
    child.kill().expect("it sleeps");
    child.wait().expect("a child can be waited for");
}

fn exec(program: &Program) {
    panic!("exec failed: {}", command(program).exec());
}

fn fork(steps: Vec<Step>) {
    // SAFETY: no other thread is running when a test orders this, so the child's memory is whole.
    match unsafe { libc::fork() } {
        0 => {
            run(steps);
            // SAFETY: ends the process without running anything of it.
            unsafe { libc::_exit(0) }
        }
        pid => assert!(pid > 0, "fork failed: {}", std::io::Error::last_os_error()),
    }
}

fn fork_sleeper() {
    // SAFETY: the child calls nothing but sleep and _exit.
    unsafe {
        match libc::fork() {
            0 => {
                libc::sleep(600);
                libc::_exit(0)
            }
            pid => assert!(pid > 0, "fork failed: {}", std::io::Error::last_os_error()),
        }
    }
}

fn open_descriptors(count: usize) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum");
    for _ in 0..count {
        // SAFETY: makes a descriptor that nobody else knows.
        let fd = unsafe { libc::fcntl(0, libc::F_DUPFD_CLOEXEC, 3) };
        assert!(fd > 0, "no descriptor: {}", std::io::Error::last_os_error());
    }
}

fn share_with_sleeper() {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without a stack and CLONE_VM the child goes on with a copy of this one's, as by fork(2);
    // it calls nothing but sleep and _exit.
    unsafe {
        match libc::syscall(libc::SYS_clone, libc::c_long::from(flags), 0, 0, 0, 0) {
            0 => {
                libc::sleep(600);
                libc::_exit(0)
            }
            pid => assert!(pid > 0, "clone failed: {}", std::io::Error::last_os_error()),
        }
    }
}

fn send_continue(time: Duration) {
    let end = std::time::Instant::now() + time;
    while std::time::Instant::now() < end {
        for _ in 0..1_000 {
            // SAFETY: to this process itself, which is running.
            unsafe { libc::kill(libc::getpid(), libc::SIGCONT) };
        }
    }
}

fn become_user(id: u32) {
    // SAFETY: no other thread is running when a test orders this.
    let changed = unsafe {
        libc::setgroups(0, ptr::null()) == 0
            && libc::setresgid(id, id, id) == 0
            && libc::setresuid(id, id, id) == 0
    };
    assert!(changed, "setresuid failed: {}", std::io::Error::last_os_error());
}

fn await_term() {
    // SAFETY: the set and the number are valid for writing, and the set is made before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut());
        libc::sigwait(&raw const set, &mut 0);
    }
}

/// One `read(2)` for one answer: nothing in between buffers.
fn serve() {
    let mut buffer = [0_u8; 4096];
    loop {
        // SAFETY: the buffer is as long as is said.
        let read = unsafe { libc::read(0, buffer.as_mut_ptr().cast(), buffer.len()) };
        if read <= 0 {
            return;
        }
        let mut stdout = std::io::stdout();
        stdout.write_all(b".").and_then(|()| stdout.flush()).expect("somebody reads the answer");
    }
}

fn leader_ends(ms: u64, code: u8) {
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(ms));
        // SAFETY: ends the process without running anything of it.
        unsafe { libc::_exit(code.into()) }
    });
    // SAFETY: `exit` rather than `exit_group` ends this thread alone; nothing of it is used again.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}
