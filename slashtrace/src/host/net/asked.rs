//! Sockets of our own network namespace, from the kernel (sock_diag(7)): only what is asked for is
//! copied out, and each TCP connection says when it last received something.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    mem::offset_of,
    net::IpAddr,
    path::Path,
};

use netlink_packet_core::NLM_F_REQUEST;
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla as InetNla},
};

use super::{
    census::{Tcp, Unix},
    foreign::Foreign,
    tables::{Connection, Found},
};
use crate::host::diag::{ANY, Diag, UnixSocket};

/// A TCP socket that listens, somewhere in the network namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    family: u8,
    port: u16,
    inode: u64,
}

/// By inode of a connection's socket: that of the socket at its other end, if it is on this
/// machine.
pub(crate) type Ends = HashMap<u64, Option<u64>>;

impl Diag {
    /// Every TCP socket that listens. The kernel does not look at connections for it.
    pub(crate) fn listeners(&mut self) -> io::Result<Vec<Listener>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let request = inet(family, StateFlags::LISTEN, ExtensionFlags::empty(), any(family));
            self.dump(request, |message| {
                if let SockDiagMessage::InetResponse(socket) = message {
                    found.push(Listener {
                        family,
                        port: socket.header.socket_id.source_port,
                        inode: socket.header.inode.into(),
                    });
                }
            })?;
        }
        Ok(found)
    }

    /// The ports on which those of these sockets listen that do.
    pub(crate) fn listening(&mut self, own: &HashSet<u64>) -> io::Result<Vec<u16>> {
        let all = self.listeners()?.into_iter();
        Ok(all.filter(|one| own.contains(&one.inode)).map(|one| one.port).collect())
    }

    /// Gives inode and local port of each connection to this port, whoever's: the kernel filters by
    /// the port of the other end (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c).
    pub(crate) fn connected_to(
        &mut self,
        port: u16,
        mut each: impl FnMut(u64, u16),
    ) -> io::Result<()> {
        for family in [AF_INET, AF_INET6] {
            let mut id = any(family);
            id.destination_port = port;
            let request = inet(family, StateFlags::ESTABLISHED, ExtensionFlags::empty(), id);
            self.dump(request, |message| {
                if let SockDiagMessage::InetResponse(socket) = message
                    && socket.header.state == TCP_ESTABLISHED
                    && socket.header.socket_id.destination_port == port
                {
                    each(socket.header.inode.into(), socket.header.socket_id.source_port);
                }
            })?;
        }
        Ok(())
    }

    /// TCP sockets of one process. What it accepted has the family and the port of its listener,
    /// by which the kernel filters (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c). `ends` remembers
    /// other ends from one look to the next.
    pub(crate) fn tcp(
        &mut self,
        listeners: &[Listener],
        own: &HashSet<u64>,
        ends: &mut Ends,
    ) -> io::Result<Found> {
        let mine = listeners.iter().filter(|listener| own.contains(&listener.inode));
        let mut places = BTreeMap::new();
        for listener in mine {
            *places.entry((listener.family, listener.port)).or_insert(0) += 1;
        }
        let mut accepted = Vec::new();
        for &(family, port) in places.keys() {
            let mut id = any(family);
            id.source_port = port;
            let request = inet(family, StateFlags::ESTABLISHED, ExtensionFlags::INFO, id);
            self.dump(request, |message| {
                if let SockDiagMessage::InetResponse(socket) = message
                    && socket.header.state == TCP_ESTABLISHED
                    && own.contains(&u64::from(socket.header.inode))
                {
                    accepted.push(socket);
                }
            })?;
        }
        let inodes: HashSet<u64> = accepted.iter().map(|one| one.header.inode.into()).collect();
        ends.retain(|inode, _| inodes.contains(inode));
        let mut found = Found { listening: places.values().sum(), connections: Vec::new() };
        for socket in accepted {
            let inode = u64::from(socket.header.inode);
            let end = match ends.get(&inode) {
                Some(&end) => end,
                None => *ends.entry(inode).or_insert(self.other_end(&socket.header.socket_id)?),
            };
            if !end.is_some_and(|end| own.contains(&end)) {
                found.connections.push(Connection {
                    id: inode,
                    port: Some(socket.header.socket_id.destination_port),
                    heard_ms_ago: last_data_recv(&socket),
                });
            }
        }
        Ok(found)
    }

    /// Every TCP socket that listens or is connected.
    pub(super) fn tcp_sockets(&mut self) -> io::Result<Vec<Tcp>> {
        let mut found = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let states = StateFlags::ESTABLISHED | StateFlags::LISTEN;
            let request = inet(family, states, ExtensionFlags::empty(), any(family));
            self.dump(request, |message| {
                if let SockDiagMessage::InetResponse(socket) = message {
                    let id = &socket.header.socket_id;
                    let local = (id.source_address.to_canonical(), id.source_port);
                    let remote = (id.destination_address.to_canonical(), id.destination_port);
                    found.push(Tcp {
                        inode: socket.header.inode.into(),
                        listens: socket.header.state == TCP_LISTEN,
                        addresses: (local, remote),
                    });
                }
            })?;
        }
        Ok(found)
    }

    /// The inode at the other end of a connection, if that is here.
    fn other_end(&mut self, id: &SocketId) -> io::Result<Option<u64>> {
        let (source, destination) =
            (id.destination_address.to_canonical(), id.source_address.to_canonical());
        let family = match source {
            IpAddr::V4(_) => AF_INET,
            IpAddr::V6(_) => AF_INET6,
        };
        let id = SocketId {
            source_port: id.destination_port,
            destination_port: id.source_port,
            source_address: source,
            destination_address: destination,
            interface_id: id.interface_id,
            cookie: ANY,
        };
        let request = inet(family, StateFlags::ESTABLISHED, ExtensionFlags::empty(), id);
        let mut end = None;
        let asked = self.ask(request, NLM_F_REQUEST, |message| {
            if let SockDiagMessage::InetResponse(socket) = message
                && socket.header.state == TCP_ESTABLISHED
            {
                end = Some(u64::from(socket.header.inode));
            }
        });
        match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|()| end),
        }
    }
}

impl Diag {
    /// Whether a process that listens on one of these Unix `sockets` has some of other network
    /// namespaces among `own`, which are not among them, or may have.
    pub(crate) fn misses(
        &mut self,
        sockets: &[UnixSocket],
        folder: &Path,
        own: &HashSet<u64>,
        known: &mut Foreign,
    ) -> bool {
        let of = |inode: &u64| sockets.binary_search_by_key(inode, |socket| socket.inode).ok();
        if !own.iter().filter_map(of).any(|at| sockets[at].listens) {
            return false;
        }
        let is_here = |inode| Ok(self.unix_socket(inode)?.is_some());
        known.any(folder, own, |inode| of(&inode).is_some(), is_here)
    }
}

/// Unix sockets of one process, among `sockets` by inode: an accepted one has the name of the
/// listener.
pub(crate) fn unix(sockets: &[UnixSocket], own: &HashSet<u64>) -> Found {
    let of = |inode: &u64| sockets.binary_search_by_key(inode, |socket| socket.inode).ok();
    let mine: Vec<&UnixSocket> = own.iter().filter_map(of).map(|at| &sockets[at]).collect();
    let named = |listens: bool| {
        mine.iter().filter(move |socket| socket.listens == listens && socket.name.is_some())
    };
    let names: Vec<_> = named(true).map(|socket| &socket.name).collect();
    let clients = named(false).filter(|socket| {
        names.contains(&&socket.name)
            && !socket.peer_shut()
            && !socket.peer.is_some_and(|peer| own.contains(&peer))
    });
    Found {
        listening: names.len() as u32,
        connections: clients.map(|one| Connection::of(one.inode)).collect(),
    }
}

impl UnixSocket {
    /// As one of a census; a datagram socket, which has no connections, is none.
    pub(super) fn census(&self) -> Option<Unix> {
        (!self.is_datagram).then(|| Unix {
            inode: self.inode,
            listens: self.listens,
            is_named: self.name.is_some(),
            peer: self.peer,
            is_shut: self.peer == Some(0) || self.peer_shut(),
        })
    }
}

fn any(family: u8) -> SocketId {
    if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() }
}

fn inet(
    family: u8,
    states: StateFlags,
    extensions: ExtensionFlags,
    socket_id: SocketId,
) -> SockDiagMessage {
    let protocol = IPPROTO_TCP;
    SockDiagMessage::InetRequest(InetRequest { family, protocol, extensions, states, socket_id })
}

/// `tcpi_last_data_recv`, ms: since data, or else the connection, came in (`lrcvtime`,
/// net/ipv4/tcp.c and tcp_minisocks.c). The structure only ever grows at its end.
fn last_data_recv(socket: &InetResponse) -> Option<u32> {
    let info = socket.nlas.iter().find_map(|attribute| match attribute {
        InetNla::TcpInfo(info) => Some(info),
        _ => None,
    })?;
    let at = offset_of!(libc::tcp_info, tcpi_last_data_recv);
    Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?))
}
