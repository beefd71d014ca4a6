use std::{collections::HashSet, net::IpAddr, net::Ipv4Addr, net::Ipv6Addr};

use super::census::{Tcp, Unix};

/// `TCP_ESTABLISHED` (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";
/// `TCP_LISTEN` (include/net/tcp_states.h).
const LISTEN: &str = "0A";
/// `__SO_ACCEPTCON` (include/uapi/linux/net.h): a Unix socket that listens.
const ACCEPTS: u32 = 1 << 16;
/// `SS_CONNECTED` (include/uapi/linux/net.h).
const CONNECTED: &str = "03";
/// `SOCK_DGRAM` (include/linux/net.h).
const DATAGRAM: &str = "0002";

pub(super) type Address = (IpAddr, u16);

/// What is found of one process's sockets.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Found {
    pub(crate) listening: u32,
    pub(crate) connections: Vec<Connection>,
}

/// A connection that was accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Connection {
    /// Inode of its socket.
    pub(crate) id: u64,
    /// TCP port of its other end.
    pub(crate) port: Option<u16>,
    /// When it last received something, where that is known.
    pub(crate) heard_ms_ago: Option<u32>,
}

impl Found {
    pub(crate) fn add(&mut self, other: Self) {
        self.listening += other.listening;
        self.connections.extend(other.connections);
    }
}

impl Connection {
    pub(super) fn of(id: u64) -> Self {
        Self { id, port: None, heard_ms_ago: None }
    }
}

/// Counts TCP sockets in the text of /proc/PID/net/tcp and tcp6 together, because a listener of
/// one family may serve the other. A connection counts if it is established (`CLOSE_WAIT`: the
/// peer went away), and its local port is one on which the process listens. Its other end must
/// not belong to the process, too.
pub(super) fn tcp(texts: &[String], own: &HashSet<u64>) -> Found {
    let mut ports = HashSet::new();
    let mut established = Vec::new();
    let mut count = Found::default();
    for socket in tcp_lines(texts).filter(|socket| own.contains(&socket.inode)) {
        let (local, remote) = socket.addresses;
        if socket.listens {
            count.listening += 1;
            ports.insert(local.1);
        } else {
            established.push((local, remote, socket.inode));
        }
    }
    let ends: HashSet<(Address, Address)> =
        established.iter().map(|&(local, remote, _)| (local, remote)).collect();
    let clients = established.iter().filter(|&&(local, remote, _)| {
        ports.contains(&local.1) && !ends.contains(&(remote, local))
    });
    let client = |&(_, remote, inode): &(Address, Address, u64)| Connection {
        port: Some(remote.1),
        ..Connection::of(inode)
    };
    count.connections = clients.map(client).collect();
    count
}

/// TCP sockets that listen or are established.
pub(super) fn tcp_lines(texts: &[String]) -> impl Iterator<Item = Tcp> {
    texts.iter().flat_map(|text| text.lines().skip(1)).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (local, remote, state) = (fields.nth(1)?, fields.next()?, fields.next()?);
        if state != ESTABLISHED && state != LISTEN {
            return None;
        }
        let inode = fields.nth(5)?.parse().ok()?;
        let addresses = (address(local)?, address(remote)?);
        Some(Tcp { inode, listens: state == LISTEN, addresses })
    })
}

/// Counts Unix sockets in the text of /proc/PID/net/unix: an accepted one has the name of the
/// listener. The kernel does not show there that the peer closed its end, so such a connection
/// counts until the process closes it.
pub(super) fn unix(text: &str, own: &HashSet<u64>) -> Found {
    let mine: Vec<_> = unix_lines(text)
        .filter(|(_, socket)| socket.is_named && own.contains(&socket.inode))
        .collect();
    let named = |listens: bool| mine.iter().filter(move |(_, socket)| socket.listens == listens);
    let names: HashSet<_> = named(true).map(|(name, _)| name).collect();
    let clients = named(false).filter(|(name, _)| names.contains(name));
    Found {
        listening: named(true).count() as u32,
        connections: clients.map(|(_, socket)| Connection::of(socket.inode)).collect(),
    }
}

/// Unix sockets that listen or are connected, but no datagram sockets, each with its name.
pub(super) fn unix_lines(text: &str) -> impl Iterator<Item = (Option<&str>, Unix)> {
    text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (flags, sort, state) = (fields.nth(3)?, fields.next()?, fields.next()?);
        let inode = fields.next()?.parse().ok()?;
        let name = fields.next();
        let listens = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & ACCEPTS != 0);
        let is_named = name.is_some();
        let socket = Unix { inode, listens, is_named, peer: None, is_shut: false };
        (sort != DATAGRAM && (listens || state == CONNECTED)).then_some((name, socket))
    })
}

/// Every Unix socket, in whatever state.
pub(super) fn unix_inodes(text: &str) -> impl Iterator<Item = u64> {
    text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(6)?.parse().ok())
}

/// `0100007F:1F90`: words of the address as the machine stores them, in hexadecimal. An IPv4
/// address that is mapped into IPv6 is the same as itself.
fn address(text: &str) -> Option<Address> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        u32::from_str_radix(host.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes)
    };
    let host = match host.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(found: &Found) -> (u32, Vec<u64>) {
        (found.listening, found.connections.iter().map(|it| it.id).collect())
    }

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n";

    fn line(local: &str, remote: &str, state: &str, inode: u64) -> String {
        format!(
            "   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1\n"
        )
    }

    #[test]
    fn only_what_was_accepted_from_another_process_is_a_client() {
        let any = "00000000:0000";
        let text = [
            HEAD.to_owned(),
            line("0100007F:1F90", any, "0A", 1),
            line("0100007F:1F90", "0100007F:A001", "01", 2), // a client
            line("0100007F:A001", "0100007F:1F90", "01", 90), // its other end
            line("0100007F:1F90", "0100007F:A002", "08", 3), // the peer went away
            line("0100007F:A003", "0100007F:01BB", "01", 4), // outgoing
            line("0100007F:1F90", "0100007F:A004", "01", 5), // from the process itself
            line("0100007F:A004", "0100007F:1F90", "01", 6),
            line("0100007F:2000", any, "0A", 91), // another process's
        ];
        let own = HashSet::from([1, 2, 3, 4, 5, 6]);
        assert_eq!(counted(&tcp(&[text.concat()], &own)), (1, vec![2]));
        assert_eq!(tcp(&[text.concat()], &own).connections[0].port, Some(0xA001));
        assert_eq!(tcp(&[text.concat()], &HashSet::new()), Found::default());
    }

    #[test]
    fn a_listener_of_both_families() {
        let mapped = "0000000000000000FFFF00000100007F";
        let six = [
            HEAD.to_owned(),
            line(&format!("{}:1F90", "0".repeat(32)), &format!("{}:0000", "0".repeat(32)), "0A", 1),
            line(&format!("{mapped}:1F90"), &format!("{mapped}:A001"), "01", 2),
            line(&format!("{mapped}:1F90"), &format!("{mapped}:A002"), "01", 3),
        ];
        let four = [HEAD.to_owned(), line("0100007F:A002", "0100007F:1F90", "01", 4)];
        let own = HashSet::from([1, 2, 3, 4]);
        let count = tcp(&[four.concat(), six.concat()], &own);
        assert_eq!(counted(&count), (1, vec![2]));
    }

    #[test]
    fn unix_sockets_that_were_accepted_have_the_name_of_the_listener() {
        let text = "Num RefCount Protocol Flags Type St Inode Path\n\
            0: 00000002 00000000 00010000 0001 01 1 /run/gateway\n\
            0: 00000003 00000000 00000000 0001 03 2 /run/gateway\n\
            0: 00000003 00000000 00000000 0001 03 3\n\
            0: 00000003 00000000 00000000 0001 03 4 /run/bus\n";
        let own = HashSet::from([1, 2, 3, 4]);
        assert_eq!(counted(&unix(text, &own)), (1, vec![2]));
    }
}
