use std::collections::{BTreeMap, BTreeSet};

use super::{
    AGAIN_A_ROUND, AGAIN_FOR_SPAWN, AGAIN_PART, OTHER_VIEWS, Open, Place, TerminalWatch, look,
};
use crate::{
    host::{
        clock::{boottime_ns, thread_cpu_ns},
        devpts::Devpts,
    },
    model::{Body, Identity, Observation, Process, TerminalEvent, TerminalState},
    sensor::join::ports::Callers,
};

/// Two writes of a session file are further apart than this: a tick of the file system's clock.
const SAME_WRITE_NS: u64 = 500_000;

/// Children of one process that are looked at for the leaders of its terminals.
const CHILDREN_MAX: usize = 1_024;
/// A terminal without a leader has none yet, for this long after it was opened.
const FRESH_NS: u64 = 20_000_000_000;

/// Which terminals are related to a worker, and what there is to be told of them.
impl TerminalWatch {
    /// Tells of terminals that are related to a worker, and are new or changed: of all, or, for a
    /// spawn, of those that somebody `above` it may have opened for it.
    pub(super) fn tell(
        &mut self,
        own: Option<Place>,
        above: Option<&[u32]>,
        found: &mut Vec<Observation>,
    ) {
        if self.open.is_empty() {
            return;
        }
        let mut related: BTreeSet<Place> = own.into_iter().collect();
        related.extend(self.again(above.is_some()));
        let mut masters = self.masters(above);
        let held = masters.iter().filter(|(_, by)| {
            above.is_none_or(|above| by.iter().any(|holder| above.contains(&holder.pid)))
        });
        related.extend(held.map(|(place, _)| *place));
        related.retain(|place| self.open.contains_key(place));
        if related.is_empty() {
            return;
        }
        let owners = self.owners(&related);
        for (place, owner) in &owners {
            if let Some(open) = self.open.get_mut(place) {
                open.uid = owner.or(open.uid);
            }
        }
        // Whom else's master it may be that somebody holds: he may have been given it, or only
        // pretend to hold one of this instance.
        masters.retain(|place, holders| {
            let owner = owners.get(place).copied().flatten();
            let uid = |pid: u32| self.proc.ids(pid).ok().flatten().map(|ids| ids.uid);
            holders.retain(|one| uid(one.pid).is_some_and(|uid| uid == 0 || Some(uid) == owner));
            holders.len() == 1
        });
        self.walk(own, above.is_some(), &owners);
        self.ask_children(&masters, &owners);
        let holders = masters.values().flatten().map(Process::identity).collect();
        self.flat.hold_masters(&self.proc, &mut self.ports, &holders);
        let mut callers = BTreeMap::new();
        for place in related {
            let master = masters.get(&place).and_then(|holders| holders.first().cloned());
            self.tell_of(place, master, above.is_some(), &mut callers, found);
        }
    }

    /// Tells of one terminal, if there is something new.
    fn tell_of(
        &mut self,
        place: Place,
        master: Option<Process>,
        spawn: bool,
        callers: &mut BTreeMap<Identity, Callers>,
        found: &mut Vec<Observation>,
    ) {
        let Some(open) = self.open.get_mut(&place) else { return };
        let users = self.walks.users.get(&place);
        let leader = users.and_then(|users| users.leader.clone());
        let pids = users.map_or(&[][..], |users| &users.processes);
        let rule = self.rule.as_ref();
        let named = users.and_then(|users| users.named(&self.proc, rule?));
        let mut named = named.unwrap_or_default();
        if let Some(file) = &named.file
            && self.files.watch(place, file)
            && let Some(again) = users.and_then(|users| users.named(&self.proc, rule?))
        {
            named = again;
        }
        let before = open.told.as_ref();
        let master = master.or_else(|| before.and_then(|told| told.master.clone()));
        let mut ports = before.map(|told| told.ports.clone()).unwrap_or_default();
        // Its connections stay: those who have one are looked at again for a spawn.
        if let Some(users) = users.filter(|_| spawn || ports.is_empty())
            && let Some(gateway) = master.as_ref().map(Process::identity)
            && let Some(listening) = self.flat.ports_of(gateway)
        {
            let callers = callers
                .entry(gateway)
                .or_insert_with(|| self.ports.callers(listening).unwrap_or_default());
            let now = users.ports(&self.proc, callers);
            if !now.is_empty() {
                ports = now;
            }
        }
        // A time that is converted anew differs by some ns.
        if let Some(told) = before
            && let (Some(one), Some(other)) = (told.session_ns, named.written_ns)
            && told.session == named.session
            && one.abs_diff(other) < SAME_WRITE_NS
        {
            named.written_ns = told.session_ns;
        }
        let (session, session_ns) = match named.session {
            Some(session) => (Some(session), named.written_ns),
            None => before.map_or((None, None), |told| (told.session.clone(), told.session_ns)),
        };
        let event = TerminalEvent {
            instance: place.0,
            index: place.1,
            opened_ns: open.opened_ns,
            state: TerminalState::Opened,
            source: open.source,
            uid: open.uid,
            master,
            leader: leader.or_else(|| before.and_then(|told| told.leader.clone())),
            processes: pids.to_vec(),
            session,
            session_ns,
            resumes: named.resumes.or_else(|| before.and_then(|told| told.resumes.clone())),
            ports,
            closer: None,
        };
        let same = before.is_some_and(|told| {
            let seen = |it: &TerminalEvent| (it.session_ns, it.ports.clone(), it.resumes.clone());
            (&told.master, &told.leader, &told.session)
                == (&event.master, &event.leader, &event.session)
                && seen(told) == seen(&event)
        });
        if !same {
            let body = Body::Terminal(Box::new(event.clone()));
            found.push(Observation { boottime_ns: boottime_ns(), body });
        }
        if open.told.replace(event).is_none() {
            self.changes.push((true, place));
        }
    }

    /// Tells of the terminals whose session files were written.
    pub(super) fn files_written(&mut self, found: &mut Vec<Observation>) {
        for place in self.files.written() {
            self.tell_of(place, None, false, &mut BTreeMap::new(), found);
        }
    }

    /// Searches for openers of terminals where one was opened, and tells of what they hold.
    pub(super) fn search_gateways(&mut self, found: &mut Vec<Observation>) {
        let Some(opener) = self.rule.as_ref().and_then(|rule| rule.opener.as_ref()) else { return };
        let openers = self.flat.search(&self.proc, &opener.tokens, self.opened);
        let pids: Vec<u32> = openers.iter().map(|opener| opener.pid).collect();
        for opener in &openers {
            self.opens(opener);
        }
        if !pids.is_empty() {
            self.tell(None, Some(&pids), found);
        }
    }

    /// The terminals whose masters are held by those who open some, and by whom. Those `above` a
    /// spawn are looked at now, others are believed to hold what they held.
    fn masters(&mut self, above: Option<&[u32]>) -> BTreeMap<Place, Vec<Process>> {
        let watched = self.watches.instances();
        let mut masters: BTreeMap<Place, Vec<Process>> = BTreeMap::new();
        for (pid, process) in &self.gateways {
            let held = if above.is_none_or(|above| above.contains(pid)) {
                self.masters.of(&self.proc, *pid, &watched, above.is_none())
            } else if let Some(held) = self.masters.last(*pid) {
                held
            } else {
                continue;
            };
            for place in held {
                masters.entry(*place).or_default().push(process.clone());
            }
        }
        masters
    }

    /// Looks who uses these terminals, if that was not done a moment ago.
    fn walk(&mut self, own: Option<Place>, spawn: bool, owners: &BTreeMap<Place, Option<u32>>) {
        let began = boottime_ns();
        let unknown = |place: &Place| {
            let users = self.walks.users.get(place);
            let led = users.is_some_and(|users| users.leader.is_some());
            // Whoever opened one starts its process a moment later.
            let fresh = |open: &Open| !led && began < open.opened_ns.saturating_add(FRESH_NS);
            self.open.get(place).is_some_and(|open| open.told.is_none() || fresh(open))
                && (!spawn || !led)
        };
        let urgent = own.is_some() || owners.keys().any(unknown);
        if !self.walks.is_due(urgent, began) {
            return;
        }
        // Who asks about some of the terminals does not make the others be forgotten.
        let told = self.open.iter().filter(|(_, open)| open.told.is_some()).map(|(at, _)| *at);
        let mut places: BTreeSet<Place> = told.filter(|at| !owners.contains_key(at)).collect();
        let all: BTreeMap<Place, Option<u32>>;
        let owners = if places.is_empty() {
            owners
        } else {
            places.extend(owners.keys());
            all = self.owners(&places);
            &all
        };
        let cpu_began = thread_cpu_ns();
        let users = look::users(&self.proc, owners);
        let (took, ended) = (thread_cpu_ns().saturating_sub(cpu_began), boottime_ns());
        self.walks.walked(users, ended.saturating_sub(took), ended);
    }

    /// Finds the leaders of terminals among the children of those who hold their masters: who opens a
    /// terminal for a session forks its leader. That costs little, where a walk over all processes has
    /// to wait for its turn.
    fn ask_children(
        &mut self,
        masters: &BTreeMap<Place, Vec<Process>>,
        owners: &BTreeMap<Place, Option<u32>>,
    ) {
        let users = &self.walks.users;
        let led = |place: &Place| users.get(place).is_some_and(|users| users.leader.is_some());
        let mut wanted: BTreeMap<u32, BTreeMap<Place, Option<u32>>> = BTreeMap::new();
        for (place, holders) in masters.iter().filter(|(place, _)| !led(place)) {
            if let (Some(holder), Some(owner)) = (holders.first(), owners.get(place)) {
                wanted.entry(holder.pid).or_default().insert(*place, *owner);
            }
        }
        for (holder, places) in wanted {
            let children = self.proc.children(holder).unwrap_or_default();
            let children = children.into_iter().take(CHILDREN_MAX);
            let found = look::users_among(&self.proc, &places, children);
            self.walks.users.extend(found.into_iter().filter(|(_, users)| users.leader.is_some()));
        }
    }

    /// Terminals that were told of and are looked at again: for a spawn some of them, in a round
    /// those whose turn it is.
    fn again(&mut self, spawn: bool) -> Vec<Place> {
        let told = || self.open.iter().filter(|(_, open)| open.told.is_some()).map(|(at, _)| *at);
        if spawn {
            return told().take(AGAIN_FOR_SPAWN).collect();
        }
        let last = self.last_again;
        let turns = told().filter(|at| *at > last).chain(told().filter(|at| *at <= last));
        let turn: Vec<Place> =
            turns.take(AGAIN_A_ROUND.max(told().count().div_ceil(AGAIN_PART))).collect();
        self.last_again = turn.last().copied().unwrap_or(last);
        turn
    }

    /// Whose terminals they are, by their nodes.
    fn owners(&self, places: &BTreeSet<Place>) -> BTreeMap<Place, Option<u32>> {
        let known = self.known();
        let mut first: BTreeMap<u64, Option<Devpts>> = BTreeMap::new();
        let mut owner = |(instance, index): Place| {
            let views = || self.watches.views(instance, &known);
            let first = first.entry(instance).or_insert_with(|| views().next()).as_ref()?;
            // Who is asked first may have mounted something over it.
            let mut others = views().skip(1).take(OTHER_VIEWS);
            first.owner(index).or_else(|| others.find_map(|devpts| devpts.owner(index)))
        };
        places.iter().map(|place| (*place, owner(*place))).collect()
    }
}
