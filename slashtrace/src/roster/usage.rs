//! How a worker may be used, as far as its samples show: who can write to its stdin, who reads its
//! output, who is connected to it, and when it or anything below it worked last.
//!
//! This is where it is defined whom nobody *can* use ([`Worker::reach`]) and since when a worker has
//! been quiet ([`Worker::quiet_at`]). What a finding adds is whether anybody *does*.

use std::fmt::Write as _;

use super::{
    activity::Rise,
    rules::Rules,
    worker::{Moment, Worker},
};
use crate::{
    model::{
        EndKind, Identity, Maybe, MaybeId, OutputPeer, OutputState, Record, Sample, Sockets,
        Source, StdinPeer, StdinState,
    },
    profile::Channel,
};

/// One that worked after nobody could use it any more may do so on purpose (a job that waits for an
/// answer between two steps): unless its stdin is all that it is spoken to by, it has to be quiet
/// for that long, ns.
const PAUSE: u64 = 300_000_000_000;

/// A look: when it was, and which record says so. None if it was at the end of time.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at: Maybe,
    seq: u64,
}

impl Look {
    fn moment(self) -> Option<Moment> {
        Some(Moment { at: self.at.get()?, seq: self.seq, source: Source::Proc })
    }
}

impl From<Moment> for Look {
    fn from(now: Moment) -> Self {
        Self { at: now.at.into(), seq: now.seq }
    }
}

/// Who has the other end of a worker's stdin or output.
#[derive(Clone, Copy, Debug)]
struct Peer<S> {
    kind: Option<EndKind>,
    state: S,
    who: MaybeId,
}

/// What samples have shown of the ways to use a worker.
///
/// There is one for each live worker, so it is small: what is known is taken out by methods.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    stdin: Option<Peer<StdinState>>,
    /// First look at which nobody held its stdin, and nobody since.
    unheld: Look,
    /// Looked at only where its stdin is not held, or may not be what it is spoken to by.
    beyond: Option<Box<Beyond>>,
    /// Read system calls of its own, and of what descends from it.
    syscr: Maybe,
    below: u64,
    cpu_ms: Maybe,
    /// The last time that it or something below it was seen to work, by CPU time or by reads below.
    worked_from: Maybe,
    worked: Look,
    /// When it was looked at last.
    looked_at: u64,
    /// Somebody was once seen to hold its stdin.
    held: bool,
    /// Processes that may have its other ends were not read when it was looked at last.
    over_budget: bool,
}

/// What there is beyond its stdin.
#[derive(Clone, Debug, Default)]
struct Beyond {
    /// The last look at its output, and the first with this answer.
    output: Option<Peer<OutputState>>,
    output_since: Look,
    /// The last look at its sockets, and the first with this answer.
    sockets: Option<Box<(Sockets, Look)>>,
}

/// Whether anybody can use a worker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reach {
    /// Nobody can, since this look.
    Nobody { since: Moment, doubt: Option<Doubt> },
    /// Somebody can.
    Somebody(Way),
    /// It was not seen, or proves nothing.
    Unknown(Unseen),
}

/// What leaves another reading where nobody can use a worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Doubt {
    /// Other workers hold its stdin: inherited when they were forked, as far as can be told.
    Siblings,
    /// Nobody was ever seen to hold its stdin: it may be meant to be closed.
    NeverHeld,
}

/// A way to use a worker that was seen open.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Its stdin is held.
    Stdin(Option<Identity>),
    /// Somebody types.
    Terminal,
    /// Its output is read.
    Output(Option<Identity>),
    /// Connections of its own.
    Connected(u32),
    /// It listens.
    Listens(u32),
}

/// Why it cannot be said whether a worker can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Unseen {
    /// It has not been looked at, or not everything was seen.
    Hidden,
    /// Its stdin was not held when it was first seen, or never has another end.
    NoStdin,
    /// What it writes goes where it can be read later.
    Output,
}

impl Usage {
    /// Takes a sample. Whether something that is judged by changed, and whether it read something.
    pub(super) fn sampled(&mut self, sample: &Sample, record: &Record, rules: &Rules) -> bool {
        let now = Moment { at: record.boottime_ns, seq: record.seq, source: Source::Proc };
        let mut news = false;
        if sample.stdin.is_some() || sample.output.is_some() {
            news |= self.over_budget != sample.over_budget;
            self.over_budget = sample.over_budget;
        }
        if let Some(stdin) = sample.stdin {
            let held = stdin.state == StdinState::Held;
            let StdinPeer { kind, state, holder } = stdin;
            let before = self.stdin.replace(Peer { kind, state, who: holder.into() });
            news |= before.is_none_or(|before| before.state != stdin.state);
            news |= held && !self.held;
            self.held |= held;
            match stdin.state {
                StdinState::Held => self.unheld = Look::default(),
                StdinState::Unheld | StdinState::Inherited => {
                    self.unheld = self.unheld().unwrap_or(now).into();
                }
                // A look that could not see everything says nothing against an earlier one that
                // could: a write end that nobody holds cannot be opened again.
                StdinState::Unknown => {}
            }
        }
        if let Some(output) = sample.output {
            let beyond = self.beyond.get_or_insert_default();
            let same = beyond.output.is_some_and(|before| before.state == output.state);
            news |= !same;
            let OutputPeer { kind, state, reader } = output;
            beyond.output = Some(Peer { kind: Some(kind), state, who: reader.into() });
            if !same {
                beyond.output_since = now.into();
            }
        }
        if let Some(sockets) = sample.sockets {
            let beyond = self.beyond.get_or_insert_default();
            let same = beyond.sockets.as_deref().is_some_and(|(before, _)| *before == sockets);
            news |= !same;
            if !same {
                beyond.sockets = Some(Box::new((sockets, now.into())));
            }
        }
        let from = self.looked_at.max(now.at.saturating_sub(rules.look_back())).min(now.at);
        let mut worked = false;
        if let Some(cpu_ms) = sample.cpu_ms {
            let before = self.cpu_ms.get();
            worked |= before.is_none_or(|before| cpu_ms > before);
            self.cpu_ms = cpu_ms.max(before.unwrap_or(0)).into();
        }
        if let Some(below) = sample.syscr_below {
            worked |= below > self.below;
            self.below = self.below.max(below);
        }
        if worked {
            (self.worked_from, self.worked) = (from.into(), now.into());
        }
        self.syscr = sample.syscr.map_or(self.syscr, Maybe::from);
        self.looked_at = now.at;
        news || worked
    }

    /// It was spoken to by its stdin, or waited there: somebody held the other end.
    pub(super) fn was_held(&mut self) {
        self.held = true;
    }

    /// Whether processes that may have its other ends were not read.
    pub(crate) fn is_over_budget(&self) -> bool {
        self.over_budget
    }

    /// Read system calls of its own when it was last sampled.
    pub(crate) fn syscr(&self) -> Option<u64> {
        self.syscr.get()
    }

    /// Read system calls of the whole tree so far; none while its own are not known.
    pub(super) fn syscr_of_tree(&self) -> Option<u64> {
        Some(self.syscr.get()?.saturating_add(self.below))
    }

    fn unheld(&self) -> Option<Moment> {
        self.unheld.moment()
    }

    fn stdin(&self) -> Option<StdinPeer> {
        let Peer { kind, state, who } = self.stdin?;
        Some(StdinPeer { kind, state, holder: who.get() })
    }

    /// What is known of its output, and since when.
    fn output(&self) -> Option<(OutputPeer, Moment)> {
        let beyond = self.beyond.as_deref()?;
        let Peer { kind, state, who } = beyond.output?;
        let output = OutputPeer { kind: kind?, state, reader: who.get() };
        Some((output, beyond.output_since.moment()?))
    }

    fn sockets(&self) -> Option<(Sockets, Moment)> {
        let (sockets, since) = self.beyond.as_deref()?.sockets.as_deref()?;
        Some((*sockets, since.moment()?))
    }

    fn worked(&self) -> Option<Rise> {
        let Moment { at: to, seq, .. } = self.worked.moment()?;
        Some(Rise { from: self.worked_from.get()?, to, seq })
    }
}

impl Worker {
    /// What was seen of the ways to use it.
    pub(crate) fn usage(&self) -> &Usage {
        &self.usage
    }

    /// How it is spoken to. What was recorded before anything but stdin was looked at is judged by
    /// that, as it was then.
    fn spoken_to_by(&self, rules: &Rules) -> Option<Channel> {
        if rules.sees_use { self.channel } else { Some(Channel::Stdin) }
    }

    /// Whether it got its task at its start and is in use while it works.
    pub(crate) fn is_task(&self) -> bool {
        self.channel == Some(Channel::Task)
    }

    /// Whether it is spoken to by sockets alone.
    pub(crate) fn is_asked_by_socket(&self) -> bool {
        self.channel == Some(Channel::Socket)
    }

    /// Whether anybody can use it: whoever is outside its own tree and holds its stdin, reads its
    /// output or is connected to it.
    pub(crate) fn reach(&self, rules: &Rules) -> Reach {
        let usage = &self.usage;
        let stdin = usage.stdin.map(|stdin| stdin.state);
        // Contrary evidence, whatever the profile says.
        if let Some(StdinPeer { state: StdinState::Held, holder, .. }) = usage.stdin() {
            return Reach::Somebody(Way::Stdin(holder));
        }
        if let Some((OutputPeer { state: OutputState::Read, reader, .. }, _)) = usage.output() {
            return Reach::Somebody(Way::Output(reader));
        }
        let channel = self.spoken_to_by(rules);
        let types = usage.stdin.is_some_and(|stdin| stdin.kind == Some(EndKind::Terminal));
        if types && matches!(channel, None | Some(Channel::Stdin)) {
            return Reach::Somebody(Way::Terminal);
        }
        if channel != Some(Channel::Stdin)
            && let Some((sockets, _)) = usage.sockets()
        {
            if sockets.connected > 0 {
                return Reach::Somebody(Way::Connected(sockets.connected));
            }
            if sockets.listening > 0 {
                return Reach::Somebody(Way::Listens(sockets.listening));
            }
        }
        if rules.sees_use && usage.output_state().is_none() {
            return Reach::Unknown(Unseen::Hidden);
        }
        // Who reads there may be among those that were not looked at.
        if usage.over_budget && !usage.is_unread() {
            return Reach::Unknown(Unseen::Hidden);
        }
        match channel {
            Some(Channel::Stdin) => match usage.unheld() {
                Some(since) => Reach::Nobody { since, doubt: self.doubt(rules) },
                None if stdin == Some(StdinState::Unknown) => Reach::Unknown(self.no_stdin()),
                None => Reach::Unknown(Unseen::Hidden),
            },
            Some(Channel::Socket) => self.without_sockets(),
            Some(Channel::Task) => match usage.output() {
                Some((OutputPeer { state: OutputState::Unread, .. }, since)) => {
                    Reach::Nobody { since, doubt: None }
                }
                _ => Reach::Unknown(Unseen::Output),
            },
            None => match (self.without_sockets(), usage.unheld()) {
                (Reach::Nobody { .. }, Some(since)) if usage.held => {
                    Reach::Nobody { since, doubt: self.doubt(rules) }
                }
                // It was there before: what else would show that it was spoken to is gone, too.
                (Reach::Nobody { .. }, Some(since))
                    if self.birth.inherited && usage.is_unread() =>
                {
                    Reach::Nobody { since, doubt: Some(Doubt::NeverHeld) }
                }
                (Reach::Nobody { .. }, _) if stdin.is_none() => Reach::Unknown(Unseen::Hidden),
                (Reach::Nobody { .. }, _) => Reach::Unknown(self.no_stdin()),
                (other, _) => other,
            },
        }
    }

    fn without_sockets(&self) -> Reach {
        match self.usage.sockets() {
            Some((sockets, since)) if sockets.complete => Reach::Nobody { since, doubt: None },
            _ => Reach::Unknown(Unseen::Hidden),
        }
    }

    fn doubt(&self, rules: &Rules) -> Option<Doubt> {
        let siblings = self.usage.stdin.is_some_and(|it| it.state == StdinState::Inherited);
        let never = rules.sees_use && !self.usage.held && !self.birth.inherited;
        siblings.then_some(Doubt::Siblings).or(never.then_some(Doubt::NeverHeld))
    }

    /// Why its stdin proves nothing.
    fn no_stdin(&self) -> Unseen {
        match self.usage.stdin.and_then(|stdin| stdin.kind) {
            Some(EndKind::Pipe | EndKind::Socket) | None if self.usage.unheld().is_none() => {
                Unseen::Hidden
            }
            _ => Unseen::NoStdin,
        }
    }

    /// Whether somebody other than its gateway was seen to use it: a connection of its own, or
    /// somebody else who holds its stdin. That its gateway holds it says nothing of who asks it.
    pub(crate) fn used_directly(&self, rules: &Rules) -> Option<Way> {
        match self.reach(rules) {
            Reach::Somebody(Way::Stdin(Some(holder))) if Some(holder) != self.gateway_id() => {
                // Processes above may hold what they handed down to the gateway.
                (!self.above.contains(&holder)).then_some(Way::Stdin(Some(holder)))
            }
            // Who let go of its stdin and reads on waits for the result of what it asked.
            Reach::Somebody(way @ Way::Output(_))
                if self.usage.unheld().is_some()
                    || matches!(self.spoken_to_by(rules), None | Some(Channel::Task)) =>
            {
                Some(way)
            }
            Reach::Somebody(Way::Stdin(_) | Way::Output(_))
                if self.spoken_to_by(rules).is_some() =>
            {
                self.connected(rules)
            }
            Reach::Somebody(way @ Way::Connected(_)) => Some(way),
            _ => self.connected(rules),
        }
    }

    /// Connections of its own, where it may be spoken to by these.
    fn connected(&self, rules: &Rules) -> Option<Way> {
        let asked = self.spoken_to_by(rules) != Some(Channel::Stdin);
        let (sockets, _) = self.usage.sockets().filter(|_| asked)?;
        (sockets.connected > 0).then_some(Way::Connected(sockets.connected))
    }

    /// The last time that it, or anything below it, was seen to work.
    pub(crate) fn last_work(&self) -> Option<Rise> {
        [self.activity.newest_rise(), self.usage.worked()]
            .into_iter()
            .flatten()
            .max_by_key(|it| it.to)
    }

    /// When it has been quiet for `grace` since both `event` and its last work, ns of the boot clock.
    pub(crate) fn quiet_at(&self, event: u64, grace: u64, rules: &Rules) -> u64 {
        let Some(work) = self.last_work().filter(|_| rules.sees_use) else {
            return event.saturating_add(grace);
        };
        let by_stdin = self.spoken_to_by(rules) == Some(Channel::Stdin);
        let pause = if work.from >= event && !by_stdin { PAUSE.max(grace) } else { grace };
        event.saturating_add(grace).max(work.to.saturating_add(pause))
    }

    /// What was seen of each way to use it, for a person: `its stdin: nobody; its output: nobody;
    /// connections: none; work: none for 41 min`. `now`, ns of the boot clock.
    pub(crate) fn ways(&self, rules: &Rules, now: u64) -> String {
        let usage = &self.usage;
        let by = |who: Option<Identity>| {
            who.map_or("somebody".to_owned(), |who| format!("process {}", who.pid))
        };
        let no_end = |kind: Option<EndKind>| match kind {
            Some(EndKind::Null) => "/dev/null",
            Some(EndKind::File) => "a file",
            Some(EndKind::Terminal) => "a terminal",
            Some(EndKind::Closed) => "closed",
            _ => "not known",
        };
        let stdin = match usage.stdin() {
            Some(StdinPeer { state: StdinState::Held, holder, .. }) => by(holder),
            _ if usage.unheld().is_some() && self.doubt(rules) == Some(Doubt::Siblings) => {
                "nobody but other workers, by inheritance".to_owned()
            }
            _ if usage.unheld().is_some() => "nobody".to_owned(),
            stdin => no_end(stdin.and_then(|stdin| stdin.kind)).to_owned(),
        };
        let mut ways = format!("its stdin: {stdin}");
        if let Some((output, _)) = usage.output() {
            let output = match output.state {
                OutputState::Read => by(output.reader),
                OutputState::Unread => "nobody".to_owned(),
                OutputState::Unknown => no_end(Some(output.kind)).to_owned(),
            };
            let _ = write!(ways, "; its output: {output}");
        }
        if let Some((sockets, _)) = usage.sockets() {
            let connections = match (sockets.connected, sockets.complete) {
                (0, true) => "none".to_owned(),
                (0, false) => "not known".to_owned(),
                (n, _) => n.to_string(),
            };
            let _ = write!(ways, "; connections: {connections}");
            if sockets.listening > 0 {
                let _ = write!(ways, "; listens on {}", sockets.listening);
            }
        }
        let since = self.last_work().map_or(self.birth.at, |work| work.to);
        let _ = write!(ways, "; work: none for {}", span(now.saturating_sub(since)));
        ways
    }
}

impl Usage {
    /// Whether its output has another end, and nobody reads there.
    pub(crate) fn is_unread(&self) -> bool {
        self.output_state() == Some(OutputState::Unread)
    }

    fn output_state(&self) -> Option<OutputState> {
        Some(self.beyond.as_deref()?.output?.state)
    }
}

/// A length of time for a person: `5 s`, `12 min`, `3 h`, rounded down.
pub(crate) fn span(ns: u64) -> String {
    match ns / 1_000_000_000 {
        0 => format!("{} ms", ns / 1_000_000),
        s @ 1..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3_600),
    }
}
