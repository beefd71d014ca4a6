//! A token bucket of bytes.

const MINUTE: u128 = 60_000_000_000;

/// Holds a minute's bytes and fills up in a minute. What has to be written may leave it in debt.
#[derive(Debug)]
pub(super) struct Bucket {
    /// Bytes a minute; none for no bound.
    bound: Option<u64>,
    level: i128,
    /// Until when it was filled up, ns of the boot clock; none before the first time.
    at_ns: Option<u64>,
}

impl Bucket {
    pub(super) fn new(bound: Option<u64>) -> Self {
        Self { bound, level: bound.unwrap_or(0).into(), at_ns: None }
    }

    pub(super) fn refill(&mut self, now_ns: u64) {
        let Some(bound) = self.bound else { return };
        let since = *self.at_ns.get_or_insert(now_ns);
        let passed = u128::from(now_ns.saturating_sub(since));
        let bytes = passed * u128::from(bound) / MINUTE;
        if bytes > 0 {
            // Less than a byte is left for the next time.
            self.at_ns = Some(now_ns);
            self.level = (self.level + bytes as i128).min(bound.into());
        }
    }

    /// Which part of it is there: 1 if it is full, less than 0 if it is in debt.
    pub(super) fn left(&self) -> f64 {
        self.bound.map_or(1.0, |bound| self.level as f64 / bound as f64)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bound.is_none_or(|bound| self.level == bound.into())
    }

    pub(super) fn take(&mut self, bytes: u64) {
        self.level -= i128::from(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn it_fills_up_in_a_minute_from_debt_too() {
        let mut bucket = Bucket::new(Some(600));
        bucket.refill(5 * S);
        bucket.take(900);
        assert!(bucket.left() < 0.0);
        bucket.refill(35 * S);
        assert!(bucket.left().abs() < 1e-9, "the debt is paid");
        bucket.refill(36 * S);
        assert!(bucket.left() > 0.0 && bucket.left() < 0.1 && !bucket.is_full());
        bucket.refill(600 * S);
        assert!(bucket.is_full() && bucket.left() >= 1.0);
        // Small steps come to the same.
        bucket.take(600);
        (0..=60_000).for_each(|ms| bucket.refill(600 * S + ms * 1_000_000));
        assert!(bucket.is_full());
    }

    #[test]
    fn without_a_bound_there_is_always_room() {
        let mut bucket = Bucket::new(None);
        bucket.take(u64::MAX);
        bucket.refill(1);
        assert!(bucket.left() >= 1.0 && bucket.is_full());
    }

    #[test]
    fn time_does_not_run_back() {
        let mut bucket = Bucket::new(Some(60));
        bucket.refill(10 * S);
        bucket.take(60);
        bucket.refill(5 * S);
        assert!(bucket.left() <= 0.0);
    }
}
