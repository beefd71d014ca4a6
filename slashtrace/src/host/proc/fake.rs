//! A made-up /proc in a temporary folder.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use tempfile::TempDir;

use super::ProcFs;

/// The folder; gone when dropped.
pub(crate) struct FakeProc {
    dir: TempDir,
}

/// One made-up process.
#[derive(Clone)]
pub(crate) struct Fake<'a> {
    pub(crate) pid: u32,
    pub(crate) ppid: u32,
    pub(crate) sid: u32,
    pub(crate) tty_nr: u32,
    pub(crate) start_ticks: u64,
    pub(crate) state: char,
    pub(crate) threads: u32,
    pub(crate) rss_pages: u64,
    pub(crate) arg_start: u64,
    pub(crate) comm: &'a [u8],
    pub(crate) cmdline: &'a [u8],
    pub(crate) exe: &'a str,
    pub(crate) syscr: Option<u64>,
}

/// A process of which nothing matters.
pub(crate) const FAKE: Fake<'_> = Fake {
    pid: 10,
    ppid: 1,
    sid: 10,
    tty_nr: 0,
    start_ticks: 1000,
    state: 'S',
    threads: 1,
    rss_pages: 25_000,
    arg_start: 0,
    comm: b"python3",
    cmdline: b"python3\0",
    exe: "python",
    syscr: Some(100),
};

impl Default for Fake<'_> {
    fn default() -> Self {
        FAKE
    }
}

/// A worker's arguments as the hermes profile has them.
pub(crate) const WORKER: &[u8] =
    b"/home/me/v/bin/python\0-m\0tui_gateway.slash_worker\0--session-key\0k1\0--model\0m1\0";

impl FakeProc {
    /// With pid 1 and a meminfo.
    pub(crate) fn new() -> Self {
        let fake = Self { dir: TempDir::new().unwrap() };
        fake.put(&Fake {
            pid: 1,
            ppid: 0,
            sid: 1,
            start_ticks: 1,
            comm: b"init",
            ..Fake::default()
        });
        fake.meminfo(8_000_000, 4_000_000);
        fake
    }

    pub(crate) fn proc(&self) -> ProcFs {
        ProcFs::new(self.dir.path())
    }

    pub(crate) fn meminfo(&self, total: u64, available: u64) {
        let text = format!(
            "MemTotal:       {total} kB\nMemFree: 1 kB\nMemAvailable:   {available} kB\n\
             SwapTotal:      1000 kB\nSwapFree:       400 kB\nHugePages_Total:       0\n"
        );
        fs::write(self.dir.path().join("meminfo"), text).unwrap();
    }

    pub(crate) fn put(&self, fake: &Fake<'_>) {
        let dir = self.dir(fake.pid);
        fs::create_dir_all(dir.join("fd")).unwrap();
        fs::create_dir_all(dir.join("fdinfo")).unwrap();
        let mut stat = format!("{} (", fake.pid).into_bytes();
        stat.extend(fake.comm);
        stat.extend(
            format!(
                ") {} {} {} {} {} -1 4194304 1 0 0 0 0 0 0 0 20 0 {} 0 {} 4096 {} \
                 18446744073709551615 0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 {} 0 0 0 0\n",
                fake.state,
                fake.ppid,
                fake.sid,
                fake.sid,
                fake.tty_nr,
                fake.threads,
                fake.start_ticks,
                fake.rss_pages,
                fake.arg_start
            )
            .into_bytes(),
        );
        // Who reads it meanwhile sees the one or the other.
        fs::write(dir.join("stat.new"), stat).unwrap();
        fs::rename(dir.join("stat.new"), dir.join("stat")).unwrap();
        fs::write(dir.join("cmdline"), fake.cmdline).unwrap();
        let status = format!("Name:\tx\nUid:\t1000\t0\t0\t0\nNSpid:\t{}\n", fake.pid);
        fs::write(dir.join("status"), status).unwrap();
        let exe = self.dir.path().join(fake.exe);
        fs::write(&exe, "").unwrap();
        let _ = fs::remove_file(dir.join("exe"));
        symlink(exe, dir.join("exe")).unwrap();
        if let Some(syscr) = fake.syscr {
            fs::write(dir.join("io"), format!("rchar: 1\nwchar: 2\nsyscr: {syscr}\nsyscw: 3\n"))
                .unwrap();
        }
    }

    /// Gives a process a CPU clock: without one nobody can see whether it ran.
    pub(crate) fn ran(&self, pid: u32, cpu_ns: u64) {
        fs::write(self.dir(pid).join("cpu_ns"), cpu_ns.to_string()).unwrap();
    }

    /// Gives a process a descriptor; `flags` as fdinfo has them.
    pub(crate) fn fd(&self, pid: u32, fd: u32, target: &str, flags: &str) {
        let dir = self.dir(pid);
        let _ = fs::remove_file(dir.join("fd").join(fd.to_string()));
        symlink(target, dir.join("fd").join(fd.to_string())).unwrap();
        let text = format!("pos:\t0\nflags:\t{flags}\nmnt_id:\t15\n");
        fs::write(dir.join("fdinfo").join(fd.to_string()), text).unwrap();
    }

    /// Gives it the master of a terminal.
    pub(crate) fn master(&self, pid: u32, fd: u32, index: u32) {
        self.fd(pid, fd, "/dev/ptmx", "02");
        let info = self.dir(pid).join("fdinfo").join(fd.to_string());
        fs::write(info, format!("pos:\t0\nflags:\t02\ntty-index:\t{index}\n")).unwrap();
    }

    /// Has it run as this user.
    pub(crate) fn owned_by(&self, pid: u32, uid: u32) {
        let status = format!("Name:\tx\nUid:\t{uid}\t0\t0\t0\nNSpid:\t{pid}\n");
        fs::write(self.dir(pid).join("status"), status).unwrap();
    }

    pub(crate) fn close(&self, pid: u32, fd: u32) {
        fs::remove_file(self.dir(pid).join("fd").join(fd.to_string())).unwrap();
        fs::remove_file(self.dir(pid).join("fdinfo").join(fd.to_string())).unwrap();
    }

    /// Makes the descriptors unreadable, for root too: what should be a folder is none.
    pub(crate) fn hide_fds(&self, pid: u32) {
        fs::remove_dir_all(self.dir(pid).join("fd")).unwrap();
        fs::write(self.dir(pid).join("fd"), "").unwrap();
    }

    pub(crate) fn remove(&self, pid: u32) {
        fs::remove_dir_all(self.dir(pid)).unwrap();
    }

    pub(crate) fn dir(&self, pid: u32) -> PathBuf {
        self.dir.path().join(pid.to_string())
    }
}
