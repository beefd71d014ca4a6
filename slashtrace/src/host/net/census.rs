use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Tables,
    foreign::{self, Foreign},
    tables,
};
use crate::host::diag::{Diag, UnixSocket};

/// Local and remote address of a connection.
pub(super) type Addresses = (tables::Address, tables::Address);

/// A TCP socket that listens or is connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tcp {
    pub(super) inode: u64,
    pub(super) listens: bool,
    pub(super) addresses: Addresses,
}

/// A Unix socket, no datagram socket, that listens or is connected.
#[derive(Clone, Debug)]
pub(super) struct Unix {
    pub(super) inode: u64,
    pub(super) listens: bool,
    /// It, or the listener that it was accepted on, has a name.
    pub(super) is_named: bool,
    /// Inode at its other end; `None` where that cannot be seen.
    pub(super) peer: Option<u64>,
    /// Its peer is closed, or sends nothing more.
    pub(super) is_shut: bool,
}

/// Every socket of one network namespace that listens or is connected.
#[derive(Debug, Default)]
pub(crate) struct Census {
    tcp: Vec<Tcp>,
    unix: HashMap<u64, Unix>,
    /// Which TCP socket has these addresses.
    by_addresses: HashMap<Addresses, u64>,
    complete: bool,
}

/// Sockets of one process, or of one tree, among those of a census.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Found {
    /// Sockets that listen.
    pub(crate) listening: u32,
    /// Established connections that were accepted on one of them: inodes.
    pub(crate) accepted: Vec<u64>,
    /// Established connections that were opened from here: inode, and that at the other end if it
    /// is on this machine.
    pub(crate) opened: Vec<(u64, Option<u64>)>,
    /// Unix sockets that never had a name, nor their peers (socketpair(2)): inodes.
    pub(crate) pairs: Vec<u64>,
    /// Whether all could be looked at.
    pub(crate) complete: bool,
}

/// Reads censuses, of our own network namespace by sock_diag(7), of others from /proc/PID/net.
#[derive(Debug)]
pub(crate) struct CensusTaker {
    diag: Option<Diag>,
    namespace: Option<PathBuf>,
    taken: HashMap<PathBuf, Census>,
}

impl CensusTaker {
    /// One for the /proc that is mounted there. Our own network namespace is only asked about where
    /// that /proc is ours.
    pub(crate) fn new(root: &Path) -> Self {
        let namespace = fs::read_link(root.join("self/ns/net")).ok();
        let diag = namespace.as_ref().and_then(|_| Diag::open().ok());
        Self { diag, namespace, taken: HashMap::new() }
    }

    /// What was read before is forgotten.
    pub(crate) fn begin_round(&mut self) {
        self.taken.clear();
    }

    /// How many connections were read in this round, if any were.
    pub(crate) fn connections(&self) -> Option<usize> {
        self.taken.values().map(Census::connections).reduce(|a, b| a + b)
    }

    /// How many connections to listeners among `own` nobody has accepted yet, in the namespace that
    /// the process is in; none where that cannot be seen.
    pub(crate) fn waiting(&mut self, folder: &Path, own: &HashSet<u64>) -> Option<usize> {
        let census = self.of(folder)?;
        let tcp = census.waiting_for_tcp(own);
        let unix: Vec<u64> = census.listening_unix(own).collect();
        // Only the kernel tells how many wait for a Unix socket, and only of our own namespace.
        let queued = |inode: &u64| -> Option<usize> {
            let socket = self.diag.as_mut()?.unix_socket(*inode).ok().flatten()?;
            Some(socket.waiting as usize)
        };
        Some(tcp + unix.iter().map(queued).sum::<Option<usize>>()?)
    }

    /// Whether a process that listens on a Unix socket has Unix sockets of other network namespaces
    /// among `own`, which its census does not show, or may have.
    pub(crate) fn misses(&mut self, folder: &Path, own: &HashSet<u64>) -> bool {
        let Ok(namespace) = fs::read_link(folder.join("ns/net")) else { return true };
        if self.of(folder).is_none() {
            return true;
        }
        let Some(census) = self.taken.get(&namespace) else { return true };
        if census.listening_unix(own).next().is_none() {
            return false;
        }
        let ours = self.namespace.as_ref() == Some(&namespace);
        let mut diag = self.diag.as_mut().filter(|_| ours);
        let mut table = foreign::by_table(folder);
        let is_here = |inode| match &mut diag {
            Some(diag) => Ok(diag.unix_socket(inode)?.is_some()),
            None => table(inode),
        };
        Foreign::default().any(folder, own, |inode| census.unix.contains_key(&inode), is_here)
    }

    /// The sockets of the namespace that the process is in, read once a round.
    pub(crate) fn of(&mut self, folder: &Path) -> Option<&Census> {
        let namespace = fs::read_link(folder.join("ns/net")).ok()?;
        if !self.taken.contains_key(&namespace) {
            let ours = self.namespace.as_ref() == Some(&namespace);
            let asked = self.diag.as_mut().filter(|_| ours).and_then(|it| Census::ask(it).ok());
            let census =
                asked.or_else(|| Tables::read(folder, &namespace).as_ref().map(Census::of_text))?;
            self.taken.insert(namespace.clone(), census);
        }
        self.taken.get(&namespace)
    }
}

impl Census {
    fn new(tcp: Vec<Tcp>, unix: Vec<Unix>, complete: bool) -> Self {
        let connected = tcp.iter().filter(|socket| !socket.listens);
        Self {
            by_addresses: connected.map(|socket| (socket.addresses, socket.inode)).collect(),
            unix: unix.into_iter().map(|socket| (socket.inode, socket)).collect(),
            tcp,
            complete,
        }
    }

    fn ask(diag: &mut Diag) -> io::Result<Self> {
        let unix = diag.unix_sockets()?.iter().filter_map(UnixSocket::census).collect();
        Ok(Self::new(diag.tcp_sockets()?, unix, true))
    }

    fn of_text(tables: &Tables) -> Self {
        let complete = tables.tcp.is_some() && tables.unix.is_some();
        let tcp = tables::tcp_lines(tables.tcp.as_deref().unwrap_or_default()).collect();
        let unix = tables.unix.as_deref().unwrap_or_default();
        Self::new(tcp, tables::unix_lines(unix).map(|(_, socket)| socket).collect(), complete)
    }

    /// Connections to a listener among `own` that no process has accepted yet: they have no inode.
    fn waiting_for_tcp(&self, own: &HashSet<u64>) -> usize {
        let listen = self.tcp.iter().filter(|it| it.listens && own.contains(&it.inode));
        let ports: HashSet<u16> = listen.map(|it| it.addresses.0.1).collect();
        let waits = |it: &&Tcp| !it.listens && it.inode == 0 && ports.contains(&it.addresses.0.1);
        self.tcp.iter().filter(waits).count()
    }

    fn listening_unix<'a>(&'a self, own: &'a HashSet<u64>) -> impl Iterator<Item = u64> + 'a {
        let unix = self.unix.values().filter(|it| it.listens && own.contains(&it.inode));
        unix.map(|it| it.inode)
    }

    /// How many connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.by_addresses.len()
    }

    /// The sockets among `own`. Connections whose other end is in the `tree` do not count.
    pub(crate) fn find(&self, own: &HashSet<u64>, tree: &HashSet<u64>) -> Found {
        let mut found = Found { complete: self.complete, ..Found::default() };
        let mine: Vec<&Tcp> = self.tcp.iter().filter(|it| own.contains(&it.inode)).collect();
        let ports: HashSet<u16> =
            mine.iter().filter(|it| it.listens).map(|it| it.addresses.0.1).collect();
        for socket in mine {
            let (local, remote) = socket.addresses;
            let end = self.by_addresses.get(&(remote, local)).copied();
            if socket.listens {
                found.listening += 1;
            } else if end.is_some_and(|end| tree.contains(&end)) {
            } else if ports.contains(&local.1) {
                found.accepted.push(socket.inode);
            } else {
                found.opened.push((socket.inode, end));
            }
        }
        for socket in own.iter().filter_map(|inode| self.unix.get(inode)) {
            let peer = socket.peer.and_then(|peer| self.unix.get(&peer));
            if socket.listens {
                found.listening += 1;
            } else if socket.is_shut || socket.peer.is_some_and(|end| tree.contains(&end)) {
            } else if socket.is_named {
                found.accepted.push(socket.inode);
            } else if peer.is_some_and(|peer| peer.is_named) {
                found.opened.push((socket.inode, socket.peer));
            } else {
                found.pairs.push(socket.inode);
            }
        }
        found
    }
}
