mod gateway;
mod sockets;
mod stdin;

use std::{
    cell::{Cell, RefCell},
    fs, io,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use super::{Decision, Facts, Policy, Protect, prepared::Prepared};
use crate::{
    host::{
        devpts::instance_of_tty,
        net::census::CensusTaker,
        proc::{ARGV_SEARCHED_BYTES, Allowance, Cmdline, Ids, ProcFs, ProcStat},
        unix::UnixEnds,
    },
    model::{Identity, Kind, Terminal},
    profile::Profile,
    redact::Redaction,
};

/// An exec that came before this was reported long since.
const TITLED: Duration = Duration::from_millis(500);
/// How far up the parents of a process are followed.
const DEPTH_MAX: usize = 64;
/// Longer than it takes from the end of a terminal's node to the end of its processes' hold on it.
const HANG_UP: Duration = Duration::from_millis(50);
/// How much of that is waited without a sleep: the kernel is at it, on another CPU or on this one,
/// and even the shortest sleep is 50 µs too long (`PR_SET_TIMERSLACK`, prctl(2)).
const AT_ONCE: Duration = Duration::from_millis(1);
/// After a wait that expired there is no other for this long: many may be checked, one after another.
const IMPATIENT: Duration = Duration::from_secs(1);

/// Why a worker is not ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum No {
    /// It has ended.
    Gone,
    /// A check said no.
    Refused(String),
}

impl No {
    fn because(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    fn unread(what: &str, error: &io::Error) -> Self {
        Self::Refused(format!("{what} cannot be read: {error}"))
    }
}

/// A gateway, and what /proc says of it.
type Looked = (Identity, io::Result<Option<ProcStat>>);

/// The checks at the moment of acting. What cannot be read is a no.
#[derive(Debug)]
pub(super) struct Checks {
    proc: ProcFs,
    root: PathBuf,
    profile: Profile,
    /// The gate that the session keys of decisions have passed.
    redaction: Redaction,
    protect: Protect,
    prepared: Prepared,
    unix: RefCell<UnixEnds>,
    census: RefCell<CensusTaker>,
    /// Slashtrace itself and the processes above it at its start. Later there are none but these:
    /// an orphan is adopted by a process that was above it before, or by the first of its pid
    /// namespace (`find_new_reaper`, kernel/exit.c), which is never ended.
    ours: io::Result<Vec<u32>>,
    /// When the last wait expired.
    in_vain: Cell<Option<Instant>>,
}

impl Checks {
    pub(super) fn new(root: &Path, profile: Profile, policy: &Policy) -> Self {
        let proc = ProcFs::new(root).with_allowance(Allowance::CHECK);
        Self {
            root: root.to_owned(),
            profile,
            redaction: Redaction::default(),
            protect: policy.protect.clone(),
            prepared: Prepared::new(proc.clone(), policy),
            unix: RefCell::default(),
            census: RefCell::new(CensusTaker::new(root)),
            ours: above(&proc, process::id()),
            in_vain: Cell::new(None),
            proc,
        }
    }

    /// Compares session keys as this gate shows them.
    pub(super) fn redact_with(&mut self, redaction: Redaction) {
        self.redaction = redaction;
    }

    /// What was opened in advance.
    pub(super) fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// The same, to be kept up to date.
    pub(super) fn prepared_mut(&mut self) -> &mut Prepared {
        &mut self.prepared
    }

    /// Whether the worker that was decided about is there, is what it was, and nobody needs it.
    /// The caller holds a pidfd of its pid since before, and sees afterwards that this process has
    /// not ended: then everything that was read here was read of one process.
    pub(super) fn all(&self, decision: &Decision) -> Result<(), No> {
        let pid = decision.worker.pid;
        self.is_not_ours(pid)?;
        let (mut stat, cmdline, uid) = self.itself(decision)?;
        let gateway = self.living_gateway(decision);
        if let Some((gateway, _)) = gateway {
            self.gateway(gateway, uid, decision)?;
        }
        let gateway = self.was_hung_up(&mut stat, gateway, decision)?;
        self.is_unprotected(pid, uid, &cmdline, gateway)?;
        self.is_no_gateway(&stat, decision)?;
        let orphaned = decision.gateway.is_some() && gateway.is_none();
        let unreached =
            matches!(decision.kind, Kind::GatewayOrphan | Kind::LauncherOrphan | Kind::Unreachable);
        if orphaned || unreached {
            self.is_not_in_use(decision)?;
        }
        self.has_no_client(decision, &cmdline)?;
        self.has_no_client_at(gateway, decision)?;
        self.has_been_quiet(decision)
    }

    /// Whether the worker alone is what it was: what is left to ask a moment after [`Self::all`]
    /// said yes.
    pub(super) fn still(&self, decision: &Decision) -> Result<(), No> {
        self.itself(decision).map(drop)
    }

    fn itself(&self, decision: &Decision) -> Result<(ProcStat, Cmdline, u32), No> {
        let pid = decision.worker.pid;
        let stat = self.identity(decision.worker)?;
        let cmdline = self.argv(&stat, decision)?;
        let uid = self.owner(pid, decision)?;
        Ok((stat, cmdline, uid))
    }

    /// Whether a process is there and runs: a zombie does not.
    pub(super) fn lives(&self, id: Identity) -> bool {
        self.is_living(id, &self.stat(id.pid))
    }

    /// What /proc says of a process, from what was opened in advance if that is still of whoever has
    /// this pid.
    fn stat(&self, pid: u32) -> io::Result<Option<ProcStat>> {
        let held = self.prepared.files(pid);
        match held.map(|held| held.stat(&self.proc)) {
            Some(Ok(Some(stat))) => Ok(Some(stat)),
            _ => self.proc.stat(pid),
        }
    }

    fn ids(&self, pid: u32) -> io::Result<Option<Ids>> {
        match self.prepared.files(pid).map(|held| held.ids()) {
            Some(Ok(Some(ids))) => Ok(Some(ids)),
            _ => self.proc.ids(pid),
        }
    }

    fn children(&self, of: &ProcStat) -> io::Result<Vec<u32>> {
        let held = self.prepared.files(of.pid);
        match held.and_then(|held| held.children(of.threads)) {
            Some(children) => Ok(children),
            None => self.proc.children(of.pid),
        }
    }

    fn is_living(&self, id: Identity, stat: &io::Result<Option<ProcStat>>) -> bool {
        match stat {
            Ok(Some(stat)) => self.proc.is_same(id, stat) && !stat.ended(),
            Ok(None) => false,
            // Not known to have ended.
            Err(_) => true,
        }
    }

    fn is_not_ours(&self, pid: u32) -> Result<(), No> {
        if pid <= 1 {
            return Err(No::because(format!("pid {pid} is never ended")));
        }
        match &self.ours {
            Ok(ours) if ours.contains(&pid) => {
                Err(No::because("it is slashtrace itself, or above it"))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(No::unread("the processes above slashtrace", error)),
        }
    }

    fn identity(&self, worker: Identity) -> Result<ProcStat, No> {
        let stat = self.stat(worker.pid).map_err(|error| No::unread("its stat", &error))?;
        let stat = stat.ok_or(No::Gone)?;
        if !self.proc.is_same(worker, &stat) {
            return Err(No::because(format!(
                "pid {} is another process by now: it started at {} ns, the worker at {} ns",
                worker.pid, stat.start_ns, worker.start_ns
            )));
        }
        if stat.ended() { Err(No::Gone) } else { Ok(stat) }
    }

    fn argv(&self, stat: &ProcStat, decision: &Decision) -> Result<Cmdline, No> {
        let pid = stat.pid;
        let cmdline = self.cmdline(pid)?.ok_or(No::Gone)?;
        // A kernel thread has none, nor has a process that is about to end.
        if cmdline.bytes.is_empty() {
            return Err(No::because("it has no arguments: it is about to end"));
        }
        let tokens = cmdline.tokens();
        let Some(found) = self.profile.match_worker(&tokens) else {
            // One that was seen to become a worker, and has executed nothing since, wrote a title
            // over its arguments.
            let held = self.prepared.files(pid).filter(|_| decision.seen_exec);
            if held.is_some_and(|held| held.executed_nothing(stat, TITLED)) {
                return Ok(cmdline);
            }
            return Err(No::because("its arguments are no worker's by now"));
        };
        let session = self.proc.session_key(decision.worker, &found);
        let session = session.map(|key| self.redaction.session_key(&key).into_owned());
        let unseen = decision.session.is_none() && decision.argv_truncated;
        if session != decision.session && !unseen {
            return Err(No::because("its arguments name another session by now"));
        }
        Ok(cmdline)
    }

    fn cmdline(&self, pid: u32) -> Result<Option<Cmdline>, No> {
        let held = self.prepared.files(pid);
        let cmdline = match held.map(|held| held.cmdline(ARGV_SEARCHED_BYTES)) {
            Some(Ok(Some(cmdline))) => Ok(Some(cmdline)),
            _ => self.proc.cmdline(pid, ARGV_SEARCHED_BYTES),
        };
        cmdline.map_err(|error| No::unread("its arguments", &error))
    }

    fn is_worker(&self, pid: u32) -> Result<bool, No> {
        let cmdline = self.cmdline(pid)?.unwrap_or_default();
        Ok(self.profile.match_worker(&cmdline.tokens()).is_some())
    }

    fn uid(&self, pid: u32) -> Result<u32, No> {
        let ids = self.ids(pid).map_err(|error| No::unread("its user id", &error))?;
        let ids = ids.ok_or(No::Gone)?;
        if ids.namespace_init {
            return Err(No::because("it is the first process of a pid namespace"));
        }
        Ok(ids.uid)
    }

    fn owner(&self, pid: u32, decision: &Decision) -> Result<u32, No> {
        let uid = self.uid(pid)?;
        if uid != decision.uid {
            return Err(No::because(format!(
                "its real user id is {uid} by now; at its start it was {}",
                decision.uid
            )));
        }
        Ok(uid)
    }

    fn gateway(&self, gateway: Identity, uid: u32, decision: &Decision) -> Result<(), No> {
        if decision.kind == Kind::GatewayOrphan {
            return Err(No::because(format!("its gateway {gateway} lives")));
        }
        match self.ids(gateway.pid) {
            Ok(Some(ids)) if ids.uid == uid => Ok(()),
            Ok(Some(ids)) => Err(No::because(format!(
                "its real user id is {uid}, that of its gateway {gateway} is {}",
                ids.uid
            ))),
            Ok(None) => Err(No::because(format!("its gateway {gateway} ended just now"))),
            Err(error) => Err(No::unread("the user id of its gateway", &error)),
        }
    }

    /// The gateway, if it lives: and what /proc says of it.
    fn living_gateway(&self, decision: &Decision) -> Option<Looked> {
        let looked = decision.gateway.map(|gateway| (gateway, self.stat(gateway.pid)));
        looked.filter(|(gateway, stat)| self.is_living(*gateway, stat))
    }

    /// Whether the terminal that is said to be closed is: the last close of a master takes it from
    /// every process of its session (`__tty_hangup`, drivers/tty/tty_io.c).
    ///
    /// It is told a moment before that (`devpts_pty_kill` and `tty_vhangup` in `pty_close`,
    /// drivers/tty/pty.c), so who has it still is asked again; not where that wait expired just now.
    ///
    /// Returns the gateway, if it lived at the last look: the end of a terminal may be its end. What
    /// was read of the worker is read anew at each look.
    fn was_hung_up(
        &self,
        worker: &mut ProcStat,
        gateway: Option<Looked>,
        decision: &Decision,
    ) -> Result<Option<Identity>, No> {
        let mut lives = gateway.as_ref().map(|(gateway, _)| *gateway);
        let Some(closed) = decision.terminal else { return Ok(lives) };
        let mut has_it = self.who_has(closed, worker, gateway)?;
        let began = Instant::now();
        let patient = self.in_vain.get().is_none_or(|then| then.elapsed() > IMPATIENT);
        while has_it.is_some() && patient && began.elapsed() < HANG_UP {
            if began.elapsed() < AT_ONCE {
                thread::yield_now();
            } else {
                thread::sleep(HANG_UP / 500);
            }
            *worker = self.identity(decision.worker)?;
            let gateway = self.living_gateway(decision);
            lives = gateway.as_ref().map(|(gateway, _)| *gateway);
            has_it = self.who_has(closed, worker, gateway)?;
        }
        let Some(pid) = has_it else { return Ok(lives) };
        if patient {
            self.in_vain.set(Some(Instant::now()));
        }
        Err(No::because(format!(
            "{pid} has pts/{} as controlling terminal, which was said to be closed",
            closed.index
        )))
    }

    /// Who of a worker, its gateway and the leader of that one's session has a terminal.
    fn who_has(
        &self,
        closed: Terminal,
        worker: &ProcStat,
        gateway: Option<Looked>,
    ) -> Result<Option<u32>, No> {
        let unread = |error| No::unread("whether its gateway has the closed terminal", &error);
        let gateway = gateway.map(|(_, stat)| stat).transpose().map_err(unread)?.flatten();
        // Most often it leads its session itself.
        let leader = gateway.as_ref().filter(|gateway| gateway.sid != gateway.pid);
        let leader = leader.map(|gateway| self.stat(gateway.sid));
        let leader = leader.transpose().map_err(unread)?.flatten();
        let mut all = [Some(worker), gateway.as_ref(), leader.as_ref()].into_iter().flatten();
        let has_it = all.find(|process| {
            let index = process.terminal.map(|terminal| terminal.index);
            // A sandbox that was started from a terminal keeps that, and has its own of the index.
            let other = || {
                let on = instance_of_tty(&self.proc, process, closed.index);
                on.zip(closed.instance).is_some_and(|(on, closed)| on != closed)
            };
            index == Some(closed.index) && !other()
        });
        Ok(has_it.map(|process| process.pid))
    }

    fn is_unprotected(
        &self,
        pid: u32,
        uid: u32,
        cmdline: &Cmdline,
        gateway: Option<Identity>,
    ) -> Result<(), No> {
        let cgroups = if self.protect.asks_cgroups() { self.cgroups(pid)? } else { Vec::new() };
        let argv = cmdline.tokens();
        let facts = Facts { pid, uid, argv: &argv, cgroups: &cgroups };
        if let Some(reason) = self.protect.covers(&facts) {
            return Err(No::because(reason));
        }
        if let Some(gateway) = gateway.filter(|gateway| self.protect.pids.contains(&gateway.pid)) {
            return Err(No::because(format!("its gateway {gateway} is protected")));
        }
        let Some(gateway) = gateway.filter(|_| !self.protect.tokens.is_empty()) else {
            return Ok(());
        };
        let cmdline = self.cmdline(gateway.pid)?.unwrap_or_default();
        match self.protect.token_of(&cmdline.tokens()) {
            Some(token) => Err(No::because(format!(
                "the argument `{token}` of its gateway {gateway} is protected"
            ))),
            None => Ok(()),
        }
    }

    /// Paths of a process in its cgroup hierarchies: what stands behind the second colon of each
    /// line of /proc/PID/cgroup (cgroups(7)).
    fn cgroups(&self, pid: u32) -> Result<Vec<String>, No> {
        let text = fs::read(self.root.join(pid.to_string()).join("cgroup"))
            .map_err(|error| No::unread("its cgroup", &error))?;
        let text = String::from_utf8_lossy(&text);
        let path = |line: &str| line.splitn(3, ':').nth(2).map(str::to_owned);
        Ok(text.lines().filter_map(path).collect())
    }

    /// A worker that forked other live workers is their gateway, and gateways are never ended.
    fn is_no_gateway(&self, worker: &ProcStat, decision: &Decision) -> Result<(), No> {
        if let Some(other) = decision.gateway_of.iter().find(|id| self.lives(**id)) {
            return Err(No::because(format!("it is the gateway of worker {other}")));
        }
        let children = self.children(worker);
        for pid in children.map_err(|error| No::unread("its children", &error))? {
            let Ok(Some(stat)) = self.stat(pid) else { continue };
            // A child that has not executed anything shows its parent's arguments.
            let executed = stat.arg_start != worker.arg_start;
            if executed && !stat.ended() && self.is_worker(pid)? {
                return Err(No::because(format!("it is the gateway of worker {pid}")));
            }
        }
        Ok(())
    }
}

/// A process and those above it.
fn above(proc: &ProcFs, pid: u32) -> io::Result<Vec<u32>> {
    let mut found = vec![pid];
    for _ in 0..DEPTH_MAX {
        match proc.stat(found[found.len() - 1])? {
            Some(stat) if stat.ppid > 0 => found.push(stat.ppid),
            _ => break,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
