use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

use super::ProcFs;

/// The root directory of a process. What is opened below it stays below it, whatever links and
/// `..` its owner put there (`RESOLVE_IN_ROOT`, openat2(2)): an absolute link of a container would
/// otherwise lead into the file system of the reader.
#[derive(Debug)]
pub(crate) struct Root(OwnedFd);

/// Whether links are followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Links {
    /// Within the root.
    Follow,
    /// A link anywhere in the path is an error.
    Refuse,
}

impl Root {
    /// Opens /proc/PID/root. Only its owner and root may.
    pub(crate) fn of(proc: &ProcFs, pid: u32) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(proc.path(pid, "root"), flags, Mode::empty())?))
    }

    /// The beginning of a regular file, up to `max` bytes. Whatever else its name leads to (a pipe,
    /// a device) is an error, and is not opened: opening alone starts a watchdog, rewinds a tape or
    /// lets a pipe's writer go on.
    pub(crate) fn read(&self, path: &Path, max: u64, links: Links) -> io::Result<Vec<u8>> {
        read_itself(&self.file(path, links)?, max)
    }

    /// A regular file, to be watched or asked about. It is not opened for reading: see [`Self::read`].
    pub(crate) fn file(&self, path: &Path, links: Links) -> io::Result<OwnedFd> {
        let found = self.open(path, OFlags::PATH, links)?;
        let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(found)
    }

    /// Names in a folder, in no particular order, at most `max`.
    pub(crate) fn list(&self, path: &Path, max: usize) -> io::Result<Vec<OsString>> {
        let folder = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY, Links::Follow)?;
        let entries = Dir::new(folder)?.take(max).filter_map(Result::ok);
        let names = entries.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
        Ok(names.filter(|name| name != "." && name != "..").collect())
    }

    /// A folder, to be looked at but not read.
    pub(crate) fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlags::PATH | OFlags::DIRECTORY, Links::Follow)
    }

    fn open(&self, path: &Path, flags: OFlags, links: Links) -> io::Result<OwnedFd> {
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refuse {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        Ok(openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
    }
}

/// The beginning of a regular file that [`Root::file`] gave, up to `max` bytes.
pub(crate) fn read_itself(found: &OwnedFd, max: u64) -> io::Result<Vec<u8>> {
    // Not waiting: who holds a lease on it (F_SETLEASE, fcntl(2)) has the next one wait.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(itself(found), flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The path that leads to what a descriptor is open on, whatever its name is by now.
pub(crate) fn itself(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;
    use crate::host::proc::fake::{Fake, FakeProc};

    /// A process in a container whose owner made links of all sorts.
    #[test]
    fn nothing_leads_out_of_the_root() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "out").unwrap();
        let inside = tempfile::tempdir().unwrap();
        fs::create_dir(inside.path().join("real")).unwrap();
        fs::write(inside.path().join("real/file"), "in").unwrap();
        symlink("real", inside.path().join("near")).unwrap();
        symlink("/real", inside.path().join("absolute")).unwrap();
        symlink(outside.path(), inside.path().join("away")).unwrap();
        let up = Path::new("../../../../../../..").join(outside.path().strip_prefix("/").unwrap());
        symlink(&up, inside.path().join("up")).unwrap();
        let fake = FakeProc::new();
        fake.put(&Fake { pid: 10, ..Fake::default() });
        symlink(inside.path(), fake.dir(10).join("root")).unwrap();

        let root = Root::of(&fake.proc(), 10).unwrap();
        let read = |path: &str, links| root.read(Path::new(path), 64, links).ok();
        for path in ["real/file", "/real/file"] {
            assert_eq!(read(path, Links::Refuse).as_deref(), Some(&b"in"[..]), "{path}");
        }
        for path in ["near/file", "absolute/file", "../../real/file"] {
            assert_eq!(read(path, Links::Follow).as_deref(), Some(&b"in"[..]), "{path}");
        }
        assert_eq!(read("near/file", Links::Refuse), None);
        for path in ["away/secret", "up/secret"] {
            assert_eq!(read(path, Links::Follow), None, "{path}");
        }
        assert!(root.list(Path::new("away"), 9).is_err() && root.folder(Path::new("up")).is_err());
        assert_eq!(root.list(Path::new("absolute"), 9).unwrap(), ["file"]);
        assert_eq!(root.read(Path::new("real/file"), 1, Links::Refuse).unwrap(), b"i");
    }

    #[test]
    fn a_file_with_a_lease_is_not_waited_for() {
        let inside = tempfile::tempdir().unwrap();
        let path = inside.path().join("leased");
        fs::write(&path, "text").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        // SAFETY: a signal number and a constant; and a descriptor that is open.
        let leased = unsafe {
            libc::signal(libc::SIGIO, libc::SIG_IGN);
            libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
        };
        if leased != 0 {
            eprintln!("SKIPPED: no leases on this file system");
            return;
        }
        let fake = FakeProc::new();
        fake.put(&Fake { pid: 10, ..Fake::default() });
        symlink(inside.path(), fake.dir(10).join("root")).unwrap();
        let root = Root::of(&fake.proc(), 10).unwrap();
        assert!(root.read(Path::new("leased"), 64, Links::Follow).is_err());
        drop(file);
        assert!(root.read(Path::new("leased"), 64, Links::Follow).is_ok());
    }

    #[test]
    fn what_is_no_regular_file_is_not_waited_for() {
        let inside = tempfile::tempdir().unwrap();
        let fifo = inside.path().join("fifo");
        let kind = FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, kind, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let fake = FakeProc::new();
        fake.put(&Fake { pid: 10, ..Fake::default() });
        symlink(inside.path(), fake.dir(10).join("root")).unwrap();
        let root = Root::of(&fake.proc(), 10).unwrap();
        // Who waits in open(2) for a reader of it goes on waiting.
        let (opened, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || opened.send(File::options().write(true).open(fifo)));
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(root.read(Path::new("fifo"), 64, Links::Follow).is_err());
        assert!(told.recv_timeout(std::time::Duration::from_millis(200)).is_err());
        drop(File::options().read(true).open(inside.path().join("fifo")).unwrap());
        assert!(told.recv().unwrap().is_ok());
        assert!(root.read(Path::new("."), 64, Links::Follow).is_err());
    }
}
