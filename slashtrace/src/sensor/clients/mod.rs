//! Which clients are connected to each tracked gateway. `diag` asks the kernel for sockets of our own
//! network namespace; `sockets` reads the tables of others.
//! May touch: /proc of gateways through `proc`, sock_diag(7), `model`. Never the clock: it is told
//! the time.
//!
//! Tables are those of the gateway's own network namespace (/proc/PID/net, proc_pid_net(5)), and are
//! read only for a gateway that holds a socket, once a round for gateways of one namespace.

mod diag;
mod sockets;

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    fs, io,
    path::{Path, PathBuf},
};

use self::diag::Diag;
use crate::{
    model::{Body, Capability, Clients, Connection, Identity, Observation, Role, Source, Spawn},
    sensor::proc::ProcFs,
};

/// Looks at one gateway for its spawns are this far apart, ns.
const LOOK_APART: u64 = 100_000_000;
/// Connections of one gateway that are told apart.
const CONNECTIONS_MAX: usize = 256;

/// The tables of one network namespace; `None` where one could not be read.
#[derive(Debug)]
struct Tables {
    tcp: Option<Vec<String>>,
    unix: Option<String>,
}

/// Watches the sockets of tracked gateways, and only these.
#[derive(Debug)]
pub struct ClientsWatch {
    proc: ProcFs,
    /// For our own network namespace, and its name.
    diag: Option<(Diag, PathBuf)>,
    /// What was said last of each.
    gateways: BTreeMap<Identity, Option<Clients>>,
    /// When it was last looked at one for a spawn, ns of the boot clock.
    looked: Option<(Identity, u64)>,
}

impl ClientsWatch {
    /// A watch that tracks nothing yet.
    pub fn new(proc: ProcFs) -> Self {
        let namespace = fs::read_link(proc.root().join("self/ns/net"));
        let diag = Diag::open().and_then(|diag| Ok((diag, namespace?))).ok();
        Self { proc, diag, gateways: BTreeMap::new(), looked: None }
    }

    /// Whether the tables can be read here.
    pub fn capability(&self) -> Capability {
        let found = read(&self.proc.root().join("self/net/tcp"));
        Capability {
            name: "clients".to_owned(),
            ok: found.is_ok(),
            detail: match found {
                Ok(_) if self.diag.is_some() => {
                    "connections to gateways, by sock_diag; in other network namespaces from \
                     their /proc/PID/net"
                        .to_owned()
                }
                Ok(_) => "connections to gateways, from their /proc/PID/net".to_owned(),
                Err(error) => format!("cannot read /proc/self/net/tcp: {error}"),
            },
        }
    }

    /// Learns from what was observed which gateways there are. One that only adopted a worker is
    /// none.
    pub fn see(&mut self, body: &Body) {
        match body {
            Body::Spawn(spawn) if spawn.role == Role::Worker => {
                if let Some(parent) =
                    spawn.parent.as_ref().filter(|parent| !parent.gone && !parent.reaper)
                {
                    self.gateways.entry(parent.process.identity()).or_default();
                }
            }
            Body::Exit(exit) => {
                self.gateways.remove(&exit.identity());
            }
            _ => {}
        }
    }

    /// Looks at the gateway of a worker that was spawned just now: whoever spoke to it a moment ago is
    /// whom the worker is for. Says nothing where that is not known of any connection.
    pub fn spawned(&mut self, spawn: &Spawn, now_ns: u64) -> Option<Observation> {
        let parent = spawn.parent.as_ref().filter(|parent| !parent.gone && !parent.reaper)?;
        let id = parent.process.identity();
        if spawn.role != Role::Worker || spawn.inherited {
            return None;
        }
        // In a storm of spawns nobody can tell whom each is for, and a look takes its time.
        let lately = |&(other, at): &(Identity, u64)| other == id && now_ns < at + LOOK_APART;
        if self.looked.as_ref().is_some_and(lately) {
            return None;
        }
        self.looked = Some((id, now_ns));
        let diag = self.diag.as_ref();
        let clients = look(self.proc.root(), id, diag, &mut HashMap::new(), now_ns);
        if clients.connections.iter().all(|connection| connection.heard_ns.is_none()) {
            return None;
        }
        self.gateways.insert(id, Some(clients.clone()));
        Some(Observation { boottime_ns: now_ns, body: Body::Clients(clients) })
    }

    /// Looks at every tracked gateway once; says what changed. `now_ns` is the boot clock.
    pub fn round(&mut self, now_ns: u64) -> Vec<Observation> {
        let mut tables = HashMap::new();
        let mut observations = Vec::new();
        let (proc, diag) = (&self.proc, self.diag.as_ref());
        self.gateways.retain(|&identity, said| {
            match proc.stat(identity.pid) {
                Ok(Some(stat)) if proc.is_same(identity, &stat) && !stat.ended() => {}
                Ok(_) => return false,
                Err(_) => return true,
            }
            let clients = look(proc.root(), identity, diag, &mut tables, now_ns);
            if !said.as_ref().is_some_and(|said| same(said, &clients)) {
                *said = Some(clients.clone());
                let body = Body::Clients(clients);
                observations.push(Observation { boottime_ns: now_ns, body });
            }
            true
        });
        observations
    }
}

/// Whether nobody came or went.
fn same(a: &Clients, b: &Clients) -> bool {
    let ids = |clients: &Clients| -> Vec<u64> {
        clients.connections.iter().map(|connection| connection.id).collect()
    };
    (a.listening, a.connected, a.complete) == (b.listening, b.connected, b.complete)
        && ids(a) == ids(b)
}

/// Looks at one gateway. Which sockets are its own is read before the tables: one that is accepted
/// in between is seen in the next round.
fn look(
    root: &Path,
    id: Identity,
    diag: Option<&(Diag, PathBuf)>,
    tables: &mut HashMap<PathBuf, Tables>,
    now_ns: u64,
) -> Clients {
    let folder = root.join(id.pid.to_string());
    let mut clients = Clients {
        pid: id.pid,
        start_ns: id.start_ns,
        listening: 0,
        connected: 0,
        connections: Vec::new(),
        complete: false,
        source: Source::Proc,
    };
    let Ok(own) = own_sockets(&folder) else { return clients };
    if own.is_empty() {
        clients.complete = true;
        return clients;
    }
    let Ok(namespace) = fs::read_link(folder.join("ns/net")) else { return clients };
    let diag = diag.filter(|(_, ours)| *ours == namespace).map(|(diag, _)| diag);
    let tables = match tables.entry(namespace) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(wanted) => match Tables::read(&folder, wanted.key(), diag.is_none()) {
            Some(tables) => wanted.insert(tables),
            None => return clients,
        },
    };
    let tcp = match diag {
        Some(diag) => diag.tcp(&own).ok(),
        None => tables.tcp.as_ref().map(|texts| sockets::tcp(texts, &own)),
    };
    let unix = tables.unix.as_ref().map(|text| sockets::unix(text, &own));
    clients.complete = tcp.is_some() && unix.is_some();
    for found in [tcp, unix].into_iter().flatten() {
        clients.listening += found.listening;
        clients.connected += found.connections.len() as u32;
        clients.connections.extend(found.connections.into_iter().map(|it| {
            Connection {
                id: it.id,
                heard_ns: it
                    .heard_ms_ago
                    .map(|ms| now_ns.saturating_sub(u64::from(ms).saturating_mul(1_000_000))),
            }
        }));
    }
    clients.connections.sort_by_key(|connection| connection.id);
    clients.connections.truncate(CONNECTIONS_MAX);
    clients
}

impl Tables {
    /// The tables of `namespace`. A process that leaves it meanwhile (unshare(2), which anybody may)
    /// shows the tables of another one, in which the other gateways of this one have no clients.
    /// Without `with_tcp` that one is not read: it may be long.
    fn read(folder: &Path, namespace: &Path, with_tcp: bool) -> Option<Self> {
        let tcp = if with_tcp {
            read(&folder.join("net/tcp"))
        } else {
            Err(io::Error::from(io::ErrorKind::Unsupported))
        };
        let tcp = tcp.and_then(|four| {
            match read(&folder.join("net/tcp6")) {
                Ok(six) => Ok(vec![four, six]),
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![four]),
                Err(error) => Err(error),
            }
        });
        let tables = Self { tcp: tcp.ok(), unix: read(&folder.join("net/unix")).ok() };
        let stayed = fs::read_link(folder.join("ns/net")).is_ok_and(|now| now == namespace);
        stayed.then_some(tables)
    }
}

/// Names of Unix sockets may be any bytes.
fn read(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Inodes of the sockets that a process holds (`socket:[123]`, proc_pid_fd(5)).
fn own_sockets(folder: &Path) -> io::Result<HashSet<u64>> {
    let mut own = HashSet::new();
    for entry in fs::read_dir(folder.join("fd"))? {
        // A descriptor that was closed meanwhile is not held.
        let Ok(target) = fs::read_link(entry?.path()) else { continue };
        let inode = target.to_str().and_then(|target| {
            target.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
        });
        own.extend(inode);
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn looks_at_real_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("listens");
        let (_served, _) = listener.accept().expect("it connected");
        let id = Identity { pid: std::process::id(), start_ns: 1 };
        let clients = look(Path::new("/proc"), id, None, &mut HashMap::new(), 0);
        assert!(clients.complete && clients.listening >= 1, "{clients:?}");
        assert_eq!(clients.connected, 0, "both ends are ours");
        drop(client);
    }

    #[test]
    fn one_that_left_its_namespace_shows_nothing_of_it() {
        let folder = Path::new("/proc/self");
        let namespace = fs::read_link(folder.join("ns/net")).expect("it is in one");
        assert!(Tables::read(folder, &namespace, true).is_some());
        assert!(Tables::read(folder, Path::new("net:[1]"), true).is_none());
    }

    #[test]
    fn what_cannot_be_read_is_not_complete() {
        let id = Identity { pid: u32::MAX, start_ns: 1 };
        assert!(!look(Path::new("/proc"), id, None, &mut HashMap::new(), 0).complete);
    }
}
