use std::collections::BTreeMap;

use crate::profile::{Channel, OnePer, Profile};

/// How often workers are sampled if no `start` record says it, ns.
const SAMPLE_INTERVAL: u64 = 2_000_000_000;

/// The numbers that judgements are made by: the profile's spans and the sampler's rhythm, all ns.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) overlap: u64,
    pub(crate) orphan: u64,
    pub(crate) terminal: u64,
    pub(crate) client: u64,
    pub(crate) unreachable: u64,
    pub(crate) zombie: u64,
    pub(crate) churn: u64,
    pub(crate) accumulation: u64,
    helpers: BTreeMap<String, u64>,
    interval: u64,
    /// Whether the sensor set sees every process of the machine: kernel programs run only where
    /// /proc is that of the first pid namespace, and as root.
    pub(crate) sees_all: bool,
    /// Whether the sensor set looks at every way in which a worker is used; recordings of 0.1 have
    /// its stdin and its reads alone.
    pub(crate) sees_use: bool,
    /// What the profile says of its workers, by the name of the rule.
    profile: Profile,
}

impl Rules {
    pub(crate) fn new(profile: &Profile) -> Self {
        Self {
            overlap: profile.graces.overlap.as_ns(),
            orphan: profile.graces.orphan.as_ns(),
            terminal: profile.graces.terminal.as_ns(),
            client: profile.graces.client.as_ns(),
            unreachable: profile.graces.unreachable.as_ns(),
            zombie: profile.graces.zombie.as_ns(),
            churn: profile.windows.churn.as_ns(),
            accumulation: profile.windows.accumulation.as_ns(),
            helpers: profile
                .helpers
                .iter()
                .map(|helper| (helper.name.clone(), helper.grace.as_ns()))
                .collect(),
            interval: SAMPLE_INTERVAL,
            sees_all: false,
            sees_use: false,
            profile: profile.clone(),
        }
    }

    /// Takes the sampler's interval from the `start` record.
    pub(crate) fn sampled_every(&mut self, interval_ms: u64) {
        self.interval = interval_ms.max(1).saturating_mul(1_000_000);
    }

    /// How long before a sample a change that it shows may have happened at most: samples are
    /// written only on change, and one round of the sampler may be late.
    pub(crate) fn look_back(&self) -> u64 {
        self.interval.saturating_mul(2)
    }

    /// How long a counter must stay as it is to be called unchanged: long enough that a round of
    /// the sampler lay in between and saw no change. Two intervals, less what rounds jitter by.
    pub(crate) fn settle(&self) -> u64 {
        self.look_back().saturating_sub(self.interval / 4)
    }

    /// How workers of a rule are spoken to, and what there is one of them per.
    pub(crate) fn of_rule(&self, name: Option<&str>) -> (Option<Channel>, OnePer) {
        let rule = self.profile.rule(name);
        (rule.channel(), rule.one_per())
    }

    /// How long a known helper may outlive its worker.
    pub(crate) fn helper_grace(&self, name: &str) -> Option<u64> {
        self.helpers.get(name).copied()
    }
}
