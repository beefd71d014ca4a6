use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    rc::Rc,
};

use crate::{
    host::proc::{ARGV_SEARCHED_BYTES, Entry, IdentityBook, ProcFs, Scan, Seen, inferred_exit},
    model::{Body, Exec, Gap, GapReason, Identity, Observation, Role, Source},
    profile::{Profile, tokens_of},
    redact,
};

/// A process that is not a worker may still become one by exec: soon after it was forked, most of
/// all. While it is younger than this its arguments are read again in each round.
const YOUNG_NS: u64 = 10_000_000_000;
/// Those of an older one are in every so many rounds.
const OLD_ROUNDS: u64 = 10;

/// Every process there is, as far as it was looked at, and what is tracked of them.
#[derive(Debug)]
pub(super) struct Table {
    proc: ProcFs,
    profile: Profile,
    known: HashMap<u32, Known>,
    /// Start of the first round, as a whole tick; absent before it.
    started_ns: Option<u64>,
    rounds: u64,
    counters: BTreeMap<String, u64>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Known {
    inode: u64,
    /// Start time as /proc has it; 0 if it could not be read.
    start_ns: u64,
    /// It was said that its arguments are too long to be searched.
    unsearched: bool,
    tracked: Option<Tracked>,
}

#[derive(Clone, Copy, Debug)]
struct Tracked {
    identity: Identity,
    role: Role,
    /// The worker it descends from.
    worker: Option<Identity>,
    program: Program,
}

impl Tracked {
    /// Of two roles the one that says more about it.
    fn weight(self) -> u8 {
        match self.role {
            Role::Worker => 3,
            Role::Descendant => 2,
            Role::Gateway => 1,
            Role::Ancestor => 0,
        }
    }

    /// The worker that its children descend from.
    fn nearest_worker(self) -> Option<Identity> {
        match self.role {
            Role::Worker => Some(self.identity),
            Role::Descendant => self.worker,
            Role::Gateway | Role::Ancestor => None,
        }
    }

    /// Whether its program is followed, and an exec of it is said.
    fn executes(self) -> bool {
        matches!(self.role, Role::Worker | Role::Descendant)
    }
}

/// Tells one executed program from the next.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Program {
    arg_start: u64,
    argv_hash: u64,
}

impl Program {
    fn of(seen: &Seen) -> Self {
        let mut hasher = DefaultHasher::new();
        seen.cmdline.bytes.hash(&mut hasher);
        Self { arg_start: seen.stat.arg_start, argv_hash: hasher.finish() }
    }

    /// Whether a process that ran `self` runs something else now. exec moves the argument area;
    /// where it cannot be seen the arguments decide (a program may also overwrite them).
    fn replaced_by(self, now: Self) -> bool {
        if self.arg_start != 0 && now.arg_start != 0 {
            self.arg_start != now.arg_start
        } else {
            self.argv_hash != now.argv_hash
        }
    }
}

/// A process that was found in this round, and is to be described after all were found.
struct Found {
    seen: Rc<Seen>,
    worker: bool,
}

impl Table {
    pub(super) fn new(proc: ProcFs, profile: Profile) -> Self {
        Self {
            proc,
            profile,
            known: HashMap::new(),
            started_ns: None,
            rounds: 0,
            counters: BTreeMap::new(),
            buffer: Vec::new(),
        }
    }

    pub(super) fn counters(&self) -> BTreeMap<String, u64> {
        let mut counters = self.counters.clone();
        counters.insert("rounds".to_owned(), self.rounds);
        counters
    }

    /// Reads /proc once and says what changed; fails only if processes cannot be listed.
    pub(super) fn round(
        &mut self,
        book: &mut IdentityBook,
        now_ns: u64,
    ) -> io::Result<Vec<Observation>> {
        let entries = self.proc.processes()?;
        self.rounds += 1;
        let mut bodies = Vec::new();
        // Exits first: a worker that replaces another did so after it.
        self.exits(&entries, &mut bodies);
        self.execs(book, &mut bodies);
        let mut found = Vec::new();
        for entry in entries {
            self.look_at(book, entry, now_ns, &mut found, &mut bodies);
        }
        self.spawns(book, found, &mut bodies);
        if self.started_ns.is_none() {
            self.started_ns = Some(now_ns - now_ns % self.proc.tick_ns());
        }
        Ok(bodies.into_iter().map(|body| Observation { boottime_ns: now_ns, body }).collect())
    }

    /// Tracked processes that are gone or zombies; forgets all that are gone.
    fn exits(&mut self, entries: &[Entry], bodies: &mut Vec<Body>) {
        let listed: HashSet<u32> = entries.iter().map(|entry| entry.pid).collect();
        let mut exits = Vec::new();
        // What has ended is forgotten, so that whoever has its pid now is looked at as new.
        self.known.retain(|pid, known| {
            let listed = listed.contains(pid);
            let Some(tracked) = known.tracked else {
                return listed;
            };
            let there = listed
                && match self.proc.stat(*pid) {
                    Ok(Some(stat)) => self.proc.is_same(tracked.identity, &stat) && !stat.ended(),
                    Ok(None) => false,
                    // It is there and cannot be read just now.
                    Err(_) => true,
                };
            if !there {
                exits.push(tracked);
            }
            there
        });
        exits.sort_unstable_by_key(|tracked| (tracked.identity.start_ns, tracked.identity.pid));
        for tracked in exits {
            self.count("exits");
            bodies.push(Body::Exit(inferred_exit(tracked.identity, tracked.role, Source::Poll)));
        }
    }

    /// Tracked workers and descendants that run another program than before. A descendant that
    /// became a worker is a spawn.
    fn execs(&mut self, book: &mut IdentityBook, bodies: &mut Vec<Body>) {
        let mut pids: Vec<u32> = self
            .known
            .iter()
            .filter(|(_, known)| known.tracked.is_some_and(Tracked::executes))
            .map(|(pid, _)| *pid)
            .collect();
        pids.sort_unstable();
        let mut promoted = Vec::new();
        let mut scan = Scan::new(&self.proc, &self.profile, book);
        for pid in pids {
            let Some(tracked) = self.known.get_mut(&pid).and_then(|known| known.tracked.as_mut())
            else {
                continue;
            };
            // No arguments: in the middle of an exec, or of its end.
            let Some(seen) = scan.seen(pid).filter(|seen| {
                !seen.cmdline.bytes.is_empty() && self.proc.is_same(tracked.identity, &seen.stat)
            }) else {
                continue;
            };
            let program = Program::of(&seen);
            let before = std::mem::replace(&mut tracked.program, program);
            if !before.replaced_by(program) {
                continue;
            }
            let tokens = seen.cmdline.tokens();
            let is_worker = self.profile.match_worker(&tokens).is_some();
            if tracked.role == Role::Descendant && is_worker {
                promoted.push(Found { seen, worker: true });
                continue;
            }
            bodies.push(Body::Exec(Exec {
                pid,
                start_ns: tracked.identity.start_ns,
                role: tracked.role,
                is_worker,
                comm: redact::escape(&seen.stat.comm),
                argv0: tokens.first().map(|token| redact::argv0(token)),
                helper: self.profile.match_helper(&tokens).map(str::to_owned),
                source: Source::Poll,
            }));
        }
        self.spawns(book, promoted, bodies);
    }

    /// Looks at one entry of the list; most were looked at before and cost nothing.
    fn look_at(
        &mut self,
        book: &mut IdentityBook,
        entry: Entry,
        now_ns: u64,
        found: &mut Vec<Found>,
        bodies: &mut Vec<Body>,
    ) {
        if let Some(known) = self.known.get_mut(&entry.pid) {
            if known.inode != entry.inode {
                match self.proc.stat(entry.pid) {
                    // The kernel only forgot and made its folder anew.
                    Ok(Some(stat)) if stat.start_ns == known.start_ns => known.inode = entry.inode,
                    Ok(None) => return,
                    _ => {
                        self.known.remove(&entry.pid);
                    }
                }
            } else if known.tracked.is_some_and(Tracked::executes) {
                return;
            }
        }
        let new = !self.known.contains_key(&entry.pid);
        let known = self.known.entry(entry.pid).or_insert(Known {
            inode: entry.inode,
            start_ns: 0,
            unsearched: false,
            tracked: None,
        });
        let young = now_ns.saturating_sub(known.start_ns) < YOUNG_NS;
        let its_turn = (self.rounds + u64::from(entry.pid)).is_multiple_of(OLD_ROUNDS);
        if !(new || young || its_turn) || known.tracked.is_some_and(Tracked::executes) {
            return;
        }
        let read = self.proc.cmdline_into(entry.pid, ARGV_SEARCHED_BYTES, &mut self.buffer);
        let Ok(Some(truncated)) = read else {
            return;
        };
        let matches = self.profile.match_worker(&tokens_of(&self.buffer)).is_some();
        if truncated && !matches && !std::mem::replace(&mut known.unsearched, true) {
            let gap =
                Gap { reason: GapReason::ArgvNotSearched, lost: 1, resynced: false, uid: None };
            bodies.push(Body::Gap(gap));
        }
        *self.counters.entry("argv-read".to_owned()).or_default() += 1;
        if !new && !matches {
            return;
        }
        let mut scan = Scan::new(&self.proc, &self.profile, book);
        let Some(seen) = scan.seen(entry.pid) else {
            return;
        };
        known.start_ns = seen.stat.start_ns;
        // What exits before anybody knew it never was tracked.
        if !seen.stat.ended() {
            let worker = self.profile.match_worker(&seen.cmdline.tokens()).is_some();
            found.push(Found { seen, worker });
        }
    }

    /// Describes what was found: workers, and what is below them.
    fn spawns(&mut self, book: &mut IdentityBook, found: Vec<Found>, bodies: &mut Vec<Body>) {
        let parents: HashMap<u32, u32> =
            found.iter().map(|found| (found.seen.stat.pid, found.seen.stat.ppid)).collect();
        let depth = |pid: u32| {
            std::iter::successors(parents.get(&pid), |above| parents.get(above))
                .take(parents.len())
                .count()
        };
        let mut found = found;
        // Parents first; a child is never older than its parent, but may be of the same tick.
        found.sort_by_cached_key(|found| {
            let stat = &found.seen.stat;
            (stat.start_ns, depth(stat.pid), stat.pid)
        });
        let mut scan = Scan::new(&self.proc, &self.profile, book);
        for Found { seen, worker } in found {
            let stat = &seen.stat;
            let (source, inherited) = match self.started_ns {
                None => (Source::Proc, true),
                Some(started_ns) => (Source::Poll, stat.start_ns < started_ns),
            };
            let below = self
                .known
                .get(&stat.ppid)
                .filter(|known| known.start_ns <= stat.start_ns)
                .and_then(|known| known.tracked)
                .and_then(Tracked::nearest_worker);
            let is_fork = below.is_some()
                && scan.seen(stat.ppid).is_some_and(|parent| scan.is_part(&seen, &parent));
            let spawn = match below {
                _ if worker && !is_fork => scan.worker(&seen, source, inherited),
                Some(below) => scan.descendant(&seen, below, source, inherited),
                None => continue,
            };
            // Gone before it could be described.
            let Some(spawn) = spawn else {
                continue;
            };
            let identity = spawn.identity();
            let program = Program::of(&seen);
            let tracked = Tracked { identity, role: spawn.role, worker: spawn.worker, program };
            watch(&mut self.known, tracked);
            if spawn.role == Role::Worker {
                let parent = spawn.parent.as_ref();
                let gateway = parent.filter(|parent| !parent.reaper).map(|p| p.process.identity());
                let above = parent.map(|parent| match gateway {
                    Some(gateway) => (gateway, Role::Gateway),
                    None => (parent.process.identity(), Role::Ancestor),
                });
                let ancestors = spawn.ancestors.iter().map(|a| (a.identity(), Role::Ancestor));
                for (identity, role) in above.into_iter().chain(ancestors) {
                    let program = Program::default();
                    watch(&mut self.known, Tracked { identity, role, worker: None, program });
                }
            }
            *self.counters.entry(format!("{}s", spawn.role.name())).or_default() += 1;
            bodies.push(Body::Spawn(Box::new(spawn)));
        }
    }

    fn count(&mut self, name: &str) {
        *self.counters.entry(name.to_owned()).or_default() += 1;
    }
}

/// Tracks a process; what it is nearest to a worker is kept.
fn watch(known: &mut HashMap<u32, Known>, tracked: Tracked) {
    let known = known.entry(tracked.identity.pid).or_insert(Known {
        // Younger than the list of this round: the next one recognises it by its start.
        inode: 0,
        start_ns: tracked.identity.start_ns,
        unsearched: false,
        tracked: None,
    });
    if known.tracked.is_none_or(|now| tracked.weight() > now.weight()) {
        known.tracked = Some(tracked);
    }
}
