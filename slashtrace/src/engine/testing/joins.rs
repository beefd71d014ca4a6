//! Workers of a flat tree: one gateway serves several terminals, and its workers have none of their
//! own. Which is whose shows in `terminal-orphan`, which names the terminal that closed.

use super::scenario::{History, S, pids};
use crate::model::{
    Body, Confidence, ForkingThread, Identity, Kind, Reply, ReplyEnd, Sent, TerminalEvent,
    TerminalState, ThreadClone, testing,
};

const GATEWAY: u32 = 100;
const MS: u64 = 1_000_000;
/// Longer than the terminal grace.
const PAST: u64 = 31 * S;

/// Tabs of one gateway; terminal n has the port 40000 + n.
struct Tabs {
    history: History,
    opened: u64,
    workers: Vec<(u32, Identity)>,
}

fn port(index: u32) -> u16 {
    40_000 + index as u16
}

impl Tabs {
    fn new(indices: impl IntoIterator<Item = u32>) -> Self {
        let history = History::new().starting_at(100 * S);
        let mut tabs = Self { opened: history.now(), history, workers: Vec::new() };
        for index in indices {
            tabs.terminal(index, |_| {});
        }
        tabs.history.after(2 * S);
        tabs
    }

    fn terminal(&mut self, index: u32, change: impl FnOnce(&mut TerminalEvent)) -> &mut Self {
        let mut event = TerminalEvent {
            master: Some(self.history.process(GATEWAY)),
            ports: vec![port(index)],
            ..testing::terminal(index, self.opened)
        };
        change(&mut event);
        self.history.tell(Body::Terminal(Box::new(event)));
        self
    }

    /// A session's worker is forked by a timer's thread, after the client of a terminal asked for it;
    /// `writes` is the terminal that then names something in its file, `to` are the ports that are
    /// sent something after the fork.
    fn asks(&mut self, pid: u32, key: &str, writes: Option<u32>, to: Option<&[u16]>) -> &mut Self {
        let asked = self.history.now();
        self.history.after(20 * MS);
        if let Some(index) = writes {
            let at = self.history.now();
            self.terminal(index, |event| {
                event.session = Some(format!("id-of-{key}"));
                event.session_ns = Some(at);
            });
        }
        self.history.after(980 * MS);
        let made = |by, at_ns, replied_ns| ThreadClone { by, at_ns, replied_ns };
        let clones = vec![made(8, asked + 55 * MS, None), made(7, asked, Some(asked + 3 * MS))];
        self.forks(pid, key, clones, to)
    }

    fn forks(
        &mut self,
        pid: u32,
        key: &str,
        clones: Vec<ThreadClone>,
        to: Option<&[u16]>,
    ) -> &mut Self {
        let id = Identity { pid, start_ns: self.history.now() };
        self.workers.push((pid, id));
        self.history.spawn_with(pid, GATEWAY, |spawn| {
            spawn.session = Some(key.to_owned());
            spawn.thread = Some(ForkingThread { tid: pid + 1, clones });
        });
        let Some(to) = to else { return self };
        let gateway = self.history.process(GATEWAY).identity();
        self.history.after(S);
        let at = self.history.now();
        self.history.tell(Body::Reply(Box::new(Reply {
            pid: gateway.pid,
            start_ns: gateway.start_ns,
            worker: id,
            tid: pid + 1,
            from_ns: at,
            until_ns: at + 5 * MS,
            ended: ReplyEnd::Exit,
            sent: to.iter().map(|&port| Sent { port, at_ns: at + MS }).collect(),
            complete: true,
        })));
        self.history.after(S);
        self
    }

    fn closes(&mut self, index: u32) -> &mut Self {
        self.terminal(index, |event| event.state = TerminalState::Closed);
        self.history.after(PAST);
        self
    }

    /// Whom `terminal-orphan` names, on which terminal, how surely.
    fn orphans(&self) -> Vec<(u32, u32, Confidence)> {
        let open = self.history.driver.open.values();
        let orphans = open.filter(|finding| finding.kind == Kind::TerminalOrphan);
        orphans
            .map(|it| (pids(it)[0], it.terminal.expect("it names one").index, it.confidence))
            .collect()
    }
}

#[test]
fn two_signals_that_agree_are_strong_and_the_other_tabs_are_left_alone() {
    let mut tabs = Tabs::new([1, 2, 3]);
    tabs.asks(11, "a", Some(1), Some(&[port(1), 50_000]));
    tabs.asks(12, "b", Some(2), Some(&[port(2)]));
    tabs.asks(13, "c", Some(3), Some(&[port(1), port(3)]));
    assert!(tabs.orphans().is_empty());
    tabs.closes(3);
    assert_eq!(tabs.orphans(), [(13, 3, Confidence::Strong)]);
    let finding = tabs.history.found(Kind::TerminalOrphan);
    assert!(finding.workers[0].unused);
    assert_eq!(
        finding.text,
        "terminal pts/3 of session c closed; worker 13 outlived it by 30 s or longer (session file \
         written, and replied to, for its session)"
    );
    // What it rests on: the spawn, the terminal, its close, the write and the reply.
    assert_eq!(finding.because.len(), 5, "{finding:?}");
    tabs.closes(1);
    let mut named = tabs.orphans();
    named.sort_unstable_by_key(|it| it.0);
    assert_eq!(named, [(11, 1, Confidence::Strong), (13, 3, Confidence::Strong)]);
}

#[test]
fn one_signal_is_weak_and_a_contradiction_is_silence() {
    let found = |writes: Option<u32>, to: Option<&[u16]>| {
        let mut tabs = Tabs::new([1, 2]);
        tabs.asks(11, "a", writes, to).closes(1);
        tabs.orphans().first().map(|it| it.2)
    };
    assert_eq!(found(Some(1), None), Some(Confidence::Weak));
    assert_eq!(found(None, Some(&[port(1)])), Some(Confidence::Weak));
    assert_eq!(found(Some(2), Some(&[port(1)])), None);
    assert_eq!(found(Some(1), Some(&[50_000])), None, "it is a plain websocket's");
    assert_eq!(found(None, Some(&[port(1), port(2)])), None);
    assert_eq!(found(None, None), None);
}

#[test]
fn later_workers_of_a_session_are_where_its_first_was() {
    let mut tabs = Tabs::new([1, 2]);
    tabs.asks(11, "a", Some(1), Some(&[port(1)]));
    tabs.history.exit(11).after(S);
    // A model switch: forked by a pool's thread that is older than the recording.
    tabs.forks(21, "a", Vec::new(), Some(&[port(1), port(2)])).closes(1);
    assert_eq!(tabs.orphans(), [(21, 1, Confidence::Strong)]);
}

#[test]
fn a_session_that_moved_to_another_tab_is_not_orphaned() {
    // Its later worker was asked for from there.
    for to in [&[port(2)][..], &[50_000]] {
        let mut tabs = Tabs::new([1, 2]);
        tabs.asks(11, "a", Some(1), Some(&[port(1)]));
        tabs.forks(21, "a", Vec::new(), Some(to)).closes(1);
        assert_eq!(tabs.orphans(), [], "{to:?}");
    }
    // The other tab's file names its key, or the id that its own file named.
    for named in ["a", "id-of-a"] {
        let mut tabs = Tabs::new([1, 2]);
        tabs.asks(11, "a", Some(1), Some(&[port(1)]));
        let at = tabs.history.now();
        tabs.terminal(2, |event| {
            event.session = Some(named.to_owned());
            event.session_ns = Some(at);
        });
        tabs.closes(1);
        assert_eq!(tabs.orphans(), [], "{named}");
    }
    // Or it was started to show it.
    let mut tabs = Tabs::new([1, 2]);
    tabs.asks(11, "a", Some(1), Some(&[port(1)]));
    tabs.terminal(2, |event| event.resumes = Some("a".to_owned())).closes(1);
    assert_eq!(tabs.orphans(), []);
}

#[test]
fn a_tab_that_went_on_to_another_session_is_only_weak_for_the_first() {
    let mut tabs = Tabs::new([1, 2]);
    tabs.asks(11, "a", Some(1), Some(&[port(1)]));
    tabs.asks(12, "b", Some(1), Some(&[port(1)])).closes(1);
    let mut named = tabs.orphans();
    named.sort_unstable_by_key(|it| it.0);
    assert_eq!(named, [(11, 1, Confidence::Weak), (12, 1, Confidence::Strong)]);
}

#[test]
fn a_terminal_that_was_started_to_resume_a_session_is_its_own() {
    let mut tabs = Tabs::new([1, 2]);
    tabs.terminal(1, |event| event.resumes = Some("a".to_owned()));
    tabs.forks(11, "a", Vec::new(), None).closes(1);
    assert_eq!(tabs.orphans(), [(11, 1, Confidence::Strong)]);
    // It has shown another one since.
    let mut tabs = Tabs::new([1, 2]);
    let at = tabs.history.now();
    tabs.terminal(1, |event| {
        event.resumes = Some("a".to_owned());
        event.session = Some("b".to_owned());
        event.session_ns = Some(at);
    });
    tabs.forks(11, "a", Vec::new(), None).closes(1);
    assert_eq!(tabs.orphans(), []);
}

/// As recordings of earlier versions are: nothing is known of threads.
#[test]
fn without_any_of_it_the_moment_of_opening_counts_as_before() {
    let mut tabs = Tabs::new([1]);
    tabs.history.spawn(11, GATEWAY, "a").after(S);
    tabs.closes(1);
    assert_eq!(tabs.orphans(), [(11, 1, Confidence::Weak)]);
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut tabs = Tabs::new([1]);
    for n in 0..3_000 {
        tabs.history.spawn_with(1_000 + n, GATEWAY, |spawn| {
            spawn.session = Some(format!("s{n}"));
            spawn.thread = Some(ForkingThread { tid: 5, clones: Vec::new() });
        });
        tabs.history.exit(1_000 + n).after(MS);
    }
    assert!(tabs.history.driver.roster.joined_sessions() <= 1_024);
}
