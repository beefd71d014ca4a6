//! Unix sockets of a process that are in another network namespace than it: no table of its own shows
//! them. The kernel makes the accepted end of a connection in the namespace of the client
//! (`unix_stream_connect`, net/unix/af_unix.c), and whoever sees the name of a listener in the file
//! system can connect to it from any.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::Path,
};

use super::{read, socket_at, tables};

/// The attribute of a socket that names its protocol (`sockfs_xattr_get`, net/socket.c).
const PROTOCOL: &str = "system.sockprotoname";
/// What the names of the protocols of Unix sockets begin with: `UNIX`, `UNIX-STREAM`
/// (net/unix/af_unix.c).
const UNIX: &[u8] = b"UNIX";
/// No name of a protocol is as long (`struct proto`, include/net/sock.h).
const NAME_MAX: usize = 64;

/// Which sockets of one process are Unix sockets of another network namespace. None ever becomes one,
/// or ceases to be one, so each is looked at once.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    known: HashMap<u64, bool>,
}

impl Foreign {
    /// Whether any of `own`, the sockets of the process whose /proc directory is `folder`, is one, or
    /// may be: one that cannot be looked at counts. `is_listed` says which were seen in a table,
    /// `is_here` whether the namespace of the process has a Unix socket, in whatever state.
    ///
    /// Its stdin, stdout and stderr do not count: who started it gave it these.
    ///
    /// Costs nothing unless a socket is new and in no table; then a look through the descriptors.
    pub(super) fn any(
        &mut self,
        folder: &Path,
        own: &HashSet<u64>,
        is_listed: impl Fn(u64) -> bool,
        mut is_here: impl FnMut(u64) -> io::Result<bool>,
    ) -> bool {
        self.known.retain(|inode, _| own.contains(inode));
        let new = |inode: &u64| !is_listed(*inode) && !self.known.contains_key(inode);
        let mut new: HashSet<u64> = own.iter().copied().filter(new).collect();
        let mut unseen = false;
        if !new.is_empty() {
            let Ok(descriptors) = fs::read_dir(folder.join("fd")) else { return true };
            for descriptor in descriptors {
                let Ok(descriptor) = descriptor else { return true };
                let path = descriptor.path();
                let Some(inode) = socket_at(&path).filter(|inode| new.contains(inode)) else {
                    continue;
                };
                let foreign = match is_unix(&path) {
                    // As where a service manager on the host takes the log.
                    _ if is_stdio(&path) => Ok(false),
                    Ok(true) => is_here(inode).map(|here| !here),
                    Ok(false) => Ok(false),
                    // It was closed meanwhile.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => Err(error),
                };
                new.remove(&inode);
                match foreign {
                    Ok(foreign) => drop(self.known.insert(inode, foreign)),
                    Err(_) => unseen = true,
                }
            }
        }
        unseen || self.known.values().any(|foreign| *foreign)
    }
}

/// Whether a descriptor is 0, 1 or 2.
fn is_stdio(descriptor: &Path) -> bool {
    descriptor.file_name().is_some_and(|name| ["0", "1", "2"].iter().any(|fd| name == *fd))
}

/// Whether a descriptor of a process is of a Unix socket.
fn is_unix(descriptor: &Path) -> io::Result<bool> {
    let mut name = [0; NAME_MAX];
    let length = rustix::fs::getxattr(descriptor, PROTOCOL, &mut name)?;
    Ok(name.get(..length).is_some_and(|name| name.starts_with(UNIX)))
}

/// Says which Unix sockets the network namespace of a process has, by its table, which is read anew.
pub(super) fn by_table(folder: &Path) -> impl FnMut(u64) -> io::Result<bool> {
    let path = folder.join("net/unix");
    let mut all: Option<HashSet<u64>> = None;
    move |inode| {
        let all = match &mut all {
            Some(all) => all,
            unread => unread.insert(tables::unix_inodes(&read(&path)?).collect()),
        };
        Ok(all.contains(&inode))
    }
}

/// Clients in other network namespaces, for tests.
#[cfg(test)]
pub(crate) mod testing {
    use std::{
        io::{BufRead as _, BufReader},
        path::Path,
        process::{Child, Command, Stdio},
    };

    /// Listens on a Unix socket, accepts one connection, and stays until its stdin ends.
    pub(crate) const ACCEPTS: &str = "
import socket, sys
listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()
print(flush=True)
accepted = listener.accept()
sys.stdin.read()
";

    /// Connects to a Unix socket, and stays until its stdin ends.
    const CLIENT: &str = "
import socket, sys
one = socket.socket(socket.AF_UNIX); one.connect(sys.argv[1])
print('connected', flush=True)
sys.stdin.read()
";

    /// A process in a network namespace of its own that is connected to a Unix socket; none where no
    /// such namespace can be made.
    pub(crate) fn client_elsewhere(listener: &Path) -> Option<Child> {
        let mut command = Command::new("unshare");
        command.args(["-n", "python3", "-c", CLIENT]).arg(listener);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            child.wait().unwrap();
            eprintln!("SKIPPED: not root: no network namespace can be made");
            return None;
        }
        Some(child)
    }
}
