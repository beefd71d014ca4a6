use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::PathBuf,
};

use crate::host::{diag::Diag, net::own_sockets, proc::ProcFs};

/// Connections of one process that are told apart.
const PORTS_MAX: usize = 16;

/// Finds the TCP ports by which a gateway knows the processes of its terminals. Of our own network
/// namespace only: sock_diag(7) tells of no other.
#[derive(Debug)]
pub(in crate::sensor) struct Ports {
    eyes: Option<(Diag, PathBuf)>,
}

/// Local ports of connections to one gateway, by the inode of their socket.
pub(in crate::sensor) type Callers = BTreeMap<u64, u16>;

impl Ports {
    /// Without sock_diag it finds none.
    pub(in crate::sensor) fn new(proc: &ProcFs) -> Self {
        let namespace = fs::read_link(proc.root().join("self/ns/net"));
        let eyes = Diag::open().and_then(|diag| Ok((diag, namespace?)));
        Self { eyes: eyes.ok() }
    }

    /// The TCP ports on which a process of our network namespace listens.
    pub(in crate::sensor) fn listening(&mut self, proc: &ProcFs, pid: u32) -> Vec<u16> {
        let Some((diag, namespace)) = &mut self.eyes else { return Vec::new() };
        let here = fs::read_link(proc.path(pid, "ns/net")).is_ok_and(|its| its == *namespace);
        let own = own_sockets(proc, pid).map(|(own, _)| own).unwrap_or_default();
        if !here || own.is_empty() {
            return Vec::new();
        }
        let mut ports = diag.listening(&own).unwrap_or_default();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Who is connected to these ports.
    pub(in crate::sensor) fn callers(&mut self, ports: &[u16]) -> io::Result<Callers> {
        let mut callers = Callers::new();
        if let Some((diag, _)) = &mut self.eyes {
            for port in ports {
                diag.connected_to(*port, |inode, local| {
                    callers.insert(inode, local);
                })?;
            }
        }
        Ok(callers)
    }
}

/// The ports that a process has among these.
pub(in crate::sensor) fn of(proc: &ProcFs, pid: u32, callers: &Callers) -> Vec<u16> {
    if callers.is_empty() {
        return Vec::new();
    }
    let own: HashSet<u64> = own_sockets(proc, pid).map(|(own, _)| own).unwrap_or_default();
    let mut ports: Vec<u16> = own.iter().filter_map(|inode| callers.get(inode)).copied().collect();
    ports.sort_unstable();
    ports.truncate(PORTS_MAX);
    ports
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_ports_of_a_process_that_is_connected() {
        let proc = ProcFs::default();
        let mut ports = Ports::new(&proc);
        if ports.eyes.is_none() {
            eprintln!("SKIPPED: no sock_diag");
            return;
        }
        let own = std::process::id();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert!(ports.listening(&proc, own).contains(&port));
            assert!(ports.callers(&[port]).unwrap().is_empty());
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let callers = ports.callers(&[port]).unwrap();
            assert_eq!(of(&proc, own, &callers), [stream.local_addr().unwrap().port()]);
            assert!(of(&proc, 1, &callers).is_empty());
        }
    }
}
