//! Sees to it that SIGINT and SIGTERM end the process, whatever the rest of it waits for: a thread of
//! its own looks whether a signal was taken up within a second.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pipe::{PipeFlags, pipe_with},
};

/// How long taking a signal up may take.
const PATIENCE: Duration = Duration::from_millis(900);
/// On a machine on which the start took longer than usual (100 to 200 ms), that many times as long as
/// it did: it is short of CPU or of memory, or emulated, and what waits there is not stuck.
const OF_THE_START: u32 = 4;
/// How long ending may take from there. Nothing in it waits for others without a bound, and on a
/// machine that is slow or in the middle of a storm it is what keeps the evidence whole.
const ENDING: Duration = Duration::from_secs(20);
/// How often the thread looks meanwhile.
const LOOK: Duration = Duration::from_millis(20);
/// Exit code of a process that is ended like this: the evidence has no `stop`.
const CODE: i32 = 3;

static SEEN: AtomicU32 = AtomicU32::new(0);
static TAKEN: AtomicU32 = AtomicU32::new(0);
/// When it was first watched.
static WATCHED: OnceLock<Instant> = OnceLock::new();
/// How long the start took from there.
static START: OnceLock<Duration> = OnceLock::new();

/// What is to have happened within a second of a signal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Promise {
    /// The process has ended.
    Ended,
    /// The recording was asked to end, or the command that it traces; reports may follow.
    TakenUp,
}

/// Has SIGINT and SIGTERM be what they are by default, whoever had them ignored or blocked: a script
/// does so for what it runs in the background. SIGHUP stays as it is (`nohup`).
pub fn heed_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the default action touches no memory.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut set = empty_set();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: `set` is an initialised set, and these are signals.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    // SAFETY: the kernel reads the set; the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut()) };
}

fn empty_set() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset(3) initialises what it is given.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Watches over SIGINT and SIGTERM from now on.
///
/// # Errors
/// If there is no descriptor, signal handler or thread to be had.
pub fn watch(promise: Promise) -> io::Result<()> {
    WATCHED.get_or_init(Instant::now);
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&write, true)?;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let write: OwnedFd = write.try_clone()?;
        let action = move || {
            SEEN.fetch_add(1, Ordering::SeqCst);
            // SAFETY: one byte is read from where one is; write(2) may be called in a handler, and a
            // full pipe, which wakes the thread as well, does not make it wait.
            unsafe { libc::write(write.as_raw_fd(), [0_u8].as_ptr().cast(), 1) };
        };
        // SAFETY: the action does nothing but an atomic addition and write(2), which
        // signal-safety(7) allows.
        unsafe { signal_hook_registry::register(signal, action) }?;
    }
    let watcher = thread::Builder::new().name("signals".to_owned()).stack_size(64 << 10);
    watcher.spawn(move || follow(File::from(read), promise))?;
    Ok(())
}

/// The sensors have started.
pub fn started() {
    if let Some(watched) = WATCHED.get() {
        START.get_or_init(|| watched.elapsed());
    }
}

/// How long taking a signal up may take on this machine.
fn patience(start: Option<Duration>) -> Duration {
    start.unwrap_or_default().saturating_mul(OF_THE_START).clamp(PATIENCE, ENDING)
}

/// The recording knows of the signals so far and does what they ask for.
pub(super) fn acknowledge() {
    TAKEN.store(SEEN.load(Ordering::SeqCst), Ordering::SeqCst);
}

/// Whether a signal has asked for an end.
pub fn is_asked_for() -> bool {
    SEEN.load(Ordering::SeqCst) > 0
}

/// The recording is over: what follows ends at once by a signal.
pub fn release() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the default action touches no memory.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn follow(mut signals: File, promise: Promise) {
    let mut byte = [0];
    while signals.read_exact(&mut byte).is_ok() {
        let began = Instant::now();
        let seen = SEEN.load(Ordering::SeqCst);
        loop {
            let taken = TAKEN.load(Ordering::SeqCst) >= seen;
            if taken && promise == Promise::TakenUp {
                break;
            }
            let most = if taken { ENDING } else { patience(START.get().copied()) };
            if began.elapsed() >= most {
                end(taken);
            }
            thread::sleep(LOOK);
        }
    }
}

/// Ends the process as it is.
fn end(taken: bool) -> ! {
    let what = if taken { "ending" } else { "something else" };
    let text = format!(
        "slashtrace was asked to end and is busy with {what} still: it ends at once, and its \
         evidence has no `stop`\n"
    );
    let stderr = io::stderr();
    let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
    if poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0) {
        // No more than a page, which does not wait where there is room. Not by way of `stderr`, whose
        // lock somebody may have.
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    }
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(CODE) }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    /// In a process of its own, which a signal ends.
    fn ended(how: &str) -> (Option<i32>, Duration) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "daemon::ending::tests::who_is_busy_with_something_else",
                "--nocapture",
            ])
            .env("SLASHTRACE_ENDING_TEST", how)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let mut said = Vec::new();
        while !said.ends_with(b"READY\n") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        let began = Instant::now();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        (child.wait().unwrap().code(), began.elapsed())
    }

    #[test]
    fn a_slow_machine_is_given_more_time() {
        let patience = |ms| patience(Some(Duration::from_millis(ms)));
        assert_eq!(super::patience(None), PATIENCE);
        assert_eq!((patience(0), patience(200)), (PATIENCE, PATIENCE));
        assert_eq!((patience(2_000), patience(60_000)), (Duration::from_secs(8), ENDING));
    }

    #[test]
    fn who_is_busy_with_something_else() {
        if let Some(how) = std::env::var_os("SLASHTRACE_ENDING_TEST") {
            watch(if how.to_string_lossy().starts_with("run") {
                Promise::Ended
            } else {
                Promise::TakenUp
            })
            .unwrap();
            println!("READY");
            let began = Instant::now();
            while began.elapsed() < Duration::from_secs(3) {
                if how.to_string_lossy().ends_with("and taken up") && is_asked_for() {
                    acknowledge();
                }
                thread::sleep(Duration::from_millis(5));
            }
            std::process::exit(7);
        }
        for how in ["run", "not taken up"] {
            let (code, took) = ended(how);
            assert_eq!(code, Some(CODE), "{how}");
            assert!(took >= PATIENCE && took < Duration::from_millis(2_500), "{how}: {took:?}");
        }
        for how in ["run and taken up", "and taken up"] {
            assert_eq!(ended(how).0, Some(7), "{how}: it ends in order");
        }
    }
}
