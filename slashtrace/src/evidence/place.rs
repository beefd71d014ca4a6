//! Opens a file of evidence where nobody else can put another in its place: every folder on the way
//! is opened and looked at, one after the other, and none is looked up by its path again.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{ffi::OsStringExt as _, fs::FileExt as _},
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::{
    fs::{
        AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, Stat, flock, fstat, openat,
        readlinkat, statat,
    },
    io::Errno,
    process::geteuid,
};

use crate::{
    host::{clock::wall_time, proc::ProcFs},
    next_step::NextStep as _,
};

/// Symbolic links that are followed on the way to a folder, as many as the kernel follows
/// (`MAXSYMLINKS`, include/linux/namei.h).
const LINKS_MAX: usize = 40;
/// Group ids below this are the system's, not people's (`GID_MIN` of login.defs(5)).
const PEOPLE_GID: u32 = 1_000;
/// Bytes of a file in which its first record shows what it is.
const HEAD: usize = 512;
const S_ISVTX: u32 = 0o1000;

/// What is wrong with a FIFO without a reader, or with one that does not read.
pub(super) const UNREAD: &str = "nobody reads it";

/// A file that is ours to append to.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) file: File,
    /// A file, and not a FIFO or a device.
    pub(super) regular: bool,
    /// Whether what is in it ends within a line: whoever wrote it was cut off.
    pub(super) torn: bool,
}

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// A FIFO that nobody has opened for reading.
    #[error("{UNREAD}")]
    NoReader,
    /// Another process writes it.
    #[error("another slashtrace writes it: {0}")]
    InUse(String),
}

/// Opens `path` to append to it, and creates it (0600) if it is not there. It is locked (flock(2)),
/// so that no other slashtrace writes to it.
///
/// # Errors
/// If it cannot be opened, is not evidence, or if somebody else could exchange it; [`Refusal`] where
/// it is in use, or a FIFO without a reader.
pub(super) fn open(path: &Path) -> Result<Place> {
    let absolute = std::path::absolute(path).context("the path is empty")?;
    let name = absolute.file_name().context("it names no file")?;
    let cannot = || format!("cannot create {}", path.display());
    let parent = absolute.parent().unwrap_or(Path::new("/"));
    let folder = walk(parent).with_context(cannot)?;
    let there = match statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(stat),
        Err(Errno::NOENT) => None,
        Err(errno) => {
            return Err(io::Error::from(errno)).with_context(cannot).next_step(FOLDER_STEP);
        }
    };
    let kind = there.map_or(FileType::RegularFile, |stat| FileType::from_raw_mode(stat.st_mode));
    let access = match kind {
        FileType::RegularFile => OFlags::RDWR | OFlags::APPEND,
        FileType::Fifo | FileType::CharacterDevice => OFlags::WRONLY,
        _ => {
            let what = format!("{} is no file to write evidence to", path.display());
            return Err(anyhow!(what)).next_step("name another file; links are not followed");
        }
    };
    let create = if there.is_none() { OFlags::CREATE | OFlags::EXCL } else { OFlags::empty() };
    let flags =
        access | create | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(&folder, name, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => File::from(file),
        Err(Errno::NXIO) if kind == FileType::Fifo => return Err(Refusal::NoReader.into()),
        Err(errno) => {
            return Err(io::Error::from(errno)).with_context(cannot).next_step(FOLDER_STEP);
        }
    };
    // What is looked at is what was opened, whatever has the name by now.
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != kind {
        bail!("{} was exchanged while it was opened", path.display());
    }
    ours(&stat, kind, path)?;
    let regular = kind == FileType::RegularFile;
    let mut torn = false;
    if regular {
        lock(&file, &stat)?;
        torn = is_torn(&file, path)?;
    }
    Ok(Place { file, regular, torn })
}

const FOLDER_STEP: &str = "name a folder that exists and that you may write to";

/// Whether the file is this user's alone.
fn ours(stat: &Stat, kind: FileType, path: &Path) -> Result<()> {
    let path = path.display();
    if kind != FileType::CharacterDevice && !trusted(stat.st_uid) {
        let what = format!("{path} exists and belongs to another user ({})", stat.st_uid);
        return Err(anyhow!(what)).next_step("name another file, or take that one away");
    }
    if kind == FileType::RegularFile && stat.st_nlink > 1 {
        let what = format!("{path} exists and has another name, too (a hard link)");
        return Err(anyhow!(what)).next_step("name another file, or take that one away");
    }
    Ok(())
}

fn lock(file: &File, stat: &Stat) -> Result<()> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(Refusal::InUse(holder(stat)).into()),
        // Not every file system has locks; without any there is nothing to go by.
        _ => Ok(()),
    }
}

/// Who has a lock on a file, as far as /proc/locks (proc_locks(5)) tells: `pid 7, since …`.
pub(crate) fn holder(stat: &Stat) -> String {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, kind, _, _, pid, file, ..] = fields[..] else { return None };
        let inode = file.rsplit(':').next()?.parse::<u64>().ok()?;
        (kind == "FLOCK" && inode == stat.st_ino).then(|| pid.parse::<u32>().ok()).flatten()
    });
    pid.map_or_else(|| "its pid cannot be seen from here".to_owned(), since)
}

/// A process and since when it runs, for people.
fn since(pid: u32) -> String {
    let Ok(Some(stat)) = ProcFs::new("/proc").stat(pid) else { return format!("pid {pid}") };
    let began = wall_time(stat.start_ns).to_zoned_datetime(jiff::tz::TimeZone::system());
    format!("pid {pid}, since {}", began.strftime("%Y-%m-%d %H:%M:%S %z"))
}

/// Checks that what is in a file is evidence; whether its last line was cut off.
fn is_torn(file: &File, path: &Path) -> Result<bool> {
    let len = file.metadata()?.len();
    if len == 0 {
        return Ok(false);
    }
    let mut head = vec![0; HEAD];
    let read = file.read_at(&mut head, 0)?;
    let head = String::from_utf8_lossy(&head[..read]);
    if !head.starts_with("{\"v\":") || !head.contains("\"type\":\"start\"") {
        let what = format!("{} exists and is not evidence; it is left as it is", path.display());
        return Err(anyhow!(what)).next_step("name another file, or move that one away");
    }
    let mut last = [0];
    file.read_exact_at(&mut last, len - 1)?;
    Ok(last != *b"\n")
}

/// Opens a folder step by step from the root, and refuses one in which somebody else could exchange
/// what is on the way. Links are followed where nobody else could have put them.
fn walk(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = openat(CWD, "/", flags, Mode::empty())?;
    let mut so_far = PathBuf::from("/");
    let mut left = steps(path);
    let mut links = 0;
    while let Some(step) = left.pop() {
        checked(&at, &so_far)?;
        let next = openat(&at, &step, flags, Mode::empty()).map_err(io::Error::from);
        let next = next.with_context(|| format!("no folder {}", so_far.join(&step).display()));
        let next = next.next_step(FOLDER_STEP)?;
        let stat = fstat(&next)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    bail!("too many links on the way to {}", path.display());
                }
                if !trusted(stat.st_uid) {
                    return Err(exchangeable(&so_far.join(&step), "link", stat.st_uid));
                }
                let target = readlinkat(&next, "", Vec::new()).map_err(io::Error::from)?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    at = openat(CWD, "/", flags, Mode::empty())?;
                    so_far = PathBuf::from("/");
                }
                left.extend(steps(&target));
            }
            FileType::Directory => {
                at = next;
                so_far.push(&step);
            }
            _ => {
                let what = format!("{} is no folder", so_far.join(&step).display());
                return Err(anyhow!(what)).next_step(FOLDER_STEP);
            }
        }
    }
    checked(&at, &so_far)?;
    Ok(at)
}

/// The parts of a path, the last one first.
fn steps(path: &Path) -> Vec<PathBuf> {
    let parts = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(PathBuf::from(name)),
        Component::ParentDir => Some(PathBuf::from("..")),
        _ => None,
    });
    let mut steps: Vec<PathBuf> = parts.collect();
    steps.reverse();
    steps
}

/// Refuses a folder in which somebody else may rename or remove what is ours (rename(2), `EACCES`
/// and `EPERM`).
fn checked(folder: &impl AsFd, path: &Path) -> Result<()> {
    let stat = fstat(folder)?;
    if !trusted(stat.st_uid) {
        return Err(exchangeable(path, "folder", stat.st_uid));
    }
    let sticky = stat.st_mode & S_ISVTX != 0;
    let anybody = stat.st_mode & 0o002 != 0;
    let people = stat.st_mode & 0o020 != 0
        && stat.st_gid >= PEOPLE_GID
        && stat.st_gid != rustix::process::getegid().as_raw();
    if !sticky && (anybody || people) {
        let who = if anybody { "everybody" } else { "its group" };
        let what = format!("{who} may exchange what is in the folder {}", path.display());
        return Err(anyhow!(what)).next_step(SAFE_STEP);
    }
    Ok(())
}

const SAFE_STEP: &str = "name a file in a folder that only you may change, such as one of root's \
                         below /var/log, or write to stdout (`--evidence -`)";

fn exchangeable(path: &Path, what: &str, uid: u32) -> anyhow::Error {
    anyhow!("the {what} {} belongs to another user ({uid}), who could exchange it", path.display())
        .next_step(SAFE_STEP)
}

/// Root, or whoever runs this, be it through sudo(8): then he named the file.
fn trusted(uid: u32) -> bool {
    is_trusted(uid, geteuid().as_raw(), std::env::var("SUDO_UID").ok().as_deref())
}

fn is_trusted(uid: u32, own: u32, sudo: Option<&str>) -> bool {
    let asked_by = || sudo?.parse::<u32>().ok();
    uid == 0 || uid == own || (own == 0 && asked_by() == Some(uid))
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt as _, chown, symlink},
    };

    use super::*;
    use crate::{
        evidence::{line, samples},
        next_step::next_steps,
    };

    fn refused(path: &Path) -> String {
        let error = open(path).unwrap_err();
        assert_eq!(next_steps(&error).len(), 1, "{error:#}");
        format!("{error:#}")
    }

    #[test]
    fn a_new_file_is_private_and_evidence_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e");
        let place = open(&path).unwrap();
        assert!(place.regular && !place.torn);
        assert_eq!(place.file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        drop(place);
        let start = line(&samples::all()[0]).unwrap();
        fs::write(&path, format!("{start}\n")).unwrap();
        assert!(!open(&path).unwrap().torn);
        fs::write(&path, &start).unwrap();
        let place = open(&path).unwrap();
        assert!(place.torn);
        let error = open(&path).unwrap_err();
        let mine = format!("pid {}, since 20", std::process::id());
        assert!(error.to_string().contains(&mine), "{error}");
    }

    #[test]
    fn what_is_not_evidence_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e");
        fs::write(&path, "precious").unwrap();
        assert!(refused(&path).contains("exists and is not evidence"));
        fs::remove_file(&path).unwrap();
        symlink("/etc/hostname", &path).unwrap();
        assert!(refused(&path).contains("no file to write evidence to"));
        let (file, other) = (folder.path().join("f"), folder.path().join("g"));
        fs::write(&file, "").unwrap();
        fs::hard_link(&file, &other).unwrap();
        assert!(refused(&file).contains("hard link"));
    }

    #[test]
    fn a_folder_in_which_others_may_exchange_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("below");
        fs::create_dir(&below).unwrap();
        let mode = |mode| fs::set_permissions(&below, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o777);
        assert!(refused(&below.join("e")).contains("everybody may exchange"));
        mode(0o1777);
        open(&below.join("e")).unwrap();
        mode(0o700);
        symlink(&below, folder.path().join("link")).unwrap();
        open(&folder.path().join("link/../below/f")).unwrap();
        assert!(refused(&folder.path().join("none/e")).contains("no folder"));
        if !geteuid().is_root() {
            return;
        }
        std::os::unix::fs::lchown(folder.path().join("link"), Some(4_242), None).unwrap();
        assert!(refused(&folder.path().join("link/e")).contains("link"));
        chown(&below, Some(4_242), None).unwrap();
        assert!(refused(&below.join("e")).contains("belongs to another user (4242)"));
        chown(&below, Some(0), Some(4_242)).unwrap();
        mode(0o775);
        assert!(refused(&below.join("e")).contains("its group may exchange"));
        chown(&below, Some(0), Some(4)).unwrap();
        open(&below.join("g")).unwrap();
    }

    #[test]
    fn a_fifo_without_a_reader_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(Refusal::NoReader)), "{error:#}");
    }

    #[test]
    fn root_trusts_who_called_sudo() {
        assert!(is_trusted(0, 1_000, None) && is_trusted(1_000, 1_000, None));
        assert!(is_trusted(1_000, 0, Some("1000")));
        for (uid, own, sudo) in
            [(1_000, 0, None), (1_000, 0, Some("1001")), (1_000, 0, Some("")), (7, 8, Some("7"))]
        {
            assert!(!is_trusted(uid, own, sudo), "{uid} {own} {sudo:?}");
        }
    }
}
