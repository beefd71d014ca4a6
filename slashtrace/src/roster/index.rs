//! Maps by key: a look-up costs the same in a small one and in a large one, which that in a tree
//! does not.
//!
//! They are never walked where the order could be seen: it differs from run to run, because what
//! is hashed (session keys, pids) is chosen by others, who must not be able to make it collide.

use std::{collections::HashMap, hash::Hash};

use foldhash::fast::RandomState;

/// Below this capacity nothing is given back.
const SMALL: usize = 64;

/// A map that is not walked.
pub(crate) type Index<K, V> = HashMap<K, V, RandomState>;

/// After a storm there is room for more than will come again soon.
pub(crate) fn give_back<K: Eq + Hash, V>(index: &mut Index<K, V>) {
    if index.capacity() > SMALL && index.len() < index.capacity() / 8 {
        index.shrink_to(index.len() * 2);
    }
}
