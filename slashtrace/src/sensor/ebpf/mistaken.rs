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

/// What a process was before it was taken for a worker, if it was anything, and below which worker.
type Before = Option<(Role, Option<Identity>)>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// It was taken for a worker.
    Worker(Before),
    /// It was forked below one that was nothing to us before.
    Below,
    /// It stands above one, and above no worker that is known.
    Above,
}

impl Mistaken {
    /// A process was taken for a worker. `before` is what it was until then, as far as the kernel
    /// says: what it was in truth is given back, for it may have been mistaken already.
    pub fn worker(&mut self, id: Identity, before: Before) -> Before {
        if let Some(Kind::Worker(before)) = self.known.get(&id) {
            return *before;
        }
        self.add(id, Kind::Worker(before));
        before
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
            (Some(Kind::Worker(None) | Kind::Below), _)
            | (Some(Kind::Above), Role::Gateway | Role::Ancestor) => None,
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
        assert!(mistaken.above_worker(ONE) && !mistaken.above_worker(ONE));
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
        let again = mistaken.worker(ONE, Some((Role::Worker, None)));
        assert_eq!(again, Some((Role::Descendant, Some(WORKER))), "it was mistaken already");
        mistaken.forget(ONE);
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
