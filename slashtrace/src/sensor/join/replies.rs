use std::collections::{BTreeMap, VecDeque};

use crate::model::{Body, Identity, Observation, Reply, ReplyEnd, Role, Sent, Spawn};

/// What a gateway sends this long after a thread's wake-up may be the thread's reply, ns.
pub(in crate::sensor) const WINDOW_NS: u64 = 150_000_000;
/// Threads that forked a worker and have not replied: the oldest is forgotten.
const FORKED_MAX: usize = 1_024;
/// A child that is a worker has executed this long after its forker replied, ns.
const EXECUTES_WITHIN: u64 = 5_000_000_000;
/// Children of one thread that are told apart: a gateway runs other programs, too.
const CHILDREN_MAX: usize = 16;
/// Connections of one reply that are told apart.
const SENT_MAX: usize = 32;

/// Something that a gateway did after one of its threads had forked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::sensor) enum Act {
    /// A thread that had forked woke the event loop.
    Woke { tid: u32 },
    /// Such a thread exited.
    Exited { tid: u32 },
    /// It sent something on a connection to its port; this is the port of the other end.
    Sent { port: u16 },
    /// It sent more than the kernel program reports.
    Cut,
}

/// Puts together what gateways sent for threads that had forked workers.
#[derive(Debug, Default)]
pub(in crate::sensor) struct Replies {
    /// By gateway's pid and thread id: the children that it forked since it last woke the event loop.
    /// Which of them is a worker, if any, shows when it executes.
    forked: BTreeMap<(u32, u32), Vec<Identity>>,
    order: VecDeque<(u32, u32)>,
    /// Children that turned out to be workers, and their gateways.
    workers: BTreeMap<Identity, Identity>,
    newest: VecDeque<Identity>,
    open: Vec<Open>,
    /// Those that are over, of children that have not executed: a thread goes on when its child gives
    /// up the memory that it borrowed (vfork(2)), a moment before the exec is seen.
    over: Vec<Open>,
}

/// A reply, and the children that it may be about.
#[derive(Debug)]
struct Open {
    reply: Reply,
    children: Vec<Identity>,
}

impl Replies {
    /// A thread of a gateway forked a child.
    pub(in crate::sensor) fn forked(&mut self, gateway: u32, tid: u32, child: Identity) {
        let at = (gateway, tid);
        let children = self.forked.entry(at).or_default();
        if children.is_empty() {
            self.order.push_back(at);
        } else if children.len() >= CHILDREN_MAX {
            children.remove(0);
        }
        children.push(child);
        while self.forked.len() > FORKED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.forked.remove(&oldest);
        }
    }

    /// A worker was spawned.
    pub(in crate::sensor) fn spawned(&mut self, spawn: &Spawn) {
        let Some(parent) = spawn.parent.as_ref().filter(|_| spawn.thread.is_some()) else { return };
        if spawn.role == Role::Worker
            && self.workers.insert(spawn.identity(), parent.process.identity()).is_none()
        {
            self.newest.push_back(spawn.identity());
        }
        while self.workers.len() > FORKED_MAX
            && let Some(oldest) = self.newest.pop_front()
        {
            self.workers.remove(&oldest);
        }
    }

    /// Something that the gateway with this pid did, at `at` ns of the boot clock.
    pub(in crate::sensor) fn acted(
        &mut self,
        gateway: u32,
        at: u64,
        act: Act,
        found: &mut Vec<Observation>,
    ) {
        self.pass(at, found);
        match act {
            Act::Woke { tid } => {
                if self.close(gateway, tid, at, ReplyEnd::Wake, found) {
                    return;
                }
                let Some(children) = self.forked.remove(&(gateway, tid)) else { return };
                self.order.retain(|known| *known != (gateway, tid));
                let reply = Reply {
                    pid: gateway,
                    // Its worker's spawn tells.
                    start_ns: 0,
                    worker: Identity { pid: 0, start_ns: 0 },
                    tid,
                    from_ns: at,
                    until_ns: at.saturating_add(WINDOW_NS),
                    ended: ReplyEnd::Time,
                    sent: Vec::new(),
                    complete: true,
                };
                self.open.push(Open { reply, children });
            }
            Act::Exited { tid } => {
                self.close(gateway, tid, at, ReplyEnd::Exit, found);
            }
            Act::Sent { port } => {
                let open = self.open.iter_mut().map(|open| &mut open.reply);
                for reply in open.filter(|reply| reply.pid == gateway) {
                    if reply.sent.iter().any(|sent| sent.port == port) {
                        continue;
                    }
                    if reply.sent.len() < SENT_MAX {
                        reply.sent.push(Sent { port, at_ns: at });
                    } else {
                        reply.complete = false;
                    }
                }
            }
            Act::Cut => {
                let open = self.open.iter_mut().map(|open| &mut open.reply);
                let open = open.filter(|reply| reply.pid == gateway);
                open.for_each(|reply| reply.complete = false);
            }
        }
    }

    /// Time passed, up to `now` ns of the boot clock.
    pub(in crate::sensor) fn pass(&mut self, now: u64, found: &mut Vec<Observation>) {
        self.over.extend(self.open.extract_if(.., |open| open.reply.until_ns < now));
        self.over.retain(|over| now < over.reply.until_ns.saturating_add(EXECUTES_WITHIN));
        self.observe(now, found);
    }

    /// Makes observations of those that are over and whose child is a worker.
    fn observe(&mut self, at: u64, found: &mut Vec<Observation>) {
        let workers = &self.workers;
        let is_worker = |over: &Open| over.children.iter().any(|child| workers.contains_key(child));
        for Open { mut reply, children } in self.over.extract_if(.., |over| is_worker(over)) {
            // The one that it forked last.
            let mut its = children.iter().rev();
            let worker = its.find_map(|child| Some((*child, workers.get(child)?)));
            let Some((worker, gateway)) = worker else { continue };
            (reply.worker, reply.start_ns) = (worker, gateway.start_ns);
            found.push(Observation { boottime_ns: at, body: Body::Reply(Box::new(reply)) });
        }
    }

    /// Ends the reply of a thread, if one is open.
    fn close(
        &mut self,
        gateway: u32,
        tid: u32,
        at: u64,
        ended: ReplyEnd,
        found: &mut Vec<Observation>,
    ) -> bool {
        let its = |open: &Open| (open.reply.pid, open.reply.tid) == (gateway, tid);
        let Some(its) = self.open.iter().position(its) else { return false };
        let mut over = self.open.remove(its);
        (over.reply.until_ns, over.reply.ended) = (at, ended);
        self.over.push(over);
        self.observe(at, found);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ForkingThread, testing};

    const MS: u64 = 1_000_000;
    const GATEWAY: Identity = testing::id(100, 5);

    fn forked(replies: &mut Replies, worker: u32, tid: u32) {
        replies.forked(GATEWAY.pid, tid, testing::id(worker, 9));
        spawned(replies, worker, tid);
    }

    fn spawned(replies: &mut Replies, worker: u32, tid: u32) {
        let mut spawn = testing::spawn(testing::id(worker, 9)).forked_by(GATEWAY);
        spawn.thread = Some(ForkingThread { tid, clones: Vec::new() });
        replies.spawned(&spawn);
    }

    fn acts(replies: &mut Replies, acts: &[(u64, Act)]) -> Vec<Reply> {
        let mut found = Vec::new();
        for (ms, act) in acts {
            replies.acted(GATEWAY.pid, ms * MS, *act, &mut found);
        }
        replies.pass(2_000 * MS, &mut found);
        let reply = |observation: Observation| match observation.body {
            Body::Reply(reply) => *reply,
            other => unreachable!("{other:?}"),
        };
        found.into_iter().map(reply).collect()
    }

    fn ports(reply: &Reply) -> Vec<u16> {
        reply.sent.iter().map(|sent| sent.port).collect()
    }

    #[test]
    fn what_is_sent_from_the_wake_up_to_its_end_is_its_reply() {
        for (end, why) in [
            (Act::Woke { tid: 7 }, ReplyEnd::Wake),
            (Act::Exited { tid: 7 }, ReplyEnd::Exit),
            (Act::Exited { tid: 8 }, ReplyEnd::Time),
        ] {
            let mut replies = Replies::default();
            forked(&mut replies, 200, 7);
            let found = acts(
                &mut replies,
                &[
                    (10, Act::Sent { port: 1 }),
                    (20, Act::Woke { tid: 7 }),
                    (21, Act::Sent { port: 2 }),
                    (22, Act::Sent { port: 3 }),
                    (23, Act::Sent { port: 2 }),
                    (30, end),
                    (171, Act::Sent { port: 4 }),
                    (180, Act::Woke { tid: 7 }),
                    (181, Act::Sent { port: 5 }),
                ],
            );
            assert_eq!(found.len(), 1, "only the first one: {found:?}");
            assert_eq!((found[0].ended, found[0].worker.pid), (why, 200));
            assert_eq!(ports(&found[0]), [2, 3]);
            assert!(found[0].complete);
        }
    }

    #[test]
    fn a_thread_may_reply_before_the_exec_of_its_child_is_seen() {
        let replied = [(20, Act::Woke { tid: 7 }), (21, Act::Sent { port: 1 })];
        for executes in [true, false] {
            let mut replies = Replies::default();
            replies.forked(GATEWAY.pid, 7, testing::id(200, 9));
            let mut found = Vec::new();
            for (ms, act) in replied {
                replies.acted(GATEWAY.pid, ms * MS, act, &mut found);
            }
            replies.acted(GATEWAY.pid, 22 * MS, Act::Exited { tid: 7 }, &mut found);
            assert!(found.is_empty());
            if executes {
                spawned(&mut replies, 200, 7);
            }
            replies.pass(23 * MS, &mut found);
            assert_eq!(found.len(), usize::from(executes), "it may be no worker");
            if let [Observation { body: Body::Reply(reply), .. }] = found.as_slice() {
                assert_eq!((reply.identity(), ports(reply)), (GATEWAY, vec![1]));
            }
            replies.pass(10_000 * MS, &mut found);
            assert!(replies.over.is_empty(), "and is forgotten");
        }
    }

    #[test]
    fn other_children_of_the_thread_are_no_workers() {
        let mut replies = Replies::default();
        // `git` before the worker, and another one after it.
        replies.forked(GATEWAY.pid, 7, testing::id(198, 9));
        forked(&mut replies, 200, 7);
        replies.forked(GATEWAY.pid, 7, testing::id(201, 9));
        let woke = [(20, Act::Woke { tid: 7 }), (21, Act::Sent { port: 1 })];
        let found = acts(&mut replies, &woke);
        assert_eq!(found.iter().map(|it| it.worker.pid).collect::<Vec<_>>(), [200]);
    }

    #[test]
    fn several_threads_may_reply_at_a_time() {
        let mut replies = Replies::default();
        forked(&mut replies, 200, 7);
        forked(&mut replies, 201, 8);
        let found = acts(
            &mut replies,
            &[
                (20, Act::Woke { tid: 7 }),
                (21, Act::Sent { port: 1 }),
                (22, Act::Woke { tid: 8 }),
                (23, Act::Sent { port: 2 }),
                (24, Act::Woke { tid: 9 }),
                (25, Act::Exited { tid: 7 }),
                (26, Act::Sent { port: 3 }),
                (27, Act::Cut),
            ],
        );
        let told: Vec<_> = found.iter().map(|it| (it.worker.pid, ports(it), it.complete)).collect();
        assert_eq!(told, [(200, vec![1, 2], true), (201, vec![2, 3], false)]);
    }

    #[test]
    fn threads_that_never_reply_are_forgotten() {
        let mut replies = Replies::default();
        for tid in 0..3_000 {
            forked(&mut replies, tid, tid);
        }
        assert_eq!((replies.forked.len(), replies.order.len()), (FORKED_MAX, FORKED_MAX));
        assert_eq!((replies.workers.len(), replies.newest.len()), (FORKED_MAX, FORKED_MAX));
    }
}
