//! The TCP sockets of our own network namespace, from the kernel's sock_diag(7): only the ports that
//! are asked for are copied out, and each connection says when it last received something.

use std::{collections::HashSet, io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::{
    SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_TCP},
    inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags, nlas::Nla},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};

use super::sockets::{Connection, Found};

/// `NLM_F_DUMP_INTR` (include/uapi/linux/netlink.h): the table changed while it was read.
const INTERRUPTED: u16 = 0x10;
/// What is received at once; the kernel makes its parts at most this large.
const BUFFER: usize = 1 << 16;
/// Ports of one process that are asked for.
const PORTS_MAX: usize = 64;

/// A socket to ask the kernel on.
#[derive(Debug)]
pub(super) struct Diag(Socket);

impl Diag {
    /// Opens one.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let diag = Self(socket);
        // Kernels without inet_diag say no to the first question.
        diag.dump(AF_INET, StateFlags::LISTEN, ExtensionFlags::empty(), (0, 0))?;
        Ok(diag)
    }

    /// The TCP sockets of a process: those it listens on, and the connections on these whose other
    /// end is not its own.
    pub(super) fn tcp(&self, own: &HashSet<u64>) -> io::Result<Found> {
        let mut ports = HashSet::new();
        let mut found = Found::default();
        for socket in self.both(StateFlags::LISTEN, ExtensionFlags::empty(), (0, 0))? {
            if own.contains(&u64::from(socket.header.inode)) {
                found.listening += 1;
                ports.insert(socket.header.socket_id.source_port);
            }
        }
        for port in ports.into_iter().take(PORTS_MAX) {
            let mut ends = HashSet::new();
            for socket in self.both(StateFlags::ESTABLISHED, ExtensionFlags::empty(), (0, port))? {
                if own.contains(&u64::from(socket.header.inode)) {
                    ends.insert(end(&socket, true));
                }
            }
            for socket in self.both(StateFlags::ESTABLISHED, ExtensionFlags::INFO, (port, 0))? {
                let id = u64::from(socket.header.inode);
                if own.contains(&id) && !ends.contains(&end(&socket, false)) {
                    found.connections.push(Connection { id, heard_ms_ago: heard(&socket) });
                }
            }
        }
        Ok(found)
    }

    fn both(
        &self,
        states: StateFlags,
        extensions: ExtensionFlags,
        ports: (u16, u16),
    ) -> io::Result<Vec<InetResponse>> {
        let mut found = self.dump(AF_INET, states.clone(), extensions.clone(), ports)?;
        found.extend(self.dump(AF_INET6, states, extensions, ports)?);
        Ok(found)
    }

    /// `ports`: local and remote, 0 for any (`inet_diag_dump_icsk`, net/ipv4/inet_diag.c).
    fn dump(
        &self,
        family: u8,
        states: StateFlags,
        extensions: ExtensionFlags,
        ports: (u16, u16),
    ) -> io::Result<Vec<InetResponse>> {
        let mut id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        (id.source_port, id.destination_port) = ports;
        let request =
            InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id: id };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut packet = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;
        self.receive()
    }

    fn receive(&self) -> io::Result<Vec<InetResponse>> {
        let mut found = Vec::new();
        let mut buffer = vec![0; BUFFER];
        let mut interrupted = false;
        loop {
            let size = self.0.recv(&mut &mut buffer[..], 0)?;
            let mut rest = &buffer[..size];
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)
                    .map_err(|error| io::Error::other(error.to_string()))?;
                interrupted |= message.header.flags & INTERRUPTED != 0;
                let length = (message.header.length as usize).next_multiple_of(4);
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                        found.push(*socket);
                    }
                    NetlinkPayload::Done(_) if interrupted => {
                        return Err(io::Error::from(io::ErrorKind::Interrupted));
                    }
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
                if length == 0 {
                    return Err(io::Error::other("a netlink message without a length"));
                }
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

type End = ((IpAddr, u16), (IpAddr, u16));

/// Local and remote address, or the other way round.
fn end(socket: &InetResponse, swapped: bool) -> End {
    let id = &socket.header.socket_id;
    let local = (id.source_address.to_canonical(), id.source_port);
    let remote = (id.destination_address.to_canonical(), id.destination_port);
    if swapped { (remote, local) } else { (local, remote) }
}

fn heard(socket: &InetResponse) -> Option<u32> {
    socket.nlas.iter().find_map(|nla| match nla {
        Nla::TcpInfo(info) => Some(info.last_data_recv),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
        time::Duration,
    };

    use super::*;

    fn inode(file: &impl std::os::fd::AsRawFd) -> u64 {
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
        let text = link.to_str().unwrap().to_owned();
        text.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    #[test]
    fn connections_are_told_with_when_they_were_heard_from() {
        let Ok(diag) = Diag::open() else { return };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut clients: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut served: Vec<TcpStream> = (0..3).map(|_| listener.accept().unwrap().0).collect();
        std::thread::sleep(Duration::from_millis(300));
        clients[1].write_all(b"x").unwrap();
        served[1].read_exact(&mut [0]).unwrap();
        let mut own: HashSet<u64> = served.iter().map(inode).collect();
        own.insert(inode(&listener));
        let found = diag.tcp(&own).unwrap();
        assert_eq!((found.listening, found.connections.len()), (1, 3));
        let heard = |stream: &TcpStream| {
            let id = inode(stream);
            found.connections.iter().find(|it| it.id == id).unwrap().heard_ms_ago.unwrap()
        };
        assert!(heard(&served[1]) < 200, "{found:?}");
        assert!(heard(&served[0]) >= 300 && heard(&served[2]) >= 300, "{found:?}");

        // One whose both ends are the process's own is no client.
        own.insert(inode(&clients[0]));
        assert_eq!(diag.tcp(&own).unwrap().connections.len(), 2);
        drop(clients);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(diag.tcp(&own).unwrap().connections.len(), 0, "they went away");
        assert!(listener.as_raw_fd() > 0);
    }
}
