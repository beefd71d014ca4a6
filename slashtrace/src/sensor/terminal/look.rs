use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::Place;
use crate::{
    host::devpts::{Devpts, instance_of_tty, numbers},
    host::proc::ProcFs,
    model::{Identity, Process},
    profile::TerminalRule,
    redact,
    sensor::join::{
        Named,
        ports::{self, Callers},
    },
};

/// Descriptors of one process among which masters are looked for.
const DESCRIPTORS_MAX: usize = 16_384;

/// The terminals whose master a process holds (`tty-index`, proc_pid_fdinfo(5)), on the watched
/// instances of devpts, and how many descriptors were looked at for it. None where they could not all
/// be looked at, because its user is over its budget.
pub(super) fn masters(
    proc: &ProcFs,
    pid: u32,
    watched: &BTreeSet<u64>,
) -> Option<(BTreeSet<Place>, usize)> {
    let Ok(meter) = proc.meter(pid) else { return Some((BTreeSet::new(), 0)) };
    let mut meter = meter?;
    let Ok(fds) = fs::read_dir(proc.path(pid, "fd")) else { return Some((BTreeSet::new(), 0)) };
    let (mut count, mut stopped) = (0, false);
    // /dev/ptmx of a devtmpfs is that of the devpts beside it (`devpts_mntget`, fs/devpts/inode.c).
    let mut beside = None;
    let fds = fds.flatten().take(DESCRIPTORS_MAX).take_while(|_| {
        stopped = !meter.read();
        !stopped
    });
    let held = fds.filter(|fd| {
        count += 1;
        fs::read_link(fd.path())
            .is_ok_and(|to| to == Path::new("/dev/ptmx") || to == Path::new("/dev/pts/ptmx"))
    });
    let places = held.filter_map(|fd| {
        let text = fs::read_to_string(proc.path(pid, "fdinfo").join(fd.file_name())).ok()?;
        let index = text.lines().find_map(|line| line.strip_prefix("tty-index:"))?;
        let on = numbers(&fd.path()).map(|(on, _)| on);
        let instance = on.filter(|on| watched.contains(on)).or_else(|| {
            *beside.get_or_insert_with(|| Devpts::of(proc, pid).map(|devpts| devpts.instance()))
        })?;
        Some((instance, index.trim().parse().ok()?))
    });
    let places = places.collect();
    (!stopped).then_some((places, count))
}

/// Who has a terminal as controlling terminal.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    /// Only if it is to be believed.
    pub(super) leader: Option<Process>,
    /// The leader first.
    pub(super) processes: Vec<Identity>,
    /// Those that are to be believed. The kernel gives the index of a terminal and not its instance,
    /// and which devpts is at a process's /dev/pts is for anybody to choose who may make a
    /// namespace of his own: a process of another user than the terminal's may only pretend to be on it.
    believed: Vec<Identity>,
}

/// Finds, in one walk over the processes, who uses these terminals, each with its owner.
pub(super) fn users(
    proc: &ProcFs,
    places: &BTreeMap<Place, Option<u32>>,
) -> BTreeMap<Place, Users> {
    users_among(proc, places, proc.pids().unwrap_or_default())
}

/// The same of these processes.
pub(super) fn users_among(
    proc: &ProcFs,
    places: &BTreeMap<Place, Option<u32>>,
    pids: impl IntoIterator<Item = u32>,
) -> BTreeMap<Place, Users> {
    let mut found: BTreeMap<Place, Users> = BTreeMap::new();
    for pid in pids {
        let Ok(Some(stat)) = proc.stat(pid) else { continue };
        let Some(index) = stat.terminal.map(|terminal| terminal.index) else { continue };
        if stat.ended() || !places.keys().any(|place| place.1 == index) {
            continue;
        }
        let Some(instance) = instance_of_tty(proc, &stat, index) else { continue };
        let place = (instance, index);
        let Some(owner) = places.get(&place) else { continue };
        let users = found.entry(place).or_default();
        let identity = Identity { pid, start_ns: stat.start_ns };
        let uid = proc.ids(pid).ok().flatten().map(|ids| ids.uid);
        let believed = uid.is_some_and(|uid| uid == 0 || Some(uid) == *owner);
        let leads = stat.sid == pid;
        if leads && believed {
            let argv = proc.cmdline(pid, 4096).ok().flatten();
            let argv0 = argv.and_then(|argv| argv.tokens().first().map(|t| redact::argv0(t)));
            users.leader = Some(Process {
                pid,
                start_ns: stat.start_ns,
                comm: redact::escape(&stat.comm),
                argv0,
                launcher: None,
            });
        }
        let at = if leads { 0 } else { users.processes.len() };
        users.processes.insert(at, identity);
        if believed {
            let at = if leads { 0 } else { users.believed.len() };
            users.believed.insert(at, identity);
        }
    }
    found
}

impl Users {
    /// What the first process says of the session that it shows that says anything and is to be
    /// believed.
    pub(super) fn named(&self, proc: &ProcFs, rule: &TerminalRule) -> Option<Named> {
        let is_still =
            |id: Identity| matches!(proc.stat(id.pid), Ok(Some(stat)) if proc.is_same(id, &stat));
        let mut believed = self.believed.iter();
        // They may have been found a while ago.
        believed.find_map(|id| Named::by(proc, rule, id.pid).filter(|_| is_still(*id)))
    }

    /// The ports that its processes have among those of a gateway's callers.
    pub(super) fn ports(&self, proc: &ProcFs, callers: &Callers) -> Vec<u16> {
        let all = self.believed.iter().flat_map(|id| ports::of(proc, id.pid, callers));
        all.collect::<BTreeSet<u16>>().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{
        host::proc::fake::{Fake, FakeProc},
        profile::Profile,
    };

    /// The kernel tells an index only. Who mounts a devpts of his own opens index 3 on it, and has a
    /// process whose /dev/pts is the machine's say that pts/3 shows the session of somebody else.
    #[test]
    fn a_process_of_another_user_is_not_believed_to_be_on_a_terminal() {
        let Some(devpts) = Devpts::at(Path::new("/dev/pts")) else {
            eprintln!("SKIPPED: no devpts on /dev/pts");
            return;
        };
        let devpts = devpts.instance();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), r#"{"session_id": "wanted"}"#).unwrap();
        let fake = FakeProc::new();
        // 136 is the first major number of PTY slaves. Its user is 1000.
        fake.put(&Fake { pid: 10, sid: 10, tty_nr: 136 << 8 | 3, ..Fake::default() });
        symlink("/", fake.dir(10).join("root")).unwrap();
        let environ = format!("A=1\0HERMES_TUI_ACTIVE_SESSION_FILE={}\0", file.path().display());
        fs::write(fake.dir(10).join("environ"), environ).unwrap();

        let rule = Profile::hermes().terminal.unwrap();
        let place = (devpts, 3);
        let seen = |owner| {
            let proc = fake.proc();
            let found = users(&proc, &[(place, owner)].into());
            let users = &found[&place];
            let pids: Vec<u32> = users.processes.iter().map(|id| id.pid).collect();
            assert_eq!(pids, [10], "that it has a terminal of this index is so");
            (users.leader.is_some(), users.named(&proc, &rule).and_then(|it| it.session))
        };
        assert_eq!(seen(Some(1000)), (true, Some("wanted".to_owned())));
        assert_eq!(seen(Some(1001)), (false, None));
        assert_eq!(seen(None), (false, None));
    }
}
