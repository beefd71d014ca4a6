/// The per-CPU counters of the kernel programs: the index of each in the value of `COUNTERS`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(usize)]
pub enum Counter {
    /// Execs seen on the whole machine.
    ExecSeen,
    /// Execs whose argv was searched token by token (the word filter did not rule them out).
    ArgvSearched,
    /// Execs that matched a worker rule.
    Matched,
    /// Records handed to the ring buffer.
    Submitted,
    /// Records lost because the ring buffer was full.
    RingFull,
    /// Processes not tracked because the map was full.
    MapFull,
    /// Argument areas that could not be read (`bpf_probe_read_user` failed).
    ArgvUnreadable,
    /// Execs without a match whose argument area is longer than what is searched.
    ArgvNotSearched,
    /// Argument areas of matches that were cut off in the record.
    ArgvTruncated,
    /// Workers whose forker was no longer in the fork cache: `real_parent` was taken.
    ForkerForgotten,
    /// Entries of `TRACKED` that were another process's by then and were removed.
    StaleEntry,
    /// Matches for which a per-CPU scratch buffer could not be had (cannot happen).
    NoScratch,
}

impl Counter {
    /// Every counter, by index.
    pub const ALL: [Self; 12] = [
        Self::ExecSeen,
        Self::ArgvSearched,
        Self::Matched,
        Self::Submitted,
        Self::RingFull,
        Self::MapFull,
        Self::ArgvUnreadable,
        Self::ArgvNotSearched,
        Self::ArgvTruncated,
        Self::ForkerForgotten,
        Self::StaleEntry,
        Self::NoScratch,
    ];

    /// Its name in evidence.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExecSeen => "exec-seen",
            Self::ArgvSearched => "argv-searched",
            Self::Matched => "matched",
            Self::Submitted => "submitted",
            Self::RingFull => "ring-full",
            Self::MapFull => "map-full",
            Self::ArgvUnreadable => "argv-unreadable",
            Self::ArgvNotSearched => "argv-not-searched",
            Self::ArgvTruncated => "argv-truncated",
            Self::ForkerForgotten => "forker-forgotten",
            Self::StaleEntry => "stale-entry",
            Self::NoScratch => "no-scratch",
        }
    }
}
