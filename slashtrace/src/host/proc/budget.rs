//! How much reading of /proc the processes of each user may cause.
//!
//! Anybody may have processes with hundreds of thousands of descriptors, threads or mappings, and
//! all of them are looked through for the other ends of workers' pipes. So each user has an account
//! of work: it fills by so much a second, holds no more than a burst, and what is read of the user's
//! processes is taken from it. Whoever has none left is not read until half of the burst is there
//! again: what is read in part answers no question.
//!
//! Work is counted in ns: the CPU time that the reading took, and no less than [`READ_NS`] for each
//! thing read, so that a fast machine counts, too. It is charged to the real user id, for a program
//! that is set-uid root, or that hides from /proc by not being dumpable, is root's there. Root has
//! ten times as much: it may have got anything, and where it is not read nothing is known of
//! anybody. The subordinate ids of a user (subuid(5)), of which one may take 65,536, are one account.
//!
//! What follows from not reading is said in `unread`.

use std::{
    collections::HashMap,
    fs::File,
    io::Read as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::host::clock::{boottime_ns, thread_cpu_ns};

/// What one read counts for at least, ns: a descriptor's link, a comparison of two tables.
pub(crate) const READ_NS: u64 = 1_000;
/// Reads that are charged at once.
const CHARGED_AT_ONCE: u64 = 256;
/// The user id whose processes may have got anything.
pub(crate) const ROOT: u32 = 0;
/// How many times as much root has.
const ROOT_TIMES: u64 = 10;
/// Accounts that are kept. Of more users at a time the others share one.
const ACCOUNTS_MAX: usize = 4_096;
/// Whose account that is: no user's (chown(2) takes it for "unchanged").
const OTHERS: u32 = u32::MAX;
/// More than /etc/subuid has for thousands of users.
const SUBUID_BYTES_MAX: u64 = 1 << 20;
const SECOND_NS: i128 = 1_000_000_000;

/// How much work the processes of one user may cause; root's ten times that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Allowance {
    /// At once, ns.
    pub(crate) burst_ns: u64,
    /// In each second, ns.
    pub(crate) rate_ns: u64,
}

impl Allowance {
    /// Of a sensor: some hundred thousand descriptors at once, and 5 % of a CPU.
    pub(crate) const SENSOR: Self = Self { burst_ns: 500_000_000, rate_ns: 50_000_000 };
    /// Of a check that is made while everything else waits for it.
    pub(crate) const CHECK: Self = Self { burst_ns: 500_000_000, rate_ns: 100_000_000 };

    const fn of(self, uid: u32) -> Self {
        let times = if uid == ROOT { ROOT_TIMES } else { 1 };
        let Self { burst_ns, rate_ns } = self;
        Self { burst_ns: burst_ns.saturating_mul(times), rate_ns: rate_ns.saturating_mul(times) }
    }
}

/// The accounts. Pure: it is given the time.
#[derive(Debug)]
pub(crate) struct Budget {
    allowance: Allowance,
    subordinates: Subordinates,
    accounts: HashMap<u32, Account>,
}

/// What is left of one user's allowance.
#[derive(Clone, Copy, Debug)]
struct Account {
    /// Work, ns. Less than none where something took longer than there was time for.
    left_ns: i128,
    /// When that was so, ns of the boot clock.
    at_ns: u64,
    /// There was none left, and there is not enough again.
    over: bool,
}

impl Account {
    fn refill(&mut self, allowance: Allowance, now_ns: u64) {
        let Allowance { burst_ns, rate_ns } = allowance;
        let (burst, rate) = (i128::from(burst_ns), i128::from(rate_ns));
        let passed = i128::from(now_ns.saturating_sub(self.at_ns));
        let more = passed * rate / SECOND_NS;
        if self.left_ns + more >= burst {
            self.left_ns = burst;
            self.at_ns = self.at_ns.max(now_ns);
        } else if more > 0 {
            // What is too short for one ns of work is counted the next time.
            self.left_ns += more;
            self.at_ns += u64::try_from(more * SECOND_NS / rate).unwrap_or(0);
        }
        self.over &= self.left_ns < burst / 2;
    }
}

impl Budget {
    /// Full accounts for everybody. `subuid` is the text of subuid(5).
    pub(crate) fn new(allowance: Allowance, subuid: &str) -> Self {
        let subordinates = Subordinates::parse(subuid);
        Self { allowance, subordinates, accounts: HashMap::new() }
    }

    /// Whether the processes of a user may be read, at `now_ns` of the boot clock.
    pub(crate) fn may_read(&mut self, uid: u32, now_ns: u64) -> bool {
        !self.account(uid, now_ns).over
    }

    /// Takes so much work from a user's account. Whether there is some left.
    pub(crate) fn spend(&mut self, uid: u32, work_ns: u64, now_ns: u64) -> bool {
        let account = self.account(uid, now_ns);
        account.left_ns -= i128::from(work_ns);
        account.over |= account.left_ns <= 0;
        !account.over
    }

    fn account(&mut self, uid: u32, now_ns: u64) -> &mut Account {
        let allowance = self.allowance;
        let mut of = self.subordinates.account_of(uid);
        if self.accounts.len() >= ACCOUNTS_MAX && !self.accounts.contains_key(&of) {
            // A full account is as good as none.
            self.accounts.retain(|of, account| {
                let allowance = allowance.of(*of);
                account.refill(allowance, now_ns);
                account.left_ns < i128::from(allowance.burst_ns)
            });
            if self.accounts.len() >= ACCOUNTS_MAX && of != ROOT {
                of = OTHERS;
            }
        }
        let allowance = allowance.of(of);
        let full =
            || Account { left_ns: i128::from(allowance.burst_ns), at_ns: now_ns, over: false };
        let account = self.accounts.entry(of).or_insert_with(full);
        account.refill(allowance, now_ns);
        account
    }
}

/// Ranges of user ids that users may take for their processes (newuidmap(1)).
#[derive(Debug, Default)]
pub(crate) struct Subordinates {
    /// First and last id, and whose account: the first id of the first range of that user. Ascending.
    ranges: Vec<(u32, u32, u32)>,
}

impl Subordinates {
    /// `name:first:count` a line.
    pub(crate) fn parse(text: &str) -> Self {
        let mut accounts: HashMap<&str, u32> = HashMap::new();
        let mut ranges = Vec::new();
        for line in text.lines() {
            let mut fields = line.trim().split(':');
            let (Some(name), Some(first), Some(count)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let (Ok(first), Ok(count)) = (first.parse::<u32>(), count.parse::<u32>()) else {
                continue;
            };
            let last = first.saturating_add(count.saturating_sub(1));
            // Root is nobody's subordinate.
            if first > ROOT && count > 0 {
                ranges.push((first, last, *accounts.entry(name).or_insert(first)));
            }
        }
        ranges.sort_unstable();
        Self { ranges }
    }

    /// Those of this machine's /etc/subuid; none if it has no such file.
    pub(crate) fn of_this_machine() -> Self {
        Self::parse(&std::fs::read_to_string("/etc/subuid").unwrap_or_default())
    }

    /// Whose account a user's is.
    pub(crate) fn account_of(&self, uid: u32) -> u32 {
        let after = self.ranges.partition_point(|(first, ..)| *first <= uid);
        let range = after.checked_sub(1).and_then(|at| self.ranges.get(at));
        range.filter(|(_, last, _)| uid <= *last).map_or(uid, |(.., account)| *account)
    }
}

/// The budget of everybody who reads one /proc, whichever thread that is.
#[derive(Debug)]
pub(crate) struct Reads {
    budget: Mutex<Budget>,
    /// CPU time of this thread so far, ns.
    cpu_ns: fn() -> u64,
}

impl Reads {
    /// With this machine's subordinate ids.
    pub(crate) fn new(allowance: Allowance) -> Self {
        let mut subuid = Vec::new();
        // Without one, or where it may not be read, there are none.
        if let Ok(file) = File::open("/etc/subuid") {
            let _ = file.take(SUBUID_BYTES_MAX).read_to_end(&mut subuid);
        }
        let budget = Budget::new(allowance, &String::from_utf8_lossy(&subuid));
        Self { budget: Mutex::new(budget), cpu_ns: thread_cpu_ns }
    }

    /// One that counts reads alone, so that a test does not depend on the machine.
    #[cfg(test)]
    pub(crate) fn counted(allowance: Allowance) -> Self {
        Self { budget: Mutex::new(Budget::new(allowance, "")), cpu_ns: || 0 }
    }

    /// Begins to read a process of this user; `None` if that is over its budget.
    pub(crate) fn meter(&self, uid: u32) -> Option<Meter<'_>> {
        let may_read = self.lock().may_read(uid, boottime_ns());
        may_read.then(|| Meter { reads: self, uid, count: 0, cpu_ns: (self.cpu_ns)() })
    }

    fn lock(&self) -> MutexGuard<'_, Budget> {
        // It is whole at every moment.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts what is read of one process, and charges it to its user.
#[derive(Debug)]
pub(crate) struct Meter<'a> {
    reads: &'a Reads,
    uid: u32,
    count: u64,
    /// CPU time of this thread when it was charged last.
    cpu_ns: u64,
}

impl Meter<'_> {
    /// One more was read. Whether another may be.
    pub(crate) fn read(&mut self) -> bool {
        self.count += 1;
        self.count < CHARGED_AT_ONCE || self.charge()
    }

    fn charge(&mut self) -> bool {
        let cpu_ns = (self.reads.cpu_ns)();
        let took = cpu_ns.saturating_sub(std::mem::replace(&mut self.cpu_ns, cpu_ns));
        let work = took.max(std::mem::take(&mut self.count) * READ_NS);
        self.reads.lock().spend(self.uid, work, boottime_ns())
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        self.charge();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: u64 = 1_000_000;
    const S: u64 = 1_000 * MS;
    const ALLOWANCE: Allowance = Allowance { burst_ns: 100 * MS, rate_ns: 10 * MS };

    fn budget() -> Budget {
        Budget::new(ALLOWANCE, "")
    }

    #[test]
    fn who_is_over_is_not_read_until_half_of_the_burst_is_there_again() {
        let mut budget = budget();
        assert!(budget.may_read(7, 0) && budget.spend(7, 99 * MS, 0));
        assert!(!budget.spend(7, MS, 0));
        assert!(!budget.may_read(7, 5 * S - 1));
        assert!(budget.may_read(7, 5 * S));
        assert!(budget.spend(7, 49 * MS, 5 * S) && !budget.spend(7, MS, 5 * S));
    }

    #[test]
    fn what_one_read_took_too_long_is_paid_back() {
        let mut budget = budget();
        assert!(!budget.spend(7, 2 * S, 0));
        assert!(!budget.may_read(7, 194 * S));
        assert!(budget.may_read(7, 195 * S));
    }

    #[test]
    fn one_user_s_work_is_no_other_s_and_root_has_more() {
        let mut budget = budget();
        assert!(!budget.spend(7, S, 0));
        assert!(budget.may_read(8, 0) && budget.may_read(ROOT, 0));
        assert!(budget.spend(ROOT, 999 * MS, 0) && !budget.spend(ROOT, MS, 0));
        assert!(budget.may_read(8, 0));
    }

    #[test]
    fn subordinate_ids_are_one_account() {
        let subuid = "anna:100000:65536\nbert:165536:65536\nanna:300000:10\nroot:0:9\nx\ny:1:z\n";
        let mut budget = Budget::new(ALLOWANCE, subuid);
        assert!(!budget.spend(100_007, S, 0));
        for (uid, may) in [
            (100_000, false),
            (165_535, false),
            (300_009, false),
            (165_536, true),
            (231_071, true),
            (300_010, true),
            (1_000, true),
            (99_999, true),
            (ROOT, true),
            (5, true),
        ] {
            assert_eq!(budget.may_read(uid, 0), may, "{uid}");
        }
    }

    #[test]
    fn no_more_accounts_than_there_is_room_for() {
        let mut budget = budget();
        for uid in 1..=3 * ACCOUNTS_MAX as u32 {
            budget.spend(uid, MS, 0);
        }
        assert!(budget.accounts.len() <= ACCOUNTS_MAX + 2, "{}", budget.accounts.len());
        assert!(!budget.spend(90_000, S, 0) && !budget.may_read(90_001, 0), "they share one");
        assert!(budget.may_read(ROOT, 0) && budget.may_read(1, 0));
        // They have not been read for long: their accounts are full.
        assert!(budget.may_read(90_001, 1_000 * S));
        assert!(budget.accounts.len() <= 2, "{}", budget.accounts.len());
    }

    #[test]
    fn a_meter_charges_what_was_read() {
        let reads = Reads::counted(Allowance { burst_ns: 1_000 * READ_NS, rate_ns: 0 });
        let mut meter = reads.meter(7).unwrap();
        let read = (0..10_000).take_while(|_| meter.read()).count() as u64;
        assert!((1_000 - CHARGED_AT_ONCE..=1_000 + CHARGED_AT_ONCE).contains(&read), "{read}");
        drop(meter);
        assert!(reads.meter(7).is_none() && reads.meter(8).is_some());
        // What was left of a part is charged at its end.
        for _ in 0..100 {
            reads.meter(8).unwrap().read();
        }
        let mut budget = reads.lock();
        assert!(budget.spend(8, 899 * READ_NS, 0) && !budget.spend(8, READ_NS, 0));
    }

    proptest! {
        /// Whatever is asked in whichever order, and however the clock runs: of a user no more is
        /// read than the burst, what the rate gives, and the last read of each time.
        #[test]
        fn never_more_than_the_allowance(
            asked in proptest::collection::vec((0..3_u32, 0..30 * MS, 0..S), 1..200),
        ) {
            let mut budget = budget();
            let mut now = 0;
            let mut done: HashMap<u32, u64> = HashMap::new();
            for (uid, work, passed) in asked {
                now += passed;
                if budget.may_read(uid, now) {
                    budget.spend(uid, work, now);
                    *done.entry(uid).or_default() += work;
                }
                for (uid, done) in &done {
                    let of = ALLOWANCE.of(*uid);
                    let most = of.burst_ns + now / 1_000 * of.rate_ns / MS + 30 * MS;
                    prop_assert!(*done <= most, "{uid}: {done} > {most}");
                }
            }
        }

        /// Somebody else's work changes nothing for a user.
        #[test]
        fn accounts_are_apart(
            own in proptest::collection::vec((0..30 * MS, 0..S), 1..50),
            others in proptest::collection::vec(0..S, 1..50),
        ) {
            let (mut alone, mut beside) = (budget(), budget());
            let mut now = 0;
            for (at, (work, passed)) in own.into_iter().enumerate() {
                now += passed;
                beside.spend(9, others[at % others.len()], now);
                prop_assert_eq!(alone.may_read(7, now), beside.may_read(7, now));
                prop_assert_eq!(alone.spend(7, work, now), beside.spend(7, work, now));
            }
        }
    }
}
