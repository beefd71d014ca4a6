use std::collections::BTreeMap;

use crate::{
    host::proc::{Cmdline, ProcFs, ProcStat},
    model::{Identity, Process, Role, Spawn},
    profile::{OpenerRule, TerminalRule},
    redact,
};

/// Processes that are looked at above one worker.
const STEPS_MAX: usize = 32;
/// Bytes of an argv in which the tokens are looked for.
const ARGV_BYTES_MAX: usize = 4096;

/// Finds, once for each parent of workers, who above it opens terminals for sessions.
///
/// That is who forked the leader of the parent's session, if it has the tokens, and the parent is a
/// gateway that serves the terminal in which it runs and nothing else. Any other gateway was only
/// started in a terminal, and may be meant to outlive it.
#[derive(Debug)]
pub(super) struct Openers {
    inner: Vec<String>,
    tokens: Vec<String>,
    found: BTreeMap<Identity, (As, Option<Process>)>,
}

/// What a parent was when it was looked at: an exec, a setsid or another parent makes it another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct As {
    arg_start: u64,
    sid: u32,
    ppid: u32,
}

impl Openers {
    pub(super) fn new(rule: Option<&TerminalRule>) -> Self {
        let opener = rule.and_then(|rule| rule.opener.as_ref());
        let tokens = |tokens: fn(&OpenerRule) -> &Vec<String>| opener.map(tokens).cloned();
        Self {
            inner: tokens(|rule| &rule.inner_gateway).unwrap_or_default(),
            tokens: tokens(|rule| &rule.tokens).unwrap_or_default(),
            found: BTreeMap::new(),
        }
    }

    /// The opener above a worker that has a terminal.
    pub(super) fn of(&mut self, proc: &ProcFs, spawn: &Spawn) -> Option<Process> {
        if self.tokens.is_empty() || spawn.role != Role::Worker {
            return None;
        }
        spawn.terminal?;
        let parent = spawn.parent.as_ref().filter(|parent| !parent.reaper && !parent.gone)?;
        let parent = parent.process.identity();
        let stat = proc.stat(parent.pid).ok()??;
        if !proc.is_same(parent, &stat) {
            return None;
        }
        let now = As { arg_start: stat.arg_start, sid: stat.sid, ppid: stat.ppid };
        if let Some((then, found)) = self.found.get(&parent)
            && *then == now
        {
            return found.clone();
        }
        let found = self.search(proc, stat);
        self.found.insert(parent, (now, found.clone()));
        found
    }

    /// Forgets the parents that are gone.
    pub(super) fn retain(&mut self, mut lives: impl FnMut(Identity) -> bool) {
        self.found.retain(|&parent, _| lives(parent));
    }

    fn search(&self, proc: &ProcFs, parent: ProcStat) -> Option<Process> {
        let argv = |pid: u32| proc.cmdline(pid, ARGV_BYTES_MAX).ok().flatten();
        if !has(&argv(parent.pid)?, &self.inner) {
            return None;
        }
        let (pid, sid) = (parent.pid, parent.sid);
        let mut stat = parent;
        for _ in 0..STEPS_MAX {
            let above = proc.stat(stat.ppid).ok()??;
            // Who is younger, or in another session, did not fork it but adopted it.
            if above.start_ns > stat.start_ns {
                return None;
            }
            if stat.pid != sid {
                if above.sid != sid {
                    return None;
                }
                stat = above;
                continue;
            }
            let argv = argv(above.pid)?;
            let uid = |pid: u32| proc.ids(pid).ok().flatten().map(|ids| ids.uid);
            let opens = has(&argv, &self.tokens)
                && proc.exe_same(above.pid, pid)?
                && uid(above.pid)? == uid(pid)?;
            return opens.then(|| process(&above, &argv));
        }
        None
    }
}

/// Whether an argv has these tokens, one behind the other, somewhere behind its first one.
pub(in crate::sensor) fn has(argv: &Cmdline, tokens: &[String]) -> bool {
    let argv = argv.tokens();
    let arguments = argv.get(1..).unwrap_or_default();
    let mut places = arguments.windows(tokens.len().max(1));
    places.any(|place| place.iter().zip(tokens).all(|(one, token)| *one == token.as_bytes()))
}

fn process(stat: &ProcStat, argv: &Cmdline) -> Process {
    Process {
        pid: stat.pid,
        start_ns: stat.start_ns,
        comm: redact::escape(&stat.comm),
        argv0: argv.tokens().first().map(|token| redact::argv0(token)),
        launcher: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::samples,
        host::proc::fake::{FAKE, Fake, FakeProc},
        model::Terminal,
    };

    const DASHBOARD: &[u8] = b"python\0/opt/v/bin/hermes\0dashboard\0--tui\0";
    const GATEWAY: &[u8] = b"python\0-m\0tui_gateway.entry\0";
    const TERMINAL: Terminal = Terminal { instance: None, index: 3 };
    const TOP: Fake<'_> =
        Fake { pid: 10, ppid: 1, sid: 9, start_ticks: 100, cmdline: DASHBOARD, ..FAKE };
    const LEADER: Fake<'_> = Fake {
        pid: 20,
        ppid: 10,
        sid: 20,
        start_ticks: 200,
        cmdline: b"node\0",
        exe: "node",
        ..FAKE
    };
    const PARENT: Fake<'_> =
        Fake { pid: 30, ppid: 20, sid: 20, start_ticks: 300, cmdline: GATEWAY, ..FAKE };

    /// Above a worker: 30, its gateway, below 20, the leader of the terminal, whom 10 forked.
    struct Above {
        fake: FakeProc,
        openers: Openers,
    }

    impl Above {
        fn new(processes: &[Fake<'_>]) -> Self {
            let rule = crate::profile::Profile::hermes().terminal;
            let above = Self { fake: FakeProc::new(), openers: Openers::new(rule.as_ref()) };
            for process in [TOP, LEADER, PARENT].iter().chain(processes) {
                above.fake.put(process);
            }
            above
        }

        fn opener(&mut self, change: impl FnOnce(&mut Spawn)) -> Option<u32> {
            let proc = self.fake.proc();
            let mut spawn = samples::spawn();
            spawn.terminal = Some(TERMINAL);
            let parent = spawn.parent.as_mut().expect("a gateway");
            parent.process.pid = 30;
            parent.process.start_ns = proc.stat(30).unwrap().unwrap().start_ns;
            change(&mut spawn);
            self.openers.of(&proc, &spawn).map(|opener| opener.pid)
        }
    }

    #[test]
    fn the_dashboard_that_forked_the_leader_of_the_terminal_opened_it() {
        let mut tree = Above::new(&[]);
        assert_eq!(tree.opener(|_| {}), Some(10));
        assert_eq!(tree.opener(|spawn| spawn.terminal = None), None);
        // Who has that pid now is somebody else.
        assert_eq!(
            tree.opener(|spawn| spawn.parent.as_mut().unwrap().process.start_ns += 1 << 40),
            None
        );
        let between = Fake { pid: 25, ppid: 20, sid: 20, start_ticks: 250, ..FAKE };
        assert_eq!(Above::new(&[between, Fake { ppid: 25, ..PARENT }]).opener(|_| {}), Some(10));
    }

    /// `hermes serve` and `hermes dashboard` serve whoever connects, and were only started there.
    #[test]
    fn a_gateway_that_serves_more_than_its_terminal_may_outlive_it() {
        for cmdline in [DASHBOARD, b"python\0/opt/v/bin/hermes\0serve\0", b"hermes\0"] {
            assert_eq!(Above::new(&[Fake { cmdline, ..PARENT }]).opener(|_| {}), None);
        }
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        for cmdline in [&b"dashboard\0"[..], b"python\0my-dashboard\0", b"sshd: me@pts/3\0"] {
            assert_eq!(Above::new(&[Fake { cmdline, ..TOP }]).opener(|_| {}), None);
        }
        // tmux keeps the argv of the client that started it.
        let tmux = Fake { cmdline: b"tmux\0new\0hermes\0dashboard\0", exe: "tmux", ..TOP };
        assert_eq!(Above::new(&[tmux]).opener(|_| {}), None);
    }

    #[test]
    fn nobody_above_the_forker_of_the_leader_opened_it() {
        let forker = Fake { ppid: 5, cmdline: b"python\0", ..TOP };
        let above = Fake { pid: 5, ppid: 1, sid: 5, start_ticks: 50, ..TOP };
        assert_eq!(Above::new(&[forker, above]).opener(|_| {}), None);
    }

    /// The dashboard is the first process of a container, and adopts what lost its parent.
    #[test]
    fn who_adopted_it_did_not_open_its_terminal() {
        assert_eq!(Above::new(&[Fake { ppid: 10, ..PARENT }]).opener(|_| {}), None);
        assert_eq!(Above::new(&[Fake { start_ticks: 900, ..TOP }]).opener(|_| {}), None);
    }

    #[test]
    fn a_parent_that_became_something_else_is_looked_at_again() {
        let mut tree = Above::new(&[]);
        assert_eq!(tree.opener(|_| {}), Some(10));
        tree.fake.put(&Fake { cmdline: DASHBOARD, arg_start: 4096, ..PARENT });
        assert_eq!(tree.opener(|_| {}), None);
    }
}
