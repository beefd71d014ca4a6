macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),+ $(,)?) => {
        /// The per-CPU counters of the kernel programs: the index of each in the value of
        /// `COUNTERS`.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[repr(usize)]
        pub enum Counter { $($(#[$doc])* $variant),+ }

        impl Counter {
            /// Every counter, by index.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name in evidence.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }
        }
    };
}

counters! {
    /// Execs seen on the whole machine.
    ExecSeen = "exec-seen",
    /// Execs whose argv was searched token by token (the word filter did not rule them out).
    ArgvSearched = "argv-searched",
    /// Execs that matched a worker rule.
    Matched = "matched",
    /// Records handed to the ring buffer.
    Submitted = "submitted",
    /// Records lost because the ring buffer was full.
    RingFull = "ring-full",
    /// Processes not tracked because the map was full.
    MapFull = "map-full",
    /// Processes not tracked because their user, or their worker, has its share of the map.
    ShareFull = "share-full",
    /// Records of one user that were lost because the ring buffer was filling and that user had had
    /// its share of the rest.
    RingShare = "ring-share",
    /// Signals without a record of their own: they were counted in the kernel.
    SignalsHeld = "signals-held",
    /// Argument areas that could not be read (`bpf_probe_read_user` failed).
    ArgvUnreadable = "argv-unreadable",
    /// Execs that may match behind what is searched of their arguments: the filters found something
    /// there, or did not come to the end.
    ArgvNotSearched = "argv-not-searched",
    /// Of those, the ones that were not reported one by one, because there were so many at a time.
    LongArgvUnreported = "long-argv-unreported",
    /// Argument areas of matches that were cut off in the record.
    ArgvTruncated = "argv-truncated",
    /// Workers whose forker was no longer in the fork cache: `real_parent` was taken.
    ForkerForgotten = "forker-forgotten",
    /// Entries of `TRACKED` that were another process's by then and were removed.
    StaleEntry = "stale-entry",
    /// Matches for which a per-CPU scratch buffer could not be had (cannot happen).
    NoScratch = "no-scratch",
    /// Threads of gateways that could not be remembered.
    ThreadNotKept = "thread-not-kept",
}
