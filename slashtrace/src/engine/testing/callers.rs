//! Sessions of one gateway that several clients are connected to: which client is whose is joined, and
//! shows in `abandoned`, once one of them is gone.

use super::scenario::{History, S, pids};
use crate::model::{
    Body, Capability, Confidence, Connection, ForkingThread, Identity, Kind, Reply, ReplyEnd, Sent,
    TerminalEvent, TerminalState, ThreadClone, USE_CAPABILITY, testing,
};

const GATEWAY: u32 = 100;
const MS: u64 = 1_000_000;
const GRACE: u64 = 1_800 * S;

/// Clients of one gateway; number n has the port 40000 + n.
struct Clients {
    history: History,
    /// Who is connected, and when each was heard from last.
    here: Vec<(u64, u64)>,
    /// Who is connected by a Unix socket: no port, and the kernel does not tell when it spoke.
    unix: Vec<u64>,
}

fn port(id: u64) -> u16 {
    40_000 + id as u16
}

impl Clients {
    fn new(ids: impl IntoIterator<Item = u64>) -> Self {
        let history = History::new().starting_at(100 * S);
        let heard = history.now() - 60 * S;
        let here = ids.into_iter().map(|id| (id, heard)).collect();
        Self { history, here, unix: Vec::new() }
    }

    fn look(&mut self) -> &mut Self {
        let here = self.here.iter().map(|&(id, heard)| Connection {
            id,
            since_ns: None,
            heard_ns: Some(heard),
            port: Some(port(id)),
        });
        let unix = self.unix.iter().map(|&id| Connection {
            id,
            since_ns: None,
            heard_ns: None,
            port: None,
        });
        let connections: Vec<Connection> = here.chain(unix).collect();
        self.history.look(GATEWAY, |look| {
            look.connected = connections.len() as u32;
            look.connections = connections;
        });
        self
    }

    fn speaks(&mut self, ids: &[u64]) -> &mut Self {
        let now = self.history.now();
        for (id, heard) in &mut self.here {
            if ids.contains(id) {
                *heard = now;
            }
        }
        self
    }

    /// These speak, the worker of a session is forked, the gateway is looked at, and it sends something
    /// to those.
    fn asks(&mut self, pid: u32, key: &str, speak: &[u64], to: &[u64]) -> &mut Self {
        self.speaks(speak);
        let asked = self.history.now();
        self.history.after(S);
        let worker = self.forks(pid, key, asked);
        self.look();
        self.history.after(S);
        self.replies(worker, to);
        self.history.after(20 * S);
        self
    }

    fn forks(&mut self, pid: u32, key: &str, asked: u64) -> Identity {
        let made = |by, at_ns, replied_ns| ThreadClone { by, at_ns, replied_ns };
        let clones = vec![made(8, asked + 55 * MS, None), made(7, asked, Some(asked + 3 * MS))];
        let start_ns = self.history.now();
        self.history.spawn_with(pid, GATEWAY, |spawn| {
            spawn.session = Some(key.to_owned());
            spawn.thread = Some(ForkingThread { tid: pid + 1, clones });
        });
        Identity { pid, start_ns }
    }

    fn replies(&mut self, worker: Identity, to: &[u64]) -> &mut Self {
        let gateway = self.history.process(GATEWAY).identity();
        let at = self.history.now();
        self.history.tell(Body::Reply(Box::new(Reply {
            pid: gateway.pid,
            start_ns: gateway.start_ns,
            worker,
            tid: worker.pid + 1,
            from_ns: at,
            until_ns: at + 5 * MS,
            ended: ReplyEnd::Exit,
            sent: to.iter().map(|&id| Sent { port: port(id), at_ns: at + MS }).collect(),
            complete: true,
        })));
        self
    }

    fn comes(&mut self, id: u64) -> &mut Self {
        let now = self.history.now();
        self.here.push((id, now));
        self.look()
    }

    fn leaves(&mut self, id: u64) -> &mut Self {
        self.here.retain(|&(other, _)| other != id);
        self.unix.retain(|&other| other != id);
        self.look()
    }

    /// A terminal of the gateway, whose process has the port of a client.
    fn terminal(&mut self, client: u64, change: impl FnOnce(&mut TerminalEvent)) -> &mut Self {
        let mut event = TerminalEvent {
            master: Some(self.history.process(GATEWAY)),
            ports: vec![port(client)],
            ..testing::terminal(client as u32, 50 * S)
        };
        change(&mut event);
        self.history.tell(Body::Terminal(Box::new(event)));
        self
    }

    fn abandoned(&self) -> Option<(Vec<u32>, Confidence)> {
        self.history.open(Kind::Abandoned).map(|found| (pids(found), found.confidence))
    }
}

/// Two sessions, each of a client of its own.
fn two() -> Clients {
    let mut clients = Clients::new([1, 2]);
    clients.asks(11, "a", &[1], &[1]).asks(12, "b", &[2], &[2]);
    clients
}

/// The same where it is seen what a worker works.
fn seeing_use() -> Clients {
    let mut clients = Clients::new([1, 2]);
    let mut start = testing::start();
    start.capabilities =
        vec![Capability { name: USE_CAPABILITY.to_owned(), ok: true, detail: String::new() }];
    clients.history.tell(Body::Start(Box::new(start)));
    clients
}

/// Clients 1 and 2 have terminals each; that of 1 names a session, and worker 11 is forked for it.
fn named_by_its_terminal(clients: &mut Clients, speak: &[u64], to: &[u64]) {
    for client in [1, 2] {
        clients.terminal(client, |_| {});
    }
    clients.speaks(speak);
    let asked = clients.history.now();
    clients.history.after(20 * MS);
    let at = clients.history.now();
    clients.terminal(1, |event| {
        event.session = Some("id-of-a".to_owned());
        event.session_ns = Some(at);
    });
    clients.history.after(S);
    let worker = clients.forks(11, "a", asked);
    clients.look().history.after(S);
    clients.replies(worker, to).history.after(20 * S);
}

#[test]
fn a_session_whose_own_client_left_is_abandoned_and_the_other_is_not() {
    let mut clients = two();
    clients.leaves(1).history.after(GRACE - 1);
    assert!(clients.history.silent());
    clients.history.after(1);
    // Two signals say whose it was. Client 2 may have resumed its session, and asked nothing yet.
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    let finding = clients.history.found(Kind::Abandoned);
    assert!(finding.workers[0].unused);
    assert_eq!(
        finding.text,
        "the client that gateway python(100) replied to after the spawn of this worker has been \
         gone for 30 min or longer, and the worker did nothing in that time, while other clients are \
         connected: 11"
    );
    // What it rests on: the spawn, the look at its birth, the reply, and the look that misses it.
    assert_eq!(finding.because.len(), 4, "{finding:?}");
    clients.history.after(10 * GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)), "12 has its client");
}

#[test]
fn a_session_that_another_client_took_over_on_its_own_connection_is_somebodys() {
    // It had not been asked anything when it was named; nothing shows the resume itself.
    let mut clients = two();
    clients.history.reads(11, 0);
    clients.leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    clients.history.reads(11, 1);
    assert_eq!(clients.abandoned(), None);
    clients.look().history.after(10 * GRACE);
    assert_eq!(clients.abandoned(), None, "2 uses it now");
    // It was asked within the grace.
    let mut clients = two();
    clients.history.reads(11, 0);
    clients.leaves(1).history.after(GRACE / 2).reads(11, 0).after(S).reads(11, 1);
    clients.look().history.after(10 * GRACE);
    assert!(clients.history.silent());
}

#[test]
fn a_later_join_does_not_forget_that_another_client_uses_it() {
    let mut clients = two();
    clients.history.reads(11, 0);
    clients.leaves(1).history.after(S).reads(11, 0).after(S).reads(11, 1).after(S);
    clients.look().history.after(S);
    // A session of client 2 is joined to its terminal: every caller is looked for again.
    clients.terminal(2, |_| {}).speaks(&[2]);
    let asked = clients.history.now();
    clients.history.after(20 * MS);
    let at = clients.history.now();
    clients.terminal(2, |event| {
        event.session = Some("id-of-c".to_owned());
        event.session_ns = Some(at);
    });
    clients.history.after(S);
    let worker = clients.forks(13, "c", asked);
    clients.look().history.after(S);
    clients.replies(worker, &[2]).history.after(3 * GRACE);
    assert_eq!(clients.abandoned(), None, "2 uses 11");
}

#[test]
fn what_was_used_while_somebody_may_be_its_client_come_back_is_somebodys() {
    let mut clients = two();
    clients.history.reads(11, 0);
    clients.leaves(1).history.after(S);
    clients.comes(7).history.after(S).reads(11, 0).after(S).reads(11, 1).after(S);
    clients.leaves(7).history.after(3 * GRACE);
    assert_eq!(clients.abandoned(), None, "2 or 7 used it");
    // Nobody but its own client did, before it left.
    let mut clients = two();
    clients.history.reads(11, 0).after(S).reads(11, 1).after(S);
    clients.leaves(1).history.after(S);
    clients.comes(7).history.after(S);
    clients.leaves(7).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
}

#[test]
fn what_works_has_to_be_quiet_for_the_grace_again() {
    let mut clients = seeing_use();
    clients.asks(11, "a", &[1], &[1]).asks(12, "b", &[2], &[2]);
    clients.history.sample(11, |sample| sample.cpu_ms = Some(100));
    clients.leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    clients.history.sample(11, |sample| sample.cpu_ms = Some(90_000));
    assert_eq!(clients.abandoned(), None);
    clients.history.after(GRACE - 1);
    assert_eq!(clients.abandoned(), None);
    clients.history.after(1);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
}

#[test]
fn once_all_have_been_gone_for_the_grace_it_is_strong() {
    let mut clients = two();
    clients.leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    let first = clients.history.found(Kind::Abandoned).id.clone();
    // Client 2 may have taken the session over and be about to come back.
    clients.leaves(2).history.after(GRACE - 1);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    clients.history.after(1);
    assert_eq!(clients.abandoned(), Some((vec![11, 12], Confidence::Strong)));
    let finding = clients.history.open(Kind::Abandoned).expect("it is open");
    assert_eq!(finding.id, first, "one finding, which became surer");
    assert!(
        finding.text.starts_with("gateway python(100) listens and has had no client for 30 min")
    );
    // One of them is there again; it had been there when the other left.
    clients.comes(2);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    // Somebody new may be either of them, come back.
    clients.leaves(2).comes(7).history.after(10 * GRACE);
    assert_eq!(clients.abandoned(), None);
}

#[test]
fn an_open_terminal_that_shows_the_session_contradicts() {
    let mut clients = two();
    clients.terminal(1, |event| event.session = Some("a".to_owned()));
    clients.leaves(1).leaves(2).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![12], Confidence::Strong)));
    clients.terminal(1, |event| event.state = TerminalState::Closed);
    clients.history.after(S);
    assert_eq!(clients.abandoned(), Some((vec![11, 12], Confidence::Strong)));
    // Also where it is known by one signal alone whose it was.
    let mut clients = Clients::new([1, 2]);
    clients.asks(11, "a", &[1], &[9]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    clients.terminal(2, |event| event.session = Some("a".to_owned()));
    assert_eq!(clients.abandoned(), None);
}

#[test]
fn who_was_connected_since_and_left_makes_it_weak() {
    let mut clients = two();
    clients.leaves(1).history.after(GRACE / 2);
    clients.leaves(2).history.after(GRACE / 2);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)), "2 was there till now");
    clients.history.after(GRACE / 2);
    assert_eq!(clients.abandoned(), Some((vec![11, 12], Confidence::Strong)));
}

#[test]
fn a_reply_to_a_connection_that_no_look_showed_leaves_open_who_it_was() {
    let how = |clients: &Clients| clients.history.found(Kind::Abandoned).text[..24].to_owned();
    // Who spoke was replied to, as was one who is not seen: that it spoke is all that is known.
    let mut clients = Clients::new([1, 2]);
    clients.asks(11, "a", &[1], &[1, 9]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    assert_eq!(how(&clients), "the client that spoke to");
    // Two spoke, and so may 9 have done.
    let mut clients = Clients::new([1, 2]);
    clients.asks(11, "a", &[1, 2], &[1, 9]).leaves(1).history.after(2 * GRACE);
    assert!(clients.history.silent());
    // Nobody who is seen was replied to.
    let mut clients = Clients::new([1, 2]);
    clients.asks(11, "a", &[1], &[9]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    assert_eq!(how(&clients), "the client that spoke to");
    // The terminal that named the session is 1's, so 9 is not its client.
    let mut clients = Clients::new([1, 2]);
    named_by_its_terminal(&mut clients, &[1, 2], &[1, 9]);
    clients.terminal(1, |event| event.state = TerminalState::Closed);
    clients.leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    assert_eq!(how(&clients), "the client that gateway ");
}

#[test]
fn who_is_connected_by_a_unix_socket_may_be_anybody() {
    // It may have asked: no reply to it is seen, nor that it spoke.
    let mut clients = Clients::new([1, 2]);
    clients.unix.push(8);
    clients.asks(11, "a", &[1, 2], &[1]).leaves(1).history.after(2 * GRACE);
    assert!(clients.history.silent());
    // Who spoke is all that is known.
    let mut clients = Clients::new([1, 2]);
    clients.unix.push(8);
    clients.asks(11, "a", &[1], &[1]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    assert!(clients.history.found(Kind::Abandoned).text.starts_with("the client that spoke to"));
    // It is connected, and may have taken the session over.
    clients.leaves(2).history.after(3 * GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    clients.leaves(8).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Strong)));
}

#[test]
fn one_signal_alone_is_weak() {
    // Both spoke in the moments before: that excludes nobody.
    let mut clients = Clients::new([1, 2]);
    clients.asks(11, "a", &[1, 2], &[1]).asks(12, "b", &[2], &[2]);
    clients.leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
    // It sent something to both.
    let mut clients = Clients::new([1, 2]);
    clients.asks(11, "a", &[1], &[1, 2]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
}

#[test]
fn whoever_is_connected_makes_it_weak() {
    let mut clients = Clients::new([1, 2, 3]);
    clients.asks(11, "a", &[1], &[1]).asks(12, "b", &[2], &[2]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)), "3 may have taken it over");
    clients.leaves(3).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)), "so may 2");
    // The other session ends: its client is nobody's, and may use any.
    clients.history.exit(12).after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
}

#[test]
fn a_contradiction_is_silence() {
    let mut clients = Clients::new([1, 2, 3]);
    clients.asks(11, "a", &[1], &[2]);
    for id in [1, 2] {
        clients.leaves(id).history.after(2 * GRACE);
    }
    assert_eq!(clients.abandoned(), None);
}

#[test]
fn where_several_remain_nobody_is_named() {
    let mut clients = Clients::new([1, 2, 3]);
    clients.asks(11, "a", &[1, 2], &[1, 2]);
    for id in [1, 2] {
        clients.leaves(id).history.after(2 * GRACE);
    }
    assert_eq!(clients.abandoned(), None);
}

#[test]
fn two_replies_at_a_time_tell_nothing_by_themselves() {
    let mut clients = Clients::new([1, 2]);
    clients.speaks(&[1, 2]);
    let asked = clients.history.now();
    clients.history.after(S);
    let workers = [11, 12].map(|pid| clients.forks(pid, &format!("s{pid}"), asked));
    clients.look().history.after(S);
    clients.replies(workers[0], &[1]).replies(workers[1], &[2]);
    clients.history.after(20 * S);
    clients.leaves(1).history.after(2 * GRACE);
    assert_eq!(clients.abandoned(), None);
}

#[test]
fn what_contradicts_withdraws_it() {
    // Its worker is asked something.
    let mut clients = two();
    clients.history.reads(11, 0);
    clients.leaves(1).history.after(GRACE);
    assert!(clients.abandoned().is_some());
    clients.history.reads(11, 1);
    assert_eq!(clients.abandoned(), None);
    // Its client is there again: the look had missed it.
    let mut clients = two();
    clients.leaves(1).history.after(GRACE);
    assert!(clients.abandoned().is_some());
    clients.comes(1);
    assert_eq!(clients.abandoned(), None);
    // Somebody came who may be it.
    let mut clients = two();
    clients.leaves(1).history.after(GRACE);
    clients.comes(7);
    assert_eq!(clients.abandoned(), None);
    // An open terminal shows its session.
    let mut clients = two();
    clients.leaves(1).history.after(GRACE);
    clients.terminal(2, |event| event.session = Some("a".to_owned()));
    assert_eq!(clients.abandoned(), None);
}

#[test]
fn who_came_later_and_asked_for_a_session_of_its_own_did_not_come_back() {
    let mut clients = two();
    clients.leaves(1).history.after(S);
    clients.comes(7).asks(13, "c", &[7], &[7]).look().history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
}

#[test]
fn a_session_that_another_client_resumed_with_a_worker_of_its_own_is_not_abandoned() {
    let mut clients = two();
    clients.asks(21, "a", &[2], &[2]).leaves(1).history.after(2 * GRACE);
    assert_eq!(clients.abandoned(), None);
    clients.leaves(2).history.after(GRACE);
    let named = clients.abandoned().expect("all are gone").0;
    assert_eq!(named, [11, 12, 21]);
}

#[test]
fn later_workers_of_a_session_are_its_clients() {
    let mut clients = two();
    // A model switch, while the gateway sends something to all.
    clients.history.exit(11).after(S);
    clients.asks(21, "a", &[1, 2], &[1, 2]).leaves(1).history.after(GRACE);
    // Which of the two asked for this one was not seen.
    assert_eq!(clients.abandoned(), Some((vec![21], Confidence::Weak)));
}

#[test]
fn a_terminal_that_names_the_session_tells_two_clients_apart() {
    let mut clients = Clients::new([1, 2, 3]);
    named_by_its_terminal(&mut clients, &[1, 2, 3], &[1, 2]);
    clients.asks(12, "b", &[2], &[2]).asks(13, "c", &[3], &[3]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), None, "its terminal is open");
    clients.terminal(1, |event| event.state = TerminalState::Closed);
    clients.history.after(S);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
}

#[test]
fn a_reply_that_goes_elsewhere_leaves_the_session_without_its_terminal() {
    let mut clients = Clients::new([1, 2]);
    named_by_its_terminal(&mut clients, &[1], &[1]);
    clients.asks(12, "b", &[2], &[2]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), None, "its terminal is open");
    // A later worker of it is replied to somewhere else.
    clients.speaks(&[2]);
    let asked = clients.history.now();
    clients.history.after(S);
    let worker = clients.forks(21, "a", asked);
    clients.look().history.after(20 * S);
    assert_eq!(clients.abandoned(), None, "nothing says so yet");
    clients.replies(worker, &[9]).history.after(1);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)));
}

/// As in recordings of earlier versions: it is known who spoke, and no more.
#[test]
fn without_ports_nobody_is_joined() {
    let mut clients = Clients::new([1, 2]);
    clients.speaks(&[1]);
    let asked = clients.history.now();
    clients.history.after(S);
    let worker = clients.forks(11, "a", asked);
    let heard = clients.here.iter().map(|&(id, at)| (id, Some(at))).collect::<Vec<_>>();
    clients.history.clients_are(GATEWAY, 1, heard, true).after(S);
    clients.replies(worker, &[2]).history.after(S);
    clients.history.clients_are(GATEWAY, 1, [(2, None)], true).after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![11], Confidence::Weak)), "1 spoke");
    assert!(clients.history.found(Kind::Abandoned).text.starts_with("the client that spoke to"));
}

#[test]
fn a_worker_that_was_launched_is_its_launchers_clients() {
    let mut clients = Clients::new([1, 2]);
    clients.speaks(&[1]);
    let asked = clients.history.now();
    clients.history.after(S);
    let launcher = clients.forks(11, "a", asked);
    clients.look().history.after(S).spawn(21, 11, "a").after(S);
    clients.replies(launcher, &[1]).history.after(20 * S);
    clients.asks(12, "b", &[2], &[2]).leaves(1).history.after(GRACE);
    assert_eq!(clients.abandoned(), Some((vec![21], Confidence::Weak)));
}
