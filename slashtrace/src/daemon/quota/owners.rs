//! Whose processes are that the roster does not know, or takes for another user's: gateways'
//! surroundings, descendants of another user, and those whose birth was left out.

use std::collections::VecDeque;

use crate::{
    model::{Body, Identity, Process, Role, Spawn},
    roster::Index,
};

/// Processes that are remembered. There are not more workers, and what is above them, than the
/// kernel programs track at once (16,384).
const REMEMBERED: usize = 16_384;

#[derive(Clone, Copy, Debug)]
struct Owned {
    uid: Option<u32>,
    /// Its birth, or the only birth that names it, was left out.
    left_out: bool,
}

#[derive(Debug, Default)]
pub(super) struct Owners {
    of: Index<Identity, Owned>,
    /// In the order in which they came; those that ended are still in it.
    order: VecDeque<Identity>,
}

impl Owners {
    /// Whose it is, if that is known here.
    pub(super) fn of(&self, id: Identity) -> Option<u32> {
        self.of.get(&id)?.uid
    }

    /// Whether nothing of it is recorded.
    pub(super) fn is_left_out(&self, id: Identity) -> bool {
        self.of.get(&id).is_some_and(|owned| owned.left_out)
    }

    /// Notes what a record says of owners, and whether it was recorded. `of_worker` is whose the worker
    /// is that a descendant is below.
    pub(super) fn note(
        &mut self,
        body: &Body,
        uid: Option<u32>,
        admitted: bool,
        of_worker: Option<u32>,
    ) {
        match body {
            Body::Spawn(spawn) if spawn.role == Role::Worker || !admitted => {
                self.spawned(spawn, uid, admitted);
            }
            // The roster knows it as its worker's user's.
            Body::Spawn(spawn) if uid != of_worker => {
                self.put(spawn.identity(), Owned { uid, left_out: false });
            }
            Body::Exit(exit) => drop(self.of.remove(&exit.identity())),
            _ => {}
        }
    }

    fn spawned(&mut self, spawn: &Spawn, uid: Option<u32>, admitted: bool) {
        let id = spawn.identity();
        if !admitted {
            self.put(id, Owned { uid, left_out: true });
        } else if self.is_left_out(id) {
            self.of.remove(&id);
        }
        if spawn.role != Role::Worker {
            return;
        }
        let parent = spawn.parent.iter();
        let parent = parent
            .flat_map(|parent| std::iter::once(&parent.process).chain(parent.forker.as_ref()));
        for above in parent.chain(&spawn.ancestors).chain(&spawn.opener).map(Process::identity) {
            match self.of.get_mut(&above) {
                Some(known) => known.left_out &= !admitted,
                None => self.put(above, Owned { uid, left_out: !admitted }),
            }
        }
    }

    fn put(&mut self, id: Identity, owned: Owned) {
        if self.of.insert(id, owned).is_some() {
            return;
        }
        self.order.push_back(id);
        // Of those that ended only the place is left.
        while self.order.len() > REMEMBERED {
            let Some(oldest) = self.order.pop_front() else { return };
            self.of.remove(&oldest);
        }
    }
}
