//! Sockets of this machine's network namespaces: `asked` by sock_diag(7) of our own, `tables` as
//! /proc/PID/net shows those of others, and ours where the kernel does not tell (proc_pid_net(5)),
//! `census` all of one namespace, `foreign` those of a process that are in another one.

pub(crate) mod asked;
pub(crate) mod census;
pub(crate) mod foreign;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
pub(crate) mod tables;

use std::{collections::HashSet, fs, io, path::Path};

use self::{foreign::Foreign, tables::Found};
use super::proc::{ProcFs, over_budget};

/// The tables of one network namespace; `None` where one could not be read.
#[derive(Debug)]
pub(crate) struct Tables {
    tcp: Option<Vec<String>>,
    unix: Option<String>,
}

impl Tables {
    /// The tables of `namespace`. A process that leaves it meanwhile (unshare(2), which anybody may)
    /// shows the tables of another one, in which the other gateways of this one have no clients.
    pub(crate) fn read(folder: &Path, namespace: &Path) -> Option<Self> {
        let tcp = read(&folder.join("net/tcp")).and_then(|four| {
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

    /// The sockets of a process, and whether these are all.
    pub(crate) fn find(&self, own: &HashSet<u64>) -> (Found, bool) {
        let tcp = self.tcp.as_ref().map(|texts| tables::tcp(texts, own));
        let unix = self.unix.as_ref().map(|text| tables::unix(text, own));
        let complete = tcp.is_some() && unix.is_some();
        let mut found = Found::default();
        [tcp, unix].into_iter().flatten().for_each(|part| found.add(part));
        (found, complete)
    }
}

impl Tables {
    /// Whether a process that listens on a Unix socket has Unix sockets of other network namespaces
    /// among `own`, which no table of its own shows, or may have.
    pub(crate) fn miss(&self, folder: &Path, own: &HashSet<u64>, known: &mut Foreign) -> bool {
        let text = self.unix.as_deref().unwrap_or_default();
        if !tables::unix_lines(text).any(|(_, it)| it.listens && own.contains(&it.inode)) {
            return false;
        }
        let listed: HashSet<u64> = tables::unix_inodes(text).collect();
        known.any(folder, own, |inode| listed.contains(&inode), foreign::by_table(folder))
    }
}

/// Names of Unix sockets may be any bytes.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Inodes of the sockets that a process holds (`socket:[123]`, proc_pid_fd(5)), and how many
/// descriptors it has.
///
/// # Errors
/// If it is gone (`NotFound`), may not be looked at, or its user is over its budget.
pub(crate) fn own_sockets(proc: &ProcFs, pid: u32) -> io::Result<(HashSet<u64>, usize)> {
    let mut meter = proc.meter(pid)?.ok_or_else(over_budget)?;
    let mut own = HashSet::new();
    let mut descriptors = 0;
    for entry in fs::read_dir(proc.path(pid, "fd"))? {
        descriptors += 1;
        if !meter.read() {
            return Err(over_budget());
        }
        // A descriptor that was closed meanwhile is not held.
        own.extend(socket_at(&entry?.path()));
    }
    Ok((own, descriptors))
}

/// The inode of the socket that a descriptor in /proc/PID/fd is of, if it is of one.
fn socket_at(descriptor: &Path) -> Option<u64> {
    let target = fs::read_link(descriptor).ok()?;
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}
