use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    thread,
    time::Duration,
};

use super::*;
use crate::host::net::foreign::testing::client_elsewhere;

fn inode(socket: &impl AsFd) -> u64 {
    rustix::fs::fstat(socket).expect("it is open").st_ino
}

fn diag() -> Diag {
    Diag::open().expect("the kernel has sock_diag")
}

fn looked(diag: bool, id: Identity) -> Clients {
    let namespace = fs::read_link("/proc/self/ns/net").expect("it is in one");
    let mut eyes = diag.then(|| Eyes { diag: self::diag(), namespace });
    let gateway = &mut Gateway::default();
    look(&ProcFs::new("/proc"), id, eyes.as_mut(), gateway, &mut Shared::default(), 1)
}

/// Inodes of clients by what tells of them.
fn clients(found: &Found) -> Vec<u64> {
    found.connections.iter().map(|client| client.id).collect()
}

#[test]
fn both_ways_show_the_same_of_real_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listens");
    let (served, _) = listener.accept().expect("it connected");
    let id = Identity { pid: std::process::id(), start_ns: 1 };
    let ours = [inode(&client), inode(&served)];
    for diag in [true, false] {
        let clients = looked(diag, id);
        assert!(clients.complete && clients.listening >= 1, "{clients:?}");
        // Other tests of this process may have clients.
        let ids: Vec<u64> = clients.connections.iter().map(|client| client.id).collect();
        assert!(!ours.iter().any(|one| ids.contains(one)), "both ends are ours: {clients:?}");
    }
}

#[test]
fn netlink_tells_when_each_client_was_heard_from() {
    for host in ["127.0.0.1:0", "[::]:0"] {
        let Ok(listener) = TcpListener::bind(host) else { continue };
        let port = listener.local_addr().expect("bound").port();
        // To a listener of both families an IPv4 client is one with a mapped address.
        let address = ("127.0.0.1", port);
        let quiet = TcpStream::connect(address).expect("it listens");
        let (quiet_served, _) = listener.accept().expect("it connected");
        let mut speaker = TcpStream::connect(address).expect("it listens");
        let (speaker_served, _) = listener.accept().expect("it connected");
        let unrelated = TcpListener::bind("127.0.0.1:0").expect("a port");
        thread::sleep(Duration::from_millis(300));
        speaker.write_all(b"?").expect("it is connected");

        let mut netlink = diag();
        let listeners = netlink.listeners().expect("it tells");
        let served = [inode(&quiet_served), inode(&speaker_served)];
        let mut own: HashSet<u64> = served.into_iter().chain([inode(&listener)]).collect();
        let mut ends = Ends::new();
        let found = netlink.tcp(&listeners, &own, &mut ends).expect("it tells");
        assert_eq!(found.listening, 1);
        let ago = |inode| {
            let client = found.connections.iter().find(|client| client.id == inode);
            client.expect("it is connected").heard_ms_ago.expect("the kernel tells")
        };
        assert!(ago(served[0]) >= 250, "{found:?}");
        assert!(ago(served[1]) < 250, "{found:?}");

        // One whose other end the process holds itself is no client.
        own.insert(inode(&quiet));
        let found = netlink.tcp(&listeners, &own, &mut ends).expect("it tells");
        assert_eq!(clients(&found), [served[1]]);
        // One that went away is none either.
        drop(speaker);
        // The kernel says so to the other end when it has time to.
        let gone = (0..1_000).any(|_| {
            thread::sleep(Duration::from_millis(10));
            let found = netlink.tcp(&listeners, &own, &mut ends).expect("it tells");
            clients(&found).is_empty()
        });
        assert!(gone, "it is a client for 10 s after it closed its socket");
        drop(unrelated);
    }
}

#[test]
fn netlink_shows_that_the_peer_of_a_unix_socket_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway");
    let listener = UnixListener::bind(&path).expect("a name");
    let client = UnixStream::connect(&path).expect("it listens");
    let (served, _) = listener.accept().expect("it connected");
    let mut own = HashSet::from([inode(&listener), inode(&served)]);
    let mut netlink = diag();
    let found = asked::unix(&netlink.unix_sockets().expect("it tells"), &own);
    assert_eq!((found.listening, clients(&found)), (1, vec![inode(&served)]));
    own.insert(inode(&client));
    let found = asked::unix(&netlink.unix_sockets().expect("it tells"), &own);
    assert!(clients(&found).is_empty(), "both ends are ours");
    own.remove(&inode(&client));
    drop(client);
    let found = asked::unix(&netlink.unix_sockets().expect("it tells"), &own);
    assert!(clients(&found).is_empty(), "it went away");
}

/// Listens on a Unix socket, and accepts two connections, each closed when its client is. It also has
/// sockets that no table of connections shows.
const GATEWAY: &str = "
import socket, sys
unix = lambda sort: socket.socket(socket.AF_UNIX, sort)
listener = unix(socket.SOCK_STREAM); listener.bind(sys.argv[1]); listener.listen()
idle = [unix(socket.SOCK_DGRAM), unix(socket.SOCK_STREAM), unix(socket.SOCK_SEQPACKET)]
idle += [socket.socket(socket.AF_NETLINK, socket.SOCK_RAW), socket.socket(socket.AF_INET)]
print(flush=True)
for turn in range(2):
    one = listener.accept()[0]
    print(flush=True)
    one.recv(1)
    one.close()
    print(flush=True)
sys.stdin.read()
";

#[test]
fn a_look_at_one_that_has_a_client_in_another_network_namespace_is_not_complete() {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway");
    let mut command = Command::new("python3");
    command.args(["-c", GATEWAY]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut gateway = command.spawn().expect("python3 is installed");
    let mut lines = BufReader::new(gateway.stdout.take().expect("piped"));
    let mut next = || lines.read_line(&mut String::new()).expect("it says so");
    let id = Identity { pid: gateway.id(), start_ns: 1 };
    let seen = || {
        [true, false].map(|diag| {
            let clients = looked(diag, id);
            (clients.listening, clients.connected, clients.complete)
        })
    };
    next();
    assert_eq!(seen(), [(1, 0, true); 2]);
    if let Some(mut client) = client_elsewhere(&path) {
        next();
        assert_eq!(seen(), [(1, 0, false); 2], "somebody is connected");
        drop(client.stdin.take());
        client.wait().expect("a child");
        next();
        assert_eq!(seen(), [(1, 0, true); 2]);
        let here = UnixStream::connect(&path).expect("it listens");
        next();
        assert_eq!(seen(), [(1, 1, true); 2]);
        drop(here);
        next();
    }
    gateway.kill().expect("it runs");
    gateway.wait().expect("a child");
}

/// Leaves the network namespace that its stderr is from, as a service whose log the host takes; then
/// listens on a Unix socket, and accepts a connection.
const PRIVATE: &str = "
import ctypes, os, socket, sys
ends = socket.socketpair()
os.dup2(ends[0].fileno(), 2)
for end in ends: end.close()
if ctypes.CDLL(None).unshare(0x40000000): sys.exit()
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
print('listens', flush=True)
accepted = listener.accept()
print(flush=True)
sys.stdin.read()
";

#[test]
fn what_a_gateway_was_started_with_from_another_network_namespace_is_no_client() {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway");
    let mut command = Command::new("python3");
    command.args(["-c", PRIVATE]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut gateway = command.spawn().expect("python3 is installed");
    let mut lines = BufReader::new(gateway.stdout.take().expect("piped"));
    let id = Identity { pid: gateway.id(), start_ns: 1 };
    let mut line = String::new();
    lines.read_line(&mut line).expect("it says so");
    if line.is_empty() {
        eprintln!("SKIPPED: not root: no network namespace can be made");
    } else {
        let clients = looked(true, id);
        assert_eq!((clients.listening, clients.complete), (1, true), "{clients:?}");
        let client = UnixStream::connect(&path).expect("it listens");
        lines.read_line(&mut line).expect("it says so");
        let clients = looked(true, id);
        assert_eq!((clients.listening, clients.complete), (1, false), "{clients:?}");
        drop(client);
    }
    drop(gateway.stdin.take());
    gateway.wait().expect("a child");
}

#[test]
fn one_that_left_its_namespace_shows_nothing_of_it() {
    let folder = Path::new("/proc/self");
    let namespace = fs::read_link(folder.join("ns/net")).expect("it is in one");
    assert!(Tables::read(folder, &namespace).is_some());
    assert!(Tables::read(folder, Path::new("net:[1]")).is_none());
}

#[test]
fn what_cannot_be_read_is_not_complete() {
    let id = Identity { pid: u32::MAX, start_ns: 1 };
    assert!(!looked(true, id).complete);
    assert!(!looked(false, id).complete);
}

fn spawn_of(pid: u32) -> Spawn {
    let mut spawn = crate::evidence::samples::spawn();
    let parent = &mut spawn.parent.as_mut().expect("a gateway").process;
    (parent.pid, parent.start_ns) = (pid, 1);
    (spawn.role, spawn.inherited) = (Role::Worker, false);
    spawn
}

/// How often a gateway was looked at for these spawns, one each ms.
fn looks(gateways: u32, spawns: u32) -> usize {
    let mut watch = ClientsWatch::new(ProcFs::new("/nowhere"));
    let mut at = Vec::new();
    for number in 0..spawns {
        let now_ns = 1_000_000_000 + u64::from(number) * 1_000_000;
        watch.spawned(&spawn_of(number % gateways), now_ns);
        at.extend(watch.gateways.values().any(|it| it.looked_ns == Some(now_ns)).then_some(now_ns));
    }
    at.len()
}

#[test]
fn a_storm_of_spawns_shares_its_looks() {
    assert_eq!(looks(1, 1_000), 10);
    assert_eq!(looks(2, 1_000), 20, "two gateways that take turns");
    assert_eq!(looks(8, 8), 8);
    // Eight at once, and then one each 25 ms.
    assert_eq!(looks(1_000, 1_000), 8 + 39);
}

#[test]
fn a_gateway_that_has_not_run_is_not_looked_through() {
    let fake = crate::host::proc::fake::FakeProc::new();
    fake.put(&crate::host::proc::fake::Fake { pid: 10, ..Default::default() });
    let start_ns = fake.proc().stat(10).expect("readable").expect("there").start_ns;
    let id = Identity { pid: 10, start_ns };
    let mut watch = ClientsWatch::new(fake.proc());
    watch.gateways.insert(id, Gateway::default());
    let mut descriptors = |cpu_ns: u64| {
        fake.ran(10, cpu_ns);
        watch.round(1);
        watch.gateways[&id].own.as_ref().map(|(_, descriptors)| *descriptors)
    };
    assert_eq!(descriptors(1), Some(0));
    fake.fd(10, 3, "/dev/null", "02");
    assert_eq!(descriptors(1), Some(0), "it cannot have opened one");
    assert_eq!(descriptors(2), Some(1));
    fake.remove(10);
    fake.put(&crate::host::proc::fake::Fake { pid: 10, start_ticks: 9999, ..Default::default() });
    fake.ran(10, 3);
    watch.round(1);
    assert!(watch.gateways.is_empty(), "it is another process");
}

/// Connects to a TCP port or a Unix socket, and waits for a line.
const CLIENT: &str = "
import socket, sys
to = sys.argv[1]
if to.isdigit(): one = socket.create_connection(('127.0.0.1', int(to)))
else: one = socket.socket(socket.AF_UNIX); one.connect(to)
print(flush=True)
sys.stdin.readline()
one.close()
print(flush=True)
sys.stdin.readline()
";

/// What is said of a gateway's outbound connections, from one 10 s to the next.
fn outbound(watch: &mut ClientsWatch, round: u64) -> Option<u32> {
    let said = watch.round(round * 11_000_000_000);
    let count = |observation: &Observation| match &observation.body {
        Body::Clients(clients) => Some(clients.outbound),
        _ => None,
    };
    said.iter().find_map(count)
}

#[test]
fn a_gateway_s_own_connections_to_the_outside_are_counted() {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("outside");
    let (unix, tcp) =
        (UnixListener::bind(&path).expect("a name"), TcpListener::bind("127.0.0.1:0"));
    let tcp = tcp.expect("a port");
    let port = tcp.local_addr().expect("bound").port().to_string();
    let proc = ProcFs::default();
    for to in [path.to_str().expect("ASCII"), &port] {
        for to_worker in [false, true] {
            let mut command = Command::new("python3");
            command.args(["-c", CLIENT, to]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut gateway = command.spawn().expect("python3 is installed");
            let mut to_gateway = gateway.stdin.take().expect("piped");
            let mut lines = BufReader::new(gateway.stdout.take().expect("piped"));
            lines.read_line(&mut String::new()).expect("it says so");
            let accepted = if to == port {
                OwnedFd::from(tcp.accept().expect("it connected").0)
            } else {
                OwnedFd::from(unix.accept().expect("it connected").0)
            };

            let start_ns = |pid| proc.stat(pid).expect("readable").expect("there").start_ns;
            let mut watch = ClientsWatch::new(proc.clone());
            let mut spawn = spawn_of(gateway.id());
            spawn.parent.as_mut().expect("a gateway").process.start_ns = start_ns(gateway.id());
            // Its worker: this process, which has the other end, or pid 1.
            spawn.pid = if to_worker { std::process::id() } else { 1 };
            spawn.start_ns = start_ns(spawn.pid);
            watch.see(&Body::Spawn(Box::new(spawn)));
            let expected = u32::from(!to_worker);
            assert_eq!(outbound(&mut watch, 1), Some(expected), "{to} {to_worker}");
            assert_eq!(outbound(&mut watch, 2), None);
            to_gateway.write_all(b"\n").expect("it waits");
            lines.read_line(&mut String::new()).expect("it says so");
            // The clock of one that runs moves on at a tick, or when it sleeps.
            let closed = (3..20).find_map(|round| {
                thread::sleep(Duration::from_millis(if to_worker { 1 } else { 50 }));
                outbound(&mut watch, round)
            });
            let now = (gateway.try_wait(), &watch.gateways);
            assert_eq!(closed, (!to_worker).then_some(0), "{to} {to_worker} {now:?}");
            drop((to_gateway, accepted));
            gateway.wait().expect("a child");
        }
    }
}

#[test]
fn who_is_above_the_launchers_has_the_clients() {
    use crate::evidence::samples;
    let mut spawn = samples::spawn();
    let above = spawn.ancestors[0].identity();
    let parent = spawn.parent.as_ref().map(|parent| parent.process.identity());
    assert_eq!(gateway_of(&spawn), parent);
    let launcher = &mut spawn.parent.as_mut().expect("it has one").process.launcher;
    *launcher = Some("npm exec".to_owned());
    assert_eq!(gateway_of(&spawn), Some(above));
    spawn.ancestors[0].launcher = Some("sh -c".to_owned());
    assert_eq!(gateway_of(&spawn), None, "whoever asked for it is not known");
    let parent = spawn.parent.as_mut().expect("it has one");
    parent.forker = Some(Process { launcher: None, ..parent.process.clone() });
    parent.forker.as_mut().expect("just set").pid = 7;
    assert_eq!(gateway_of(&spawn).map(|id| id.pid), Some(7), "what is above it now is another's");
}
