//! Who is connected to the gateway of a worker that is taken for abandoned.

use super::{Checks, No};
use crate::{
    host::net::own_sockets,
    model::{Identity, Kind},
    reaper::Decision,
};

impl Checks {
    /// Whether no client that may use the worker is connected to its gateway, or waits to be accepted:
    /// one may have come since the gateway was last sampled. Asked only where the finding is that
    /// clients are gone ([`Kind::Abandoned`]); for every other kind it costs nothing.
    ///
    /// Nobody may be connected but [`Decision::other_clients`], who are known not to be the worker's
    /// own client, come back. One that waits is nobody known. As when the gateway is sampled, what it
    /// accepted from itself is no client. A Unix socket with a name counts whoever listens under that
    /// name, and one that waits in another network namespace cannot be seen, which is a no, as is one
    /// that it accepted from a client in another.
    ///
    /// A gateway that has ended has no clients; who holds the worker's stdin is asked then.
    pub(super) fn has_no_client_at(
        &self,
        gateway: Option<Identity>,
        decision: &Decision,
    ) -> Result<(), No> {
        let Some(gateway) = gateway.filter(|_| decision.kind == Kind::Abandoned) else {
            return Ok(());
        };
        let folder = self.root.join(gateway.pid.to_string());
        let read = || match own_sockets(&self.proc, gateway.pid) {
            Ok((own, _)) => Ok(own),
            Err(error) => Err(No::unread("the sockets of its gateway", &error)),
        };
        let own = read()?;
        let unseen = || No::because("who is connected to its gateway cannot be seen");
        let mut census = self.census.borrow_mut();
        census.begin_round();
        let waiting = census.waiting(&folder, &own).ok_or_else(unseen)?;
        let found = census.of(&folder).ok_or_else(unseen)?.find(&own, &own);
        if !found.complete || census.misses(&folder, &own) {
            return Err(unseen());
        }
        // One that was accepted between these looks was in neither.
        if !read()?.is_subset(&own) {
            return Err(No::because("its gateway got a connection just now"));
        }
        if found.listening == 0 {
            return Err(No::because("its gateway does not listen any more"));
        }
        let others = &decision.other_clients;
        let new = found.accepted.iter().filter(|id| !others.contains(id)).count() + waiting;
        match (new, others.is_empty()) {
            (0, _) => Ok(()),
            (1, true) => Err(No::because("in use: a client is connected to its gateway")),
            (n, true) => {
                Err(No::because(format!("in use: {n} clients are connected to its gateway")))
            }
            (_, false) => Err(No::because(
                "in use: a client has connected to its gateway that may be its own, come back",
            )),
        }
    }
}
