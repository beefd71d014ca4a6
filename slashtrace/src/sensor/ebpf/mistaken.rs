use std::collections::HashMap;

use crate::model::{Identity, Role};

/// How many are remembered. When they are more, all are forgotten at once: then the end of one may
/// be reported that nobody knows, which changes no judgement.
const MAX: usize = 8_192;

/// Processes that the kernel programs track although no rule matches: an exec that the filter let
/// through (a program's name among the arguments, a token that excludes it, a collision of hashes),
/// what that one forked until the kernel was told, and who is above it. Nothing is said of them.
#[derive(Debug, Default)]
pub struct Mistaken {
    known: HashMap<Identity, Kind>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// It was taken for a worker, and had this role and this worker before.
    Worker(Option<(Role, Option<Identity>)>),
    /// It was forked below one that was nothing to us before.
    Below,
    /// It stands above one, and above no worker that is known.
    Above,
}

impl Mistaken {
    /// A process was taken for a worker. `before` is what it was until then, and below which worker.
    pub fn worker(&mut self, id: Identity, before: Option<(Role, Option<Identity>)>) {
        self.add(id, Kind::Worker(before));
    }

    /// A process stands above a mistaken worker, and nobody else knows it.
    pub fn above(&mut self, id: Identity) {
        if !self.known.contains_key(&id) {
            self.add(id, Kind::Above);
        }
    }

    /// A process ended, or is a worker after all; whether it was mistaken.
    pub fn forget(&mut self, id: Identity) -> bool {
        self.known.remove(&id).is_some()
    }

    /// A process stands above a worker; whether the kernel may have forgotten it, because it was
    /// told that it is nothing to us.
    pub fn above_worker(&mut self, id: Identity) -> bool {
        match self.known.get(&id) {
            Some(Kind::Worker(Some(_))) | None => false,
            Some(Kind::Worker(None) | Kind::Below | Kind::Above) => self.forget(id),
        }
    }

    /// What a process that was taken for a worker was before, and below which worker; `None` if it
    /// was not.
    pub fn before(&self, id: Identity) -> Option<Option<(Role, Option<Identity>)>> {
        match self.known.get(&id) {
            Some(Kind::Worker(before)) => Some(*before),
            _ => None,
        }
    }

    /// A process was forked below `worker`: the worker that it descends from in truth. `None` if it
    /// is nothing to us, and that is remembered.
    pub fn forked(&mut self, child: Identity, worker: Identity) -> Option<Identity> {
        match self.known.get(&worker) {
            Some(Kind::Worker(Some((Role::Descendant, Some(outer))))) => Some(*outer),
            Some(Kind::Worker(_) | Kind::Below) => {
                self.add(child, Kind::Below);
                None
            }
            Some(Kind::Above) | None => Some(worker),
        }
    }

    /// The role in which something is to be said of a process that the kernel says has this one;
    /// `None` if nothing is.
    pub fn role(&self, id: Identity, role: Role) -> Option<Role> {
        match (self.known.get(&id), role) {
            (Some(Kind::Worker(before)), Role::Worker) => before.map(|(role, _)| role),
            (Some(Kind::Worker(None) | Kind::Below), _) => None,
            (Some(Kind::Above), Role::Gateway | Role::Ancestor) => None,
            _ => Some(role),
        }
    }

    fn add(&mut self, id: Identity, kind: Kind) {
        if self.known.len() >= MAX {
            self.known.clear();
        }
        self.known.insert(id, kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::id;

    const ONE: Identity = id(1, 1);
    const CHILD: Identity = id(2, 2);
    const WORKER: Identity = id(3, 3);

    #[test]
    fn of_a_stranger_nothing_is_said() {
        let mut mistaken = Mistaken::default();
        mistaken.worker(ONE, None);
        mistaken.above(id(9, 9));
        assert_eq!(mistaken.forked(CHILD, ONE), None);
        assert_eq!(mistaken.forked(id(4, 4), ONE), None);
        assert_eq!(mistaken.role(ONE, Role::Worker), None);
        assert_eq!(mistaken.role(CHILD, Role::Descendant), None);
        assert_eq!(mistaken.role(id(9, 9), Role::Gateway), None);
        // It turned out to stand above one.
        assert!(mistaken.above_worker(id(9, 9)) && !mistaken.above_worker(id(9, 9)));
        assert!(mistaken.above_worker(ONE) && mistaken.before(ONE).is_none());
        assert_eq!(mistaken.role(id(9, 9), Role::Gateway), Some(Role::Gateway));
    }

    #[test]
    fn what_was_something_before_stays_that() {
        let mut mistaken = Mistaken::default();
        mistaken.worker(ONE, Some((Role::Descendant, Some(WORKER))));
        assert_eq!(mistaken.role(ONE, Role::Worker), Some(Role::Descendant));
        assert_eq!(mistaken.forked(CHILD, ONE), Some(WORKER));
        assert_eq!(mistaken.role(CHILD, Role::Descendant), Some(Role::Descendant));
        assert_eq!(mistaken.forked(CHILD, WORKER), Some(WORKER), "who is not mistaken");
        assert!(!mistaken.above_worker(ONE), "it is tracked as what it was");
        mistaken.worker(ONE, Some((Role::Gateway, None)));
        assert_eq!(mistaken.role(ONE, Role::Worker), Some(Role::Gateway));
        assert_eq!(mistaken.forked(CHILD, ONE), None);
    }

    #[test]
    fn it_is_bounded() {
        let mut mistaken = Mistaken::default();
        for pid in 0..3 * MAX as u32 {
            mistaken.worker(id(pid, 1), None);
        }
        assert!(mistaken.known.len() <= MAX);
    }
}
