use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::{DEVPTS_MAGIC, Place};
use crate::{
    model::{Identity, Process},
    profile::TerminalRule,
    redact,
    sensor::proc::ProcFs,
};

/// More than an environment that execve(2) takes is not read.
const ENVIRON_MAX: u64 = 2 << 20;
const SESSION_FILE_MAX: u64 = 64 << 10;

/// The devpts instance that is mounted at `path`.
pub(super) fn instance(path: &Path) -> Option<u64> {
    let kind = rustix::fs::statfs(path).ok()?;
    (kind.f_type as u64 == DEVPTS_MAGIC).then_some(())?;
    Some(rustix::fs::stat(path).ok()?.st_dev)
}

/// The indices that are open on a devpts.
pub(super) fn list(path: &Path) -> io::Result<BTreeSet<u32>> {
    let entries = fs::read_dir(path)?.flatten();
    Ok(entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The indices of the terminals whose master a process holds (`tty-index`,
/// proc_pid_fdinfo(5)).
pub(super) fn masters(proc: &ProcFs, pid: u32) -> BTreeSet<u32> {
    let Ok(fds) = fs::read_dir(proc.path(pid, "fd")) else { return BTreeSet::new() };
    let held = fds.flatten().filter(|fd| {
        fs::read_link(fd.path())
            .is_ok_and(|to| to == Path::new("/dev/ptmx") || to == Path::new("/dev/pts/ptmx"))
    });
    held.filter_map(|fd| {
        let text = fs::read_to_string(proc.path(pid, "fdinfo").join(fd.file_name())).ok()?;
        text.lines().find_map(|line| line.strip_prefix("tty-index:"))?.trim().parse().ok()
    })
    .collect()
}

/// Who has a terminal as controlling terminal.
#[derive(Debug, Default)]
pub(super) struct Users {
    pub(super) leader: Option<Process>,
    /// The leader first.
    pub(super) processes: Vec<Identity>,
}

/// Finds, in one walk over the processes, who uses these terminals.
pub(super) fn users(proc: &ProcFs, places: &BTreeSet<Place>) -> BTreeMap<Place, Users> {
    let mut found: BTreeMap<Place, Users> = BTreeMap::new();
    for pid in proc.pids().unwrap_or_default() {
        let Ok(Some(stat)) = proc.stat(pid) else { continue };
        let Some(index) = stat.terminal.map(|terminal| terminal.index) else { continue };
        if stat.ended() || !places.iter().any(|place| place.1 == index) {
            continue;
        }
        let Some(instance) = instance(&proc.path(pid, "root/dev/pts")) else { continue };
        if !places.contains(&(instance, index)) {
            continue;
        }
        let users = found.entry((instance, index)).or_default();
        let identity = Identity { pid, start_ns: stat.start_ns };
        if stat.sid == pid {
            let argv = proc.cmdline(pid, 4096).ok().flatten();
            let argv0 = argv.and_then(|argv| argv.tokens().first().map(|t| redact::argv0(t)));
            users.leader = Some(Process {
                pid,
                start_ns: stat.start_ns,
                comm: redact::escape(&stat.comm),
                argv0,
            });
            users.processes.insert(0, identity);
        } else {
            users.processes.push(identity);
        }
    }
    found
}

/// The session that the first of these processes names that names one.
pub(super) fn session(proc: &ProcFs, rule: &TerminalRule, pids: &[Identity]) -> Option<String> {
    pids.iter().find_map(|id| session_of(proc, rule, id.pid))
}

fn session_of(proc: &ProcFs, rule: &TerminalRule, pid: u32) -> Option<String> {
    let mut environ = Vec::new();
    File::open(proc.path(pid, "environ")).ok()?.take(ENVIRON_MAX).read_to_end(&mut environ).ok()?;
    let path = environ.split(|&b| b == 0).find_map(|entry| {
        entry.strip_prefix(rule.session_file_env.as_bytes())?.strip_prefix(b"=")
    })?;
    let root = rustix::fs::open(
        proc.path(pid, "root"),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok()?;
    let path = path.strip_prefix(b"/")?;
    // No link is followed anywhere in the path, so it cannot lead out of the process's root.
    let file = openat2(
        &root,
        path,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS,
    )
    .ok()?;
    let file = File::from(file);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(SESSION_FILE_MAX).read_to_end(&mut text).ok()?;
    let object: serde_json::Value = serde_json::from_slice(&text).ok()?;
    let session = object.get(&rule.session_key)?.as_str().filter(|key| !key.is_empty())?;
    Some(redact::value(session.as_bytes()))
}
