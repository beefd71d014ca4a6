//! Sockets of our own network namespace, from the kernel (sock_diag(7)): only what is asked for is
//! copied out, and each TCP connection says when it last received something.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    mem::offset_of,
    net::IpAddr,
};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_ESTABLISHED, TCP_LISTEN},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla as InetNla},
    unix::{
        ShowFlags, StateFlags as UnixStateFlags, UnixRequest, UnixResponse,
        nlas::{Nla as UnixNla, UnixDiagName},
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::{
    census::{Tcp, Unix},
    sockets::{Connection, Found},
};

/// The kernel makes no datagram of a dump larger than this (`netlink_dump`,
/// net/netlink/af_netlink.c).
const DATAGRAM_MAX: usize = 32 * 1024;
/// The peer has closed its end, or says that it sends nothing more: `RCV_SHUTDOWN`
/// (include/net/sock.h).
const PEER_SHUT: u8 = 1;
/// The peer reads nothing more: `SEND_SHUTDOWN` (include/net/sock.h).
const PEER_DEAF: u8 = 2;
/// `NLM_F_DUMP_INTR` (include/uapi/linux/netlink.h): the table changed while it was read.
const INTERRUPTED: u16 = 0x10;
/// Any cookie (`INET_DIAG_NOCOOKIE`, include/uapi/linux/inet_diag.h).
const ANY: [u8; 8] = [0xff; 8];

/// A TCP socket that listens, somewhere in the network namespace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listener {
    family: u8,
    port: u16,
    inode: u64,
}

/// A Unix socket that listens or is connected, somewhere in the network namespace.
#[derive(Debug)]
pub(in crate::sensor) struct UnixSocket {
    pub(in crate::sensor) inode: u64,
    listens: bool,
    is_datagram: bool,
    name: Option<UnixDiagName>,
    peer: Option<u64>,
    /// `sk_shutdown`: `RCV_SHUTDOWN` and `SEND_SHUTDOWN`; both once its peer is closed.
    shutdown: u8,
}

/// By inode of a connection's socket: that of the socket at its other end, if it is on this
/// machine.
pub(super) type Ends = HashMap<u64, Option<u64>>;

/// Asks the kernel for sockets of our own network namespace (sock_diag(7)). No privilege is needed.
#[derive(Debug)]
pub(in crate::sensor) struct Diag {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Diag {
    /// Opens a socket to ask on, and asks: a kernel without tcp_diag or unix_diag says no then.
    pub(in crate::sensor) fn open() -> io::Result<Self> {
        let buffer = Vec::with_capacity(DATAGRAM_MAX);
        let mut diag = Self { socket: connect()?, buffer, sequence: 0 };
        diag.listeners()?;
        diag.unix_sockets()?;
        Ok(diag)
    }

    /// Every TCP socket that listens. The kernel does not look at connections for it.
    pub(super) fn listeners(&mut self) -> io::Result<Vec<Listener>> {
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
    pub(in crate::sensor) fn listening(&mut self, own: &HashSet<u64>) -> io::Result<Vec<u16>> {
        let all = self.listeners()?.into_iter();
        Ok(all.filter(|one| own.contains(&one.inode)).map(|one| one.port).collect())
    }

    /// Gives inode and local port of each connection to this port, whoever's: the kernel filters by
    /// the port of the other end (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c).
    pub(in crate::sensor) fn connected_to(
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
    pub(super) fn tcp(
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
                found
                    .connections
                    .push(Connection { id: inode, heard_ms_ago: last_data_recv(&socket) });
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

    /// Every Unix socket that listens or is connected, by inode: the kernel filters by nothing else.
    pub(in crate::sensor) fn unix_sockets(&mut self) -> io::Result<Vec<UnixSocket>> {
        let request = UnixRequest {
            state_flags: UnixStateFlags::ESTABLISHED | UnixStateFlags::LISTEN,
            inode: 0,
            show_flags: ShowFlags::NAME | ShowFlags::PEER,
            cookie: ANY,
        };
        let mut found = Vec::new();
        self.dump(SockDiagMessage::UnixRequest(request), |message| {
            if let SockDiagMessage::UnixResponse(socket) = message {
                found.push(UnixSocket::of(*socket));
            }
        })?;
        found.sort_unstable_by_key(|socket| socket.inode);
        Ok(found)
    }

    /// One Unix socket; `None` if there is none of that inode in our network namespace. The kernel
    /// goes through all of them for it (`unix_lookup_by_ino`, net/unix/diag.c), but copies one.
    pub(in crate::sensor) fn unix_socket(&mut self, inode: u64) -> io::Result<Option<UnixSocket>> {
        let request = UnixRequest {
            state_flags: UnixStateFlags::all(),
            inode: u32::try_from(inode).map_err(io::Error::other)?,
            show_flags: ShowFlags::NAME | ShowFlags::PEER,
            cookie: ANY,
        };
        let mut found = None;
        let asked = self.ask(SockDiagMessage::UnixRequest(request), NLM_F_REQUEST, |message| {
            if let SockDiagMessage::UnixResponse(socket) = message {
                found = Some(UnixSocket::of(*socket));
            }
        });
        match asked {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|()| found),
        }
    }

    fn dump(
        &mut self,
        request: SockDiagMessage,
        each: impl FnMut(SockDiagMessage),
    ) -> io::Result<()> {
        self.ask(request, NLM_F_REQUEST | NLM_F_DUMP, each)
    }

    /// Sends a request and hands over each answer. Behind an error the socket is a new one, so
    /// that what is left of an answer is not taken for the next one's.
    fn ask(
        &mut self,
        request: SockDiagMessage,
        flags: u16,
        each: impl FnMut(SockDiagMessage),
    ) -> io::Result<()> {
        let asked = self.try_ask(request, flags, each);
        if asked.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            self.socket = connect()?;
        }
        asked
    }

    fn try_ask(
        &mut self,
        request: SockDiagMessage,
        flags: u16,
        mut each: impl FnMut(SockDiagMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut interrupted = false;
        loop {
            self.buffer.clear();
            // The kernel answers within send(2) and recv(2): there is nothing to wait for.
            self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT)?;
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                let length = message.header.length as usize;
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                interrupted |= message.header.flags & INTERRUPTED != 0;
                match message.payload {
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(io::Error::from(io::ErrorKind::Interrupted));
                    }
                    NetlinkPayload::InnerMessage(inner) => {
                        each(inner);
                        if flags & NLM_F_DUMP != NLM_F_DUMP {
                            return Ok(());
                        }
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    _ => {}
                }
            }
        }
    }
}

/// Unix sockets of one process, among `sockets` by inode: an accepted one has the name of the
/// listener.
pub(super) fn unix(sockets: &[UnixSocket], own: &HashSet<u64>) -> Found {
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
    /// Inode of the socket at its other end; 0 if that is closed (`sock_orphan`,
    /// include/net/sock.h), `None` if it has none.
    pub(in crate::sensor) fn peer(&self) -> Option<u64> {
        self.peer
    }

    /// Whether nothing more can come from its peer.
    pub(in crate::sensor) fn peer_shut(&self) -> bool {
        self.shutdown & PEER_SHUT != 0
    }

    /// Whether its peer, or nobody, reads what is written to it.
    pub(in crate::sensor) fn peer_deaf(&self) -> bool {
        self.shutdown & PEER_DEAF != 0
    }

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

    fn of(response: UnixResponse) -> Self {
        let mut socket = Self {
            inode: response.header.inode.into(),
            listens: response.header.state == TCP_LISTEN,
            is_datagram: i32::from(response.header.kind) == libc::SOCK_DGRAM,
            name: None,
            peer: None,
            shutdown: 0,
        };
        for attribute in response.nlas {
            match attribute {
                UnixNla::Name(name) => socket.name = Some(name),
                UnixNla::Peer(inode) => socket.peer = Some(inode.into()),
                UnixNla::Shutdown(how) => socket.shutdown = how,
                _ => {}
            }
        }
        socket
    }
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
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
