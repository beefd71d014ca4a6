//! The other ends of Unix sockets.

use std::collections::HashMap;

use super::{
    diag::{Diag, UnixSocket},
    proc::ProcFs,
};

/// From so many sockets on that are asked for in one round all of them are read at once.
const ASKED_SINGLY: usize = 8;

/// What is known of a Unix socket's other end.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct UnixEnd {
    /// Inode of the socket at its other end; 0 if that is closed, `None` if it has none.
    pub(crate) peer: Option<u64>,
    /// Nothing more can come from there.
    pub(crate) mute: bool,
    /// Nobody there reads any more.
    pub(crate) deaf: bool,
}

/// Asks the kernel for the other ends of Unix sockets (sock_diag(7)), those of our own network
/// namespace. Each is asked for once a round.
#[derive(Debug, Default)]
pub(crate) struct UnixEnds {
    /// Opened when somebody asks.
    diag: Option<Diag>,
    /// The kernel does not answer.
    refused: bool,
    round: HashMap<u64, Option<UnixEnd>>,
    /// All of them were read in this round.
    whole: bool,
    /// Those of a made-up /proc.
    #[cfg(test)]
    pub(crate) made: HashMap<u64, UnixEnd>,
}

impl UnixEnds {
    /// What was read before is forgotten.
    pub(crate) fn begin_round(&mut self) {
        self.round.clear();
        self.whole = false;
    }

    /// The other end of a socket; `None` if it is no Unix socket, of another network namespace, or
    /// the kernel does not answer.
    pub(crate) fn of(&mut self, proc: &ProcFs, inode: u64) -> Option<UnixEnd> {
        #[cfg(test)]
        if proc.root() != std::path::Path::new("/proc") {
            return self.made.get(&inode).copied();
        }
        if let Some(known) = self.round.get(&inode) {
            return *known;
        }
        if self.whole || self.refused || proc.root() != std::path::Path::new("/proc") {
            return None;
        }
        if self.diag.is_none() {
            self.diag = Diag::open().ok();
            self.refused = self.diag.is_none();
        }
        let diag = self.diag.as_mut()?;
        if self.round.len() < ASKED_SINGLY {
            let end = diag.unix_socket(inode).ok().flatten().as_ref().map(UnixEnd::of);
            self.round.insert(inode, end);
            return end;
        }
        let all = diag.unix_sockets().ok()?;
        self.round = all.iter().map(|one| (one.inode, Some(UnixEnd::of(one)))).collect();
        self.whole = true;
        self.round.get(&inode).copied().flatten()
    }
}

impl UnixEnd {
    fn of(socket: &UnixSocket) -> Self {
        let closed = socket.peer() == Some(0);
        Self {
            peer: socket.peer(),
            mute: closed || socket.peer_shut(),
            deaf: closed || socket.peer_deaf(),
        }
    }
}
