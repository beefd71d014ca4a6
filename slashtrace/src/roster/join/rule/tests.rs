use super::*;
use crate::model::{Identity, ReplyEnd, Sent, ThreadClone};

const MS: u64 = 1_000_000;
/// When the first request of most worlds came, ms.
const T: u64 = 10_000;

/// A terminal: its number, connections, writes, and when it was closed.
type Tab = (u32, BTreeMap<u16, Connected>, Vec<Write>, Option<u64>);

/// Terminals by number, each with a port of its own: 40000 + number.
#[derive(Default)]
struct World {
    terminals: Vec<Tab>,
    requests: Vec<(ForkingThread, Option<Reply>, u64)>,
    taken: BTreeSet<(u32, u64)>,
}

fn port(terminal: u32) -> u16 {
    40_000 + terminal as u16
}

/// The port of a client that is no terminal.
const PLAIN: u16 = 50_000;

fn reply(at: u64, ports: &[u16]) -> Reply {
    let id = |pid| Identity { pid, start_ns: 1 };
    Reply {
        pid: 1,
        start_ns: 1,
        worker: id(2),
        tid: 3,
        from_ns: at * MS,
        until_ns: (at + 5) * MS,
        ended: ReplyEnd::Exit,
        sent: ports.iter().map(|&port| Sent { port, at_ns: (at + 1) * MS }).collect(),
        complete: true,
    }
}

/// A timer's thread: cloned at `at` ms, with a reply a few ms later.
fn built(at: u64, replied: Option<u64>) -> ForkingThread {
    let made = |by, at: u64, replied: Option<u64>| ThreadClone {
        by,
        at_ns: at * MS,
        replied_ns: replied.map(|at| at * MS),
    };
    ForkingThread {
        tid: 9,
        clones: vec![made(8, at + 55, None), made(7, at, replied), made(1, 1, None)],
    }
}

/// A pool's thread, cloned by another one of a pool.
fn pooled(at: u64) -> ForkingThread {
    let mut thread = built(at, None);
    thread.clones[0].at_ns = (at + 1) * MS;
    thread
}

impl World {
    fn terminals(mut self, numbers: impl IntoIterator<Item = u32>) -> Self {
        for number in numbers {
            let ports = [(port(number), Connected { from: MS, until: None })].into();
            self.terminals.push((number, ports, Vec::new(), None));
        }
        self
    }

    fn writes(mut self, terminal: u32, at: u64) -> Self {
        let one = self.terminals.iter_mut().find(|one| one.0 == terminal).expect("it is open");
        one.2.push(Write { at: at * MS, session: format!("{terminal}-{at}"), seq: at });
        self
    }

    fn asks(mut self, thread: ForkingThread, reply: Option<Reply>) -> Self {
        self.requests.push((thread, reply, (T + 2_000) * MS));
        self
    }

    fn found(&self) -> Vec<Option<(u32, By)>> {
        let terminals: Vec<View<'_, u32>> = self
            .terminals
            .iter()
            .map(|(key, ports, writes, closed)| View {
                key: *key,
                opened: MS,
                closed: *closed,
                ports,
                writes,
            })
            .collect();
        let requests: Vec<Request<'_>> = self
            .requests
            .iter()
            .enumerate()
            .map(|(session, (thread, reply, forked))| Request {
                session,
                forked: *forked,
                thread,
                reply: reply.as_ref(),
            })
            .collect();
        let replies: Vec<_> = self
            .requests
            .iter()
            .filter_map(|(_, reply, _)| reply.as_ref().map(|it| it.from_ns..=it.until_ns))
            .collect();
        let found = join(requests.len(), &requests, &terminals, &self.taken, &replies);
        found.into_iter().map(|it| it.map(|it| (it.terminal, it.by))).collect()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it stands where none may stand")]
fn replied(at: u64, ports: &[u16]) -> Option<Reply> {
    Some(reply(at, ports))
}

#[test]
fn both_together_are_sure_and_each_alone_is_not() {
    let built = || built(T, Some(T + 4));
    let tabs = || World::default().terminals([1, 2]);
    let both = tabs().writes(1, T + 10).asks(built(), replied(T + 2_500, &[PLAIN, port(1)]));
    assert_eq!(both.found(), [Some((1, By::Both))]);
    // No hook, or it never replied.
    let write = tabs().writes(1, T + 10).asks(built(), None);
    assert_eq!(write.found(), [Some((1, By::Write))]);
    // A terminal that names no session anywhere.
    let reply = tabs().writes(2, 5).asks(built(), replied(T + 2_500, &[PLAIN, port(1)]));
    assert_eq!(reply.found(), [Some((1, By::Reply))]);
    let pool = tabs().writes(1, T).asks(pooled(T), replied(T + 2_500, &[port(1), PLAIN]));
    assert_eq!(pool.found(), [Some((1, By::Reply))]);
}

#[test]
fn what_contradicts_or_leaves_several_says_nothing() {
    let built = || built(T, Some(T + 4));
    let tabs = || World::default().terminals([1, 2]);
    let none = |world: World| assert_eq!(world.found(), [None]);
    // The write says one, the reply the other.
    none(tabs().writes(1, T + 10).asks(built(), replied(T + 2_500, &[port(2)])));
    // The reply went to no terminal at all: another tab wrote its file in the same moment.
    none(tabs().writes(1, T + 10).asks(built(), replied(T + 2_500, &[PLAIN])));
    // Both wrote, and to both something was sent.
    let both = tabs().writes(1, T + 10).writes(2, T + 20);
    none(both.asks(built(), replied(T + 2_500, &[port(1), port(2)])));
    // A terminal that has a file would have named its session there.
    none(tabs().writes(1, 5).asks(built(), replied(T + 2_500, &[port(1)])));
    // Not everything that was sent is known: then only the write counts.
    let cut = Reply { complete: false, ..reply(T + 2_500, &[port(2)]) };
    let world = tabs().writes(1, T + 10).asks(built(), Some(cut));
    assert_eq!(world.found(), [Some((1, By::Write))]);
    // Several replies at a time.
    let two = tabs().asks(pooled(T), replied(T + 2_500, &[port(1)]));
    let two = two.asks(pooled(T), replied(T + 2_503, &[PLAIN]));
    assert_eq!(two.found(), [None, None]);
}

#[test]
fn a_write_counts_only_in_its_time() {
    let at = |ms: u64| {
        let thread = built(T, Some(T + 100));
        let world = World::default().terminals([1]).writes(1, ms);
        world.asks(thread, replied(T + 2_500, &[port(1)])).found() == [Some((1, By::Both))]
    };
    assert!(!at(T + 49) && at(T + 50) && at(T + 500) && !at(T + 501));
    // Without the hook the reply's time is not known.
    let at = |ms: u64| {
        let world = World::default().terminals([1]).writes(1, ms).asks(built(T, None), None);
        world.found() == [Some((1, By::Write))]
    };
    assert!(!at(T - 5) && at(T - 4) && at(T + 400) && !at(T + 401));
}

#[test]
fn each_of_several_tabs_that_ask_at_once_has_its_own_write() {
    let built = |at| built(at, Some(at + 4));
    // Of the first one both are possible, of the second one only its own.
    let world = World::default()
        .terminals([1, 2])
        .writes(1, T + 10)
        .writes(2, T + 300)
        .asks(built(T), replied(T + 2_500, &[port(1), port(2)]))
        .asks(built(T + 290), replied(T + 2_600, &[port(1), port(2)]));
    assert_eq!(world.found(), [Some((1, By::Both)), Some((2, By::Both))]);
    // Two claim one write: neither has it.
    let world = World::default()
        .terminals([1, 2])
        .writes(1, T + 10)
        .asks(built(T), replied(T + 2_500, &[port(1)]))
        .asks(built(T + 1), replied(T + 2_600, &[port(1), PLAIN]));
    assert_eq!(world.found(), [None, None]);
}

#[test]
fn a_write_that_another_session_rests_on_is_taken() {
    let mut world = World::default().terminals([1]).writes(1, T + 10);
    world.taken.insert((1, (T + 10) * MS));
    let world = world.asks(built(T, Some(T + 4)), replied(T + 2_500, &[port(1)]));
    assert_eq!(world.found(), [None]);
}

#[test]
fn only_a_timers_fresh_thread_has_a_write() {
    let within = |thread: &ForkingThread, forked: u64| {
        Request { session: 0, forked: forked * MS, thread, reply: None }.written_within()
    };
    let good = built(T, Some(T + 4));
    assert_eq!(within(&good, T + 2_000), Some(T * MS - TICK..=(T + 4) * MS + WRITES_WITHIN));
    assert_eq!(within(&good, T + 70_000), None, "it was cloned for something else");
    assert_eq!(within(&pooled(T), T + 2_000), None, "nothing let time pass");
    let short = ForkingThread { tid: 9, clones: good.clones[..1].to_vec() };
    assert_eq!(within(&short, T + 2_000), None, "where it came from is not known");
    // A reply that was seen hours later is not the one to this.
    let late = within(&built(T, Some(10_000_000)), T + 2_000).unwrap();
    assert_eq!(*late.end(), T * MS + REPLIES_WITHIN + WRITES_WITHIN);
}

#[test]
fn terminals_that_were_closed_or_lost_the_connection_are_none() {
    let built = || built(T, Some(T + 4));
    let mut closed = World::default().terminals([1, 2]).writes(1, T + 10);
    closed.terminals[0].3 = Some((T + 100) * MS);
    assert_eq!(closed.asks(built(), replied(T + 2_500, &[port(1)])).found(), [None]);
    // Its port is another's by now.
    let mut left = World::default().terminals([1, 2]).writes(1, T + 10);
    left.terminals[0].1.insert(port(1), Connected { from: MS, until: Some((T + 100) * MS) });
    assert_eq!(left.asks(built(), replied(T + 2_500, &[port(1)])).found(), [None]);
    // A connection is noticed a moment after it was made.
    for (seen, found) in [(T + 5_000, Some((1, By::Both))), (T + 9_000, None)] {
        let mut late = World::default().terminals([1]).writes(1, T + 10);
        late.terminals[0].1.insert(port(1), Connected { from: seen * MS, until: None });
        assert_eq!(late.asks(built(), replied(T + 2_500, &[port(1)])).found(), [found], "{seen}");
    }
}

#[test]
fn the_workers_of_one_session_must_not_contradict_one_another() {
    let found = |by: &[(u32, By)]| {
        let all = by.iter().map(|&(terminal, by)| Found { terminal, by, write: None });
        agreed(all.collect()).map(|it| (it.terminal, it.by))
    };
    assert_eq!(found(&[]), None);
    assert_eq!(found(&[(1, By::Reply), (2, By::Both)]), None);
    assert_eq!(found(&[(1, By::Reply), (1, By::Both)]), Some((1, By::Both)));
    assert_eq!(found(&[(1, By::Both), (2, By::Both)]), None);
    assert_eq!(found(&[(1, By::Reply), (2, By::Write)]), None);
    assert_eq!(found(&[(1, By::Reply), (1, By::Write)]), Some((1, By::Reply)));
}
