use std::collections::BTreeMap;

use crate::{
    model::{Identity, Process, Role, Spawn},
    profile::TerminalRule,
    redact,
    sensor::proc::{Cmdline, ProcFs, ProcStat},
};

/// Processes that are looked at above one worker.
const STEPS_MAX: usize = 32;
/// Bytes of an argv in which the tokens are looked for.
const ARGV_BYTES_MAX: usize = 4096;

/// Finds, once for each parent of workers, who above it opens terminals for sessions.
///
/// A parent that is a gateway of its own was only started in a terminal which others opened (sshd,
/// tmux, another session's): so it is the *nearest* process with the tokens that counts, and it runs
/// the parent's program (tmux keeps `hermes dashboard` in its own argv, too).
#[derive(Debug)]
pub(super) struct Openers {
    tokens: Vec<String>,
    found: BTreeMap<Identity, Option<Process>>,
}

impl Openers {
    pub(super) fn new(rule: Option<&TerminalRule>) -> Self {
        let tokens = rule.map(|rule| rule.opener.clone()).unwrap_or_default();
        Self { tokens, found: BTreeMap::new() }
    }

    /// The opener above a worker that has a terminal.
    pub(super) fn of(&mut self, proc: &ProcFs, spawn: &Spawn) -> Option<Process> {
        if self.tokens.is_empty() || spawn.role != Role::Worker {
            return None;
        }
        spawn.terminal?;
        let parent = spawn.parent.as_ref().filter(|parent| !parent.reaper && !parent.gone)?;
        let parent = parent.process.identity();
        let found = self.found.entry(parent);
        found.or_insert_with(|| search(&self.tokens, proc, parent)).clone()
    }

    /// Forgets the parents that are gone.
    pub(super) fn retain(&mut self, lives: impl Fn(Identity) -> bool) {
        self.found.retain(|&parent, _| lives(parent));
    }
}

fn search(tokens: &[String], proc: &ProcFs, parent: Identity) -> Option<Process> {
    let mut stat = proc.stat(parent.pid).ok()??;
    if !proc.is_same(parent, &stat) {
        return None;
    }
    let mut last = false;
    for _ in 0..STEPS_MAX {
        let argv = proc.cmdline(stat.pid, ARGV_BYTES_MAX).ok()??;
        if opens(tokens, &argv) {
            let same = proc.exe_same(stat.pid, parent.pid)?;
            return same.then(|| process(&stat, &argv));
        }
        // A terminal is opened by who forks its leader, and by nobody above that.
        if last {
            return None;
        }
        last = stat.pid == stat.sid;
        stat = proc.stat(stat.ppid).ok()??;
    }
    None
}

/// Whether an argv has all the tokens, anywhere behind its first one.
fn opens(tokens: &[String], argv: &Cmdline) -> bool {
    let argv = argv.tokens();
    let arguments = argv.get(1..).unwrap_or_default();
    tokens.iter().all(|token| arguments.contains(&token.as_bytes()))
}

fn process(stat: &ProcStat, argv: &Cmdline) -> Process {
    Process {
        pid: stat.pid,
        start_ns: stat.start_ns,
        comm: redact::escape(&stat.comm),
        argv0: argv.tokens().first().map(|token| redact::argv0(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::samples,
        model::Terminal,
        sensor::proc::fake::{Fake, FakeProc},
    };

    const DASHBOARD: &[u8] = b"python\0/opt/v/bin/hermes\0dashboard\0--tui\0";
    const TERMINAL: Terminal = Terminal { instance: None, index: 3 };

    /// Above a worker: 30, its gateway, below 20, the leader of the terminal, whom 10 forked.
    struct Above {
        fake: FakeProc,
    }

    impl Above {
        fn new(opener: &[u8], gateway: &[u8]) -> Self {
            let fake = FakeProc::new();
            fake.put(&Fake { pid: 10, ppid: 1, sid: 9, cmdline: opener, ..Fake::default() });
            fake.put(&Fake {
                pid: 20,
                ppid: 10,
                sid: 20,
                cmdline: b"node\0",
                exe: "node",
                ..Fake::default()
            });
            fake.put(&Fake { pid: 30, ppid: 20, sid: 20, cmdline: gateway, ..Fake::default() });
            Self { fake }
        }

        fn opener(&self, change: impl FnOnce(&mut Spawn)) -> Option<u32> {
            let proc = self.fake.proc();
            let mut spawn = samples::spawn();
            spawn.terminal = Some(TERMINAL);
            let parent = spawn.parent.as_mut().expect("a gateway");
            parent.process.pid = 30;
            parent.process.start_ns = proc.stat(30).unwrap().unwrap().start_ns;
            change(&mut spawn);
            let rule = crate::profile::Profile::hermes().terminal;
            Openers::new(rule.as_ref()).of(&proc, &spawn).map(|opener| opener.pid)
        }
    }

    #[test]
    fn the_dashboard_that_forked_the_leader_of_the_terminal_opened_it() {
        let tree = Above::new(DASHBOARD, b"python\0-m\0tui_gateway.entry\0");
        assert_eq!(tree.opener(|_| {}), Some(10));
        assert_eq!(tree.opener(|spawn| spawn.terminal = None), None);
        // Who has that pid now is somebody else.
        assert_eq!(
            tree.opener(|spawn| spawn.parent.as_mut().unwrap().process.start_ns += 1 << 40),
            None
        );
    }

    #[test]
    fn a_gateway_that_was_started_in_a_terminal_is_the_nearest() {
        assert_eq!(Above::new(DASHBOARD, DASHBOARD).opener(|_| {}), Some(30));
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for argv in [&b"dashboard\0"[..], b"python\0my-dashboard\0", b"sshd: me@pts/3\0"] {
            assert_eq!(Above::new(argv, b"python\0").opener(|_| {}), None);
        }
        // tmux keeps the argv of the client that started it.
        let tree = Above::new(DASHBOARD, b"python\0");
        let tmux = b"tmux\0new\0hermes\0dashboard\0";
        tree.fake.put(&Fake {
            pid: 10,
            ppid: 1,
            sid: 9,
            cmdline: tmux,
            exe: "tmux",
            ..Fake::default()
        });
        assert_eq!(tree.opener(|_| {}), None);
    }

    #[test]
    fn nobody_above_the_forker_of_the_leader_opened_it() {
        let tree = Above::new(b"python\0", b"python\0");
        tree.fake.put(&Fake { pid: 10, ppid: 5, sid: 9, cmdline: b"python\0", ..Fake::default() });
        tree.fake.put(&Fake { pid: 5, ppid: 1, sid: 5, cmdline: DASHBOARD, ..Fake::default() });
        assert_eq!(tree.opener(|_| {}), None);
    }
}
