use std::ops::Deref;

/// A list that mostly has one item, which then needs no memory of its own.
#[derive(Clone, Debug)]
pub(crate) enum Few<T> {
    One(T),
    /// None, or several.
    Many(Vec<T>),
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<'a, T> IntoIterator for &'a Few<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<T: Copy> Few<T> {
    pub(crate) fn push(&mut self, item: T) {
        self.insert(self.len(), item);
    }

    /// Puts an item at a place of `0..=len`.
    pub(crate) fn insert(&mut self, place: usize, item: T) {
        match self {
            Self::Many(many) if many.is_empty() => *self = Self::One(item),
            Self::Many(many) => many.insert(place, item),
            Self::One(one) => {
                *self = Self::Many(if place == 0 { vec![item, *one] } else { vec![*one, item] });
            }
        }
    }

    /// Removes the first item that it is. Who came first mostly goes first.
    pub(crate) fn remove(&mut self, is_it: impl Fn(&T) -> bool) {
        let Some(place) = self.iter().position(is_it) else { return };
        match self {
            Self::One(_) => *self = Self::default(),
            Self::Many(many) => drop(many.remove(place)),
        }
        if let [one] = **self {
            *self = Self::One(one);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_list(steps in prop::collection::vec((any::<bool>(), 0_usize..4, 0_u8..4), 0..60)) {
            let (mut few, mut list) = (Few::default(), Vec::new());
            for (put, place, item) in steps {
                if put {
                    few.insert(place.min(list.len()), item);
                    list.insert(place.min(list.len()), item);
                } else {
                    few.remove(|it| *it == item);
                    if let Some(place) = list.iter().position(|it| *it == item) {
                        list.remove(place);
                    }
                }
                prop_assert_eq!(&few[..], &list[..]);
                prop_assert_eq!(list.len() == 1, matches!(few, Few::One(_)));
            }
        }
    }
}
