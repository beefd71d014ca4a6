use super::holders::Holders;
use crate::{
    host::proc::{FdEnd, Holder, ProcFs, Target},
    host::unix::UnixEnds,
    model::{EndKind, Identity, Maybe, MaybeId, OutputPeer, OutputState, StdinPeer, StdinState},
};

/// /proc is not read in one moment: a descriptor can pass from a process that is yet to be searched
/// to one that was. So many searches in a row must find the same.
pub(super) const MISSES_TO_BELIEVE: u8 = 2;

/// Which of a worker's descriptors.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Which {
    Stdin,
    Output,
}

impl Which {
    fn fd(self) -> u32 {
        match self {
            Self::Stdin => 0,
            Self::Output => 1,
        }
    }
}

/// One of a worker's descriptors, and who has the other end.
#[derive(Debug)]
pub(super) struct Side {
    which: Which,
    /// What it is open on, where that can be seen.
    pub(super) end: Option<FdEnd>,
    /// Inode of the other end, where it is a socket that has one.
    socket_peer: Maybe,
    pub(super) peer: Peer,
    /// CPU time of its holder when that was asked.
    pub(super) holder_cpu_ns: Maybe,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Peer {
    /// Nobody was found yet and nobody was looked for: new, or its holder has let go.
    #[default]
    Wanted,
    /// Held by this process, in this descriptor.
    Held(MaybeId, Holder),
    /// So many searches found nobody but, it may be, another worker that inherited it.
    Missing(u8, MaybeId),
    /// A search found nobody, but could not look everywhere.
    Hidden,
    /// A search found nobody, but processes that may have it were not read: their users are over their
    /// budgets.
    Unread,
    /// The kernel says that the other end is closed.
    Shut,
    /// It has no other end that could be looked for.
    None,
}

impl Peer {
    pub(super) fn wants_search(self) -> bool {
        matches!(self, Self::Wanted | Self::Missing(..) | Self::Hidden | Self::Unread)
    }

    /// Whether the next search may bring an answer, rather than another answer.
    pub(super) fn is_undecided(self) -> bool {
        match self {
            Self::Wanted => true,
            Self::Missing(misses, _) => misses < MISSES_TO_BELIEVE,
            _ => false,
        }
    }
}

impl Side {
    pub(super) fn new(which: Which) -> Self {
        Self {
            which,
            end: None,
            socket_peer: Maybe::NONE,
            peer: Peer::None,
            holder_cpu_ns: Maybe::NONE,
        }
    }

    fn kind(&self) -> Option<EndKind> {
        self.end.map(|end| end.kind)
    }

    /// What its other end is known by.
    pub(super) fn target(&self) -> Option<Target> {
        match (self.end?, self.which) {
            (FdEnd { kind: EndKind::Pipe, inode }, Which::Stdin) => Some(Target::Writer(inode)),
            (FdEnd { kind: EndKind::Pipe, inode }, Which::Output) => Some(Target::Reader(inode)),
            (FdEnd { kind: EndKind::Socket, .. }, _) => self.socket_peer.get().map(Target::Socket),
            _ => None,
        }
    }

    /// What can be said of a stdin; `None` while that is being found out.
    pub(super) fn stdin(&self) -> Option<StdinPeer> {
        let (state, holder) = match self.peer {
            Peer::Held(holder, _) => (StdinState::Held, holder.get()),
            Peer::Missing(misses, _) if misses < MISSES_TO_BELIEVE => return None,
            Peer::Missing(_, fellow) if fellow.get().is_some() => {
                (StdinState::Inherited, fellow.get())
            }
            Peer::Missing(..) | Peer::Shut => (StdinState::Unheld, None),
            Peer::Hidden | Peer::Unread | Peer::None => (StdinState::Unknown, None),
            Peer::Wanted => return None,
        };
        Some(StdinPeer { kind: self.kind(), state, holder })
    }

    /// What can be said of an output; `None` while that is being found out, or where it cannot be
    /// seen what it is.
    pub(super) fn output(&self, is_log: bool) -> Option<OutputPeer> {
        let kind = self.kind()?;
        let (state, reader) = match self.peer {
            _ if is_log => (OutputState::Unknown, None),
            Peer::Held(reader, _) => (OutputState::Read, reader.get()),
            Peer::Missing(misses, _) if misses < MISSES_TO_BELIEVE => return None,
            Peer::Missing(..) | Peer::Shut => (OutputState::Unread, None),
            Peer::Hidden | Peer::Unread | Peer::None => (OutputState::Unknown, None),
            Peer::Wanted => return None,
        };
        Some(OutputPeer { kind, state, reader })
    }

    /// Looks what the descriptor is open on by now. Whether that is something else than before.
    pub(super) fn look(&mut self, proc: &ProcFs, worker: Identity, unix: &mut UnixEnds) -> bool {
        let end = proc.fd_end(worker.pid, self.which.fd()).ok().flatten();
        let is_new = end != self.end;
        if is_new {
            *self = Self { end, ..Self::new(self.which) };
        }
        match end {
            Some(FdEnd { kind: EndKind::Pipe, .. }) if is_new => self.peer = Peer::Wanted,
            Some(FdEnd { kind: EndKind::Socket, .. }) => self.ask_kernel(proc, unix),
            _ => {}
        }
        is_new
    }

    /// Asks the kernel whether the other end of a socket is closed.
    pub(super) fn ask_kernel(&mut self, proc: &ProcFs, unix: &mut UnixEnds) {
        let Some(FdEnd { kind: EndKind::Socket, inode }) = self.end else { return };
        let Some(end) = unix.of(proc, inode) else { return };
        let shut = match self.which {
            Which::Stdin => end.mute,
            Which::Output => end.deaf,
        };
        if shut {
            self.peer = Peer::Shut;
        } else if let (Some(peer), Peer::None) = (end.peer, self.peer) {
            self.socket_peer = peer.into();
            self.peer = Peer::Wanted;
        }
    }

    /// A holder that is gone holds nothing.
    pub(super) fn is_holder_gone(&mut self, holders: &mut Holders<'_>) {
        let holder = match self.peer {
            Peer::Held(holder, _) => holder.get(),
            Peer::Missing(misses, fellow) => {
                if fellow.get().is_some_and(|fellow| holders.cpu_ns(fellow) == Ok(None)) {
                    let misses = misses.min(MISSES_TO_BELIEVE - 1);
                    self.peer = Peer::Missing(misses, MaybeId::default());
                }
                return;
            }
            _ => return,
        };
        let Some(holder) = holder else { return };
        let cpu_ns = holders.cpu_ns(holder).ok().flatten();
        let quiet = cpu_ns.is_some() && cpu_ns == self.holder_cpu_ns.get();
        if !quiet && !holders.is_there(holder) {
            self.peer = Peer::Wanted;
        }
    }

    /// Looks whether its holder still holds it, unless that has not run since it was asked last.
    /// Whether it was asked.
    pub(super) fn ask_holder(&mut self, holders: &mut Holders<'_>, unix: &mut UnixEnds) -> bool {
        let (Some(target), Peer::Held(holder, at)) = (self.target(), self.peer) else {
            return false;
        };
        let Some(holder) = holder.get() else { return false };
        let cpu_ns = holders.cpu_ns(holder).ok().flatten();
        if cpu_ns.is_some() && cpu_ns == self.holder_cpu_ns.get() {
            return false;
        }
        let holds = holders.proc.holds(at, target) && holders.is_there(holder);
        self.holder_cpu_ns = cpu_ns.into();
        if !holds {
            self.peer = Peer::Wanted;
        }
        self.ask_kernel(holders.proc, unix);
        true
    }
}
