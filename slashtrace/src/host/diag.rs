//! Asks the kernel for sockets of our own network namespace (sock_diag(7)): only what is asked for is
//! copied out. What is asked of TCP stands where it is used.

use std::io;

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::TCP_LISTEN,
    unix::{
        ShowFlags, StateFlags as UnixStateFlags, UnixRequest, UnixResponse,
        nlas::{Nla as UnixNla, UnixDiagName},
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

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
pub(crate) const ANY: [u8; 8] = [0xff; 8];

/// A Unix socket that listens or is connected, somewhere in the network namespace.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    pub(crate) inode: u64,
    pub(crate) listens: bool,
    pub(crate) is_datagram: bool,
    pub(crate) name: Option<UnixDiagName>,
    pub(crate) peer: Option<u64>,
    /// Of one that was asked for by itself and listens: connections that wait to be accepted
    /// (`sk_diag_show_rqlen`, net/unix/diag.c).
    pub(crate) waiting: u32,
    /// `sk_shutdown`: `RCV_SHUTDOWN` and `SEND_SHUTDOWN`; both once its peer is closed.
    shutdown: u8,
}

/// Asks the kernel for sockets of our own network namespace (sock_diag(7)). No privilege is needed.
#[derive(Debug)]
pub(crate) struct Diag {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Diag {
    /// Opens a socket to ask on, and asks: a kernel without tcp_diag or unix_diag says no then.
    pub(crate) fn open() -> io::Result<Self> {
        let buffer = Vec::with_capacity(DATAGRAM_MAX);
        let mut diag = Self { socket: connect()?, buffer, sequence: 0 };
        diag.unix_sockets()?;
        Ok(diag)
    }

    /// Every Unix socket that listens or is connected, by inode: the kernel filters by nothing else.
    pub(crate) fn unix_sockets(&mut self) -> io::Result<Vec<UnixSocket>> {
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
    pub(crate) fn unix_socket(&mut self, inode: u64) -> io::Result<Option<UnixSocket>> {
        let request = UnixRequest {
            state_flags: UnixStateFlags::all(),
            inode: u32::try_from(inode).map_err(io::Error::other)?,
            show_flags: ShowFlags::NAME | ShowFlags::PEER | ShowFlags::RQLEN,
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

    pub(crate) fn dump(
        &mut self,
        request: SockDiagMessage,
        each: impl FnMut(SockDiagMessage),
    ) -> io::Result<()> {
        self.ask(request, NLM_F_REQUEST | NLM_F_DUMP, each)
    }

    /// Sends a request and hands over each answer. Behind an error the socket is a new one, so
    /// that what is left of an answer is not taken for the next one's.
    pub(crate) fn ask(
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

impl UnixSocket {
    /// Inode of the socket at its other end; 0 if that is closed (`sock_orphan`,
    /// include/net/sock.h), `None` if it has none.
    pub(crate) fn peer(&self) -> Option<u64> {
        self.peer
    }

    /// Whether nothing more can come from its peer.
    pub(crate) fn peer_shut(&self) -> bool {
        self.shutdown & PEER_SHUT != 0
    }

    /// Whether its peer, or nobody, reads what is written to it.
    pub(crate) fn peer_deaf(&self) -> bool {
        self.shutdown & PEER_DEAF != 0
    }

    fn of(response: UnixResponse) -> Self {
        let mut socket = Self {
            inode: response.header.inode.into(),
            listens: response.header.state == TCP_LISTEN,
            is_datagram: i32::from(response.header.kind) == libc::SOCK_DGRAM,
            name: None,
            peer: None,
            waiting: 0,
            shutdown: 0,
        };
        for attribute in response.nlas {
            match attribute {
                UnixNla::Name(name) => socket.name = Some(name),
                UnixNla::Peer(inode) => socket.peer = Some(inode.into()),
                UnixNla::ReceiveQueueLength(waiting, _) if socket.listens => {
                    socket.waiting = waiting;
                }
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
