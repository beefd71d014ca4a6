//! Which clients are connected to each tracked gateway; `outbound` is what gateways opened
//! themselves.
//! May touch: /proc of gateways through `host::proc`, `host::net`, sock_diag(7), `model`. Never the
//! clock: it is told the time.
//!
//! Tables are those of the gateway's own network namespace (/proc/PID/net, proc_pid_net(5)), and are
//! read only for a gateway that holds a socket, once a round for gateways of one namespace.

mod outbound;

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    fs, io,
    path::{Path, PathBuf},
};

use self::outbound::{Outbound, OutboundWatch};
use crate::{
    host::{
        diag::{Diag, UnixSocket},
        net::{
            Tables,
            asked::{self, Ends, Listener},
            foreign::Foreign,
            own_sockets, read,
            tables::Found,
        },
        proc::ProcFs,
    },
    model::{
        Body, Capability, Clients, Connection, Identity, Observation, Process, Role, Source, Spawn,
    },
};

/// Looks at one gateway for its spawns are this far apart, ns.
const LOOK_APART: u64 = 100_000_000;
/// Looks at different gateways for their spawns that may follow one another at once.
const LOOKS_AT_ONCE: u64 = 8;
/// After them they are this far apart, ns.
const LOOKS_APART: u64 = 25_000_000;
/// Descriptors of one gateway that are looked through in one round; one with more has its turn in
/// every other round, and so on.
const DESCRIPTORS_A_ROUND: usize = 512;
/// Connections of one gateway that are told apart.
const CONNECTIONS_MAX: usize = 256;

/// What was read once for every gateway that is looked at in one go.
#[derive(Debug, Default)]
struct Shared {
    /// Of our own network namespace.
    diag: Option<(Vec<Listener>, Vec<UnixSocket>)>,
    tables: HashMap<PathBuf, Tables>,
}

/// What is remembered of a gateway.
#[derive(Debug, Default)]
struct Gateway {
    /// What was said last.
    said: Option<Clients>,
    /// When each of its connections was first seen.
    since: BTreeMap<u64, u64>,
    ends: Ends,
    foreign: Foreign,
    outbound: Outbound,
    /// A spawn was not looked at.
    owed: bool,
    /// When it was looked at for a spawn, ns of the boot clock.
    looked_ns: Option<u64>,
    /// Its CPU time when its descriptors were looked through.
    cpu_ns: Option<u64>,
    /// Inodes of the sockets that it had then, and how many descriptors.
    own: Option<(HashSet<u64>, usize)>,
    /// Whether it still has these.
    unchanged: bool,
    /// Rounds that it is left alone, for it has many descriptors.
    rest: usize,
}

/// The kernel's sock_diag, and the network namespace that it tells of: our own.
#[derive(Debug)]
struct Eyes {
    diag: Diag,
    namespace: PathBuf,
}

/// Whether the kernel tells of TCP and Unix sockets by sock_diag(7).
///
/// # Errors
/// Why it does not: it is refused, or the kernel has no module for it.
pub fn ask_sock_diag() -> io::Result<()> {
    Diag::open().map(drop)
}

/// Watches the sockets of tracked gateways, and only these.
#[derive(Debug)]
pub struct ClientsWatch {
    proc: ProcFs,
    /// Or why there is none.
    eyes: Result<Eyes, String>,
    gateways: BTreeMap<Identity, Gateway>,
    outbound: OutboundWatch,
    /// Until when the looks for spawns so far are too many, ns of the boot clock.
    busy_until_ns: u64,
}

impl ClientsWatch {
    /// A watch that tracks nothing yet.
    pub fn new(proc: ProcFs) -> Self {
        let namespace = fs::read_link(proc.root().join("self/ns/net"));
        let eyes = Diag::open().and_then(|diag| Ok(Eyes { diag, namespace: namespace? }));
        let eyes = eyes.map_err(|error| error.to_string());
        let outbound = OutboundWatch::new(proc.root());
        Self { proc, eyes, gateways: BTreeMap::new(), outbound, busy_until_ns: 0 }
    }

    /// How connections can be seen here, if they can.
    pub fn capability(&self) -> Capability {
        let table = read(&self.proc.root().join("self/net/tcp"));
        let detail = match (&self.eyes, &table) {
            (Ok(_), _) => {
                "connections to gateways, by sock_diag; in other network namespaces from \
                           their /proc/PID/net"
                    .to_owned()
            }
            (Err(refused), Ok(_)) => format!(
                "connections to gateways, from their /proc/PID/net, which does not tell who spoke \
                 last (sock_diag: {refused})"
            ),
            (Err(refused), Err(error)) => {
                format!("cannot read /proc/self/net/tcp: {error}; sock_diag: {refused}")
            }
        };
        let ok = self.eyes.is_ok() || table.is_ok();
        Capability { name: "clients".to_owned(), ok, detail }
    }

    /// Learns from what was observed which gateways there are. One that only adopted a worker is
    /// none.
    pub fn see(&mut self, body: &Body) {
        self.outbound.see(body);
        match body {
            Body::Spawn(spawn) if spawn.role == Role::Worker => {
                if let Some(gateway) = gateway_of(spawn) {
                    self.gateways.entry(gateway).or_default();
                }
            }
            Body::Exit(exit) => {
                self.gateways.remove(&exit.identity());
            }
            _ => {}
        }
    }

    /// Looks at the gateway of a worker that was spawned just now: whoever spoke to it a moment ago is
    /// whom the worker is for. Says nothing of a gateway that does not listen.
    pub fn spawned(&mut self, spawn: &Spawn, now_ns: u64) -> Option<Observation> {
        let id = gateway_of(spawn)?;
        if spawn.role != Role::Worker || spawn.inherited {
            return None;
        }
        // In a storm of spawns nobody can tell whom each is for, and a look takes its time. The next
        // round tells of them all.
        let gateway = self.gateways.entry(id).or_default();
        let lately = gateway.looked_ns.is_some_and(|at| now_ns < at + LOOK_APART);
        gateway.owed = lately || self.busy_until_ns > now_ns + (LOOKS_AT_ONCE - 1) * LOOKS_APART;
        if gateway.owed {
            return None;
        }
        gateway.looked_ns = Some(now_ns);
        self.busy_until_ns = self.busy_until_ns.max(now_ns) + LOOKS_APART;
        let eyes = self.eyes.as_mut().ok();
        let clients = look(&self.proc, id, eyes, gateway, &mut Shared::default(), now_ns);
        if clients.listening == 0 {
            return None;
        }
        gateway.said = Some(clients.clone());
        Some(Observation { boottime_ns: now_ns, body: Body::Clients(clients) })
    }

    /// Looks at every tracked gateway once; says what changed. `now_ns` is the boot clock.
    pub fn round(&mut self, now_ns: u64) -> Vec<Observation> {
        let mut shared = Shared::default();
        let mut observations = Vec::new();
        let (proc, eyes, outbound) = (&self.proc, &mut self.eyes, &mut self.outbound);
        outbound.begin_round();
        self.gateways.retain(|&identity, gateway| {
            let cpu_ns = proc.cpu_ns(identity.pid).ok().flatten();
            gateway.unchanged = cpu_ns.is_some() && cpu_ns == gateway.cpu_ns;
            if !gateway.unchanged {
                match proc.stat(identity.pid) {
                    Ok(Some(stat)) if proc.is_same(identity, &stat) && !stat.ended() => {}
                    Ok(_) => return false,
                    Err(_) => return true,
                }
            }
            // Who does not run begins to listen to nobody.
            let deaf = gateway.said.as_ref().is_some_and(|it| it.listening == 0 && it.complete);
            let outbound_due = gateway.outbound.is_due(!gateway.unchanged, now_ns);
            if gateway.unchanged && deaf && !gateway.owed && !outbound_due {
                return true;
            }
            if gateway.rest > 0 {
                gateway.rest -= 1;
                gateway.unchanged = true;
            } else if !gateway.unchanged {
                gateway.cpu_ns = cpu_ns;
            }
            let eyes = eyes.as_mut().ok();
            let looked_through = !gateway.unchanged;
            let mut clients = look(proc, identity, eyes, gateway, &mut shared, now_ns);
            if outbound_due && let Some((own, _)) = &gateway.own {
                outbound.look(proc, identity, own, &mut gateway.outbound, now_ns);
                clients.outbound = gateway.outbound.count;
            }
            if looked_through {
                let descriptors = gateway.own.as_ref().map_or(0, |(_, descriptors)| *descriptors);
                gateway.rest = descriptors / DESCRIPTORS_A_ROUND;
            }
            let owed = std::mem::take(&mut gateway.owed) && clients.listening > 0;
            if owed || !gateway.said.as_ref().is_some_and(|said| same(said, &clients)) {
                gateway.said = Some(clients.clone());
                let body = Body::Clients(clients);
                observations.push(Observation { boottime_ns: now_ns, body });
            }
            true
        });
        observations
    }
}

/// Whose clients a worker's may be: its parent, or who is above that where it only launched the worker.
/// One that adopted it is nobody's.
pub(super) fn gateway_of(spawn: &Spawn) -> Option<Identity> {
    let parent = spawn.parent.as_ref().filter(|parent| !parent.gone && !parent.reaper)?;
    let above: &[Process] = match &parent.forker {
        Some(forker) => std::slice::from_ref(forker),
        None => &spawn.ancestors,
    };
    let mut chain = std::iter::once(&parent.process).chain(above);
    chain.find(|process| process.launcher.is_none()).map(Process::identity)
}

/// Whether nobody came or went.
fn same(a: &Clients, b: &Clients) -> bool {
    let ids = |clients: &Clients| -> Vec<u64> {
        clients.connections.iter().map(|connection| connection.id).collect()
    };
    (a.listening, a.connected, a.complete) == (b.listening, b.connected, b.complete)
        && (a.outbound == 0) == (b.outbound == 0)
        && ids(a) == ids(b)
}

/// Looks at one gateway. Which sockets are its own is read before the tables: one that is accepted
/// in between is seen in the next round.
fn look(
    proc: &ProcFs,
    id: Identity,
    eyes: Option<&mut Eyes>,
    gateway: &mut Gateway,
    shared: &mut Shared,
    now_ns: u64,
) -> Clients {
    let folder = proc.path(id.pid, "");
    let mut clients = Clients {
        pid: id.pid,
        start_ns: id.start_ns,
        listening: 0,
        connected: 0,
        connections: Vec::new(),
        outbound: gateway.outbound.count,
        complete: false,
        source: Source::Proc,
    };
    if !std::mem::take(&mut gateway.unchanged) || gateway.own.is_none() {
        gateway.own = own_sockets(proc, id.pid).ok();
    }
    let Some((own, _)) = &gateway.own else { return clients };
    if own.is_empty() {
        clients.complete = true;
        return clients;
    }
    let Ok(namespace) = fs::read_link(folder.join("ns/net")) else { return clients };
    let eyes = eyes.filter(|eyes| eyes.namespace == namespace);
    let (ends, foreign) = (&mut gateway.ends, &mut gateway.foreign);
    let asked = eyes.and_then(|eyes| eyes.ask(&folder, own, ends, foreign, shared).ok());
    let (found, complete) = if let Some(asked) = asked {
        asked
    } else {
        let tables = match shared.tables.entry(namespace) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(wanted) => match Tables::read(&folder, wanted.key()) {
                Some(tables) => wanted.insert(tables),
                None => return clients,
            },
        };
        let (found, complete) = tables.find(own);
        (found, complete && !tables.miss(&folder, own, foreign))
    };
    clients.complete = complete;
    clients.listening = found.listening;
    clients.connected = found.connections.len() as u32;
    if complete {
        let present: HashSet<u64> = found.connections.iter().map(|it| it.id).collect();
        gateway.since.retain(|id, _| present.contains(id));
    }
    clients.connections.extend(
        found.connections.into_iter().map(|it| Connection {
            id: it.id,
            since_ns: Some(*gateway.since.entry(it.id).or_insert(now_ns)),
            heard_ns: it
                .heard_ms_ago
                .map(|ms| now_ns.saturating_sub(u64::from(ms).saturating_mul(1_000_000))),
            port: it.port,
        }),
    );
    clients.connections.sort_by_key(|connection| connection.id);
    clients.connections.truncate(CONNECTIONS_MAX);
    clients
}

impl Eyes {
    /// The sockets of a gateway, and whether these are all.
    fn ask(
        &mut self,
        folder: &Path,
        own: &HashSet<u64>,
        ends: &mut Ends,
        foreign: &mut Foreign,
        shared: &mut Shared,
    ) -> io::Result<(Found, bool)> {
        let (listeners, unix) = match &mut shared.diag {
            Some(read) => read,
            unread => unread.insert((self.diag.listeners()?, self.diag.unix_sockets()?)),
        };
        let mut found = self.diag.tcp(listeners, own, ends)?;
        found.add(asked::unix(unix, own));
        let complete = !self.diag.misses(unix, folder, own, foreign);
        Ok((found, complete))
    }
}

#[cfg(test)]
mod tests;
