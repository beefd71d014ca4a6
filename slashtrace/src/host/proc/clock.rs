use std::{fs, io, path::Path};

use super::ProcFs;

/// The clock of a process that counts what the scheduler gave it, as `clock_getcpuclockid(3)` makes
/// its number: `CPUCLOCK_SCHED` of `MAKE_PROCESS_CPUCLOCK` (include/linux/posix-timers_types.h,
/// before 6.9 posix-timers.h), which C libraries have in them and the kernel so keeps.
const SCHED: libc::clockid_t = 2;

/// Whether /proc shows the pids of our own pid namespace.
pub(super) fn has_own_pids(root: &Path) -> bool {
    let shown = || fs::read_link(root.join("self")).ok()?.to_str()?.parse::<u32>().ok();
    root == Path::new("/proc") && shown() == Some(std::process::id())
}

impl ProcFs {
    /// CPU time that all threads of a process have used so far, ns; `None` if there is no process
    /// of that pid. A process whose time stands still has not run: it has read nothing, opened and
    /// closed nothing, and is in the state it was in. A zombie is there until it is reaped.
    ///
    /// One that runs at the moment is counted up to the last tick of its processor
    /// (`thread_group_cputime`, kernel/sched/cputime.c): what it did since is seen next time.
    ///
    /// This is one short system call, where reading `stat` is three long ones. Anybody may ask for
    /// any process (`pid_for_clock`, kernel/time/posix-cpu-timers.c).
    ///
    /// # Errors
    /// If that cannot be known: the pids in this /proc are not those of our own pid namespace.
    pub fn cpu_ns(&self, pid: u32) -> io::Result<Option<u64>> {
        if !self.own_pids {
            return self.made_up_cpu_ns(pid);
        }
        let clock = !libc::clockid_t::try_from(pid).map_err(io::Error::other)? << 3 | SCHED;
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel writes one timespec to where one is.
        if unsafe { libc::clock_gettime(clock, &raw mut time) } == 0 {
            return Ok(Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            error => Err(error),
        }
    }

    /// Tests put a file `cpu_ns` into a process's folder.
    fn made_up_cpu_ns(&self, pid: u32) -> io::Result<Option<u64>> {
        if !cfg!(test) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let text = fs::read_to_string(self.path(pid, "cpu_ns"))?;
        Ok(text.parse().ok())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        process::{Command, Stdio},
        time::{Duration, Instant},
    };

    use super::*;

    /// `cat`, which waits for its stdin.
    #[test]
    fn time_stands_still_while_a_process_waits() {
        let proc = ProcFs::default();
        let ran = |pid: u32| proc.cpu_ns(pid).unwrap();
        let mut cat =
            Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut to, mut from) = (cat.stdin.take().unwrap(), cat.stdout.take().unwrap());
        let mut echo = || {
            to.write_all(b"x").unwrap();
            from.read_exact(&mut [0]).unwrap();
        };
        echo();
        let settled = Instant::now() + Duration::from_secs(10);
        let sleeps = || proc.stat(cat.id()).unwrap().unwrap().state == 'S';
        while !sleeps() && Instant::now() < settled {
            std::thread::yield_now();
        }
        let before = ran(cat.id()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(ran(cat.id()), Some(before));
        echo();
        assert!(ran(cat.id()).unwrap() > before);
        drop(to);
        let ended = || proc.stat(cat.id()).unwrap().unwrap().ended();
        while !ended() && Instant::now() < settled {
            std::thread::yield_now();
        }
        assert!(ran(cat.id()).is_some(), "a zombie is there");
        cat.wait().unwrap();
        assert_eq!(ran(cat.id()), None);
        assert!(ProcFs::new("/nowhere").cpu_ns(1).is_err());
    }
}
