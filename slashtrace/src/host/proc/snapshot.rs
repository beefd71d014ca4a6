use std::{
    collections::{HashMap, HashSet},
    io,
    rc::Rc,
};

use super::{ARGV_SEARCHED_BYTES, IdentityBook, ProcFs, Scan, Seen};
use crate::{
    model::{Exit, Identity, Role, Source, Spawn},
    profile::{Profile, tokens_of},
};

/// Longer arguments than this are rare.
const USUAL_BYTES: usize = 16 * 1024;

/// What a resync found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resync {
    /// Workers and descendants that were not known, parents first.
    pub spawns: Vec<Spawn>,
    /// Known processes that are gone or zombies.
    pub exits: Vec<Exit>,
}

/// The workers that are there now and what descends from them, parents first. All are `inherited`:
/// who forked them is not known, only who has them now.
///
/// Reads the arguments of every process, and where there is a worker the state of every process;
/// everything else only of workers and of what is above and below them.
pub fn snapshot(
    proc: &ProcFs,
    profile: &Profile,
    book: &mut IdentityBook,
) -> io::Result<Vec<Spawn>> {
    snapshot_of(proc, profile, book, &proc.pids()?)
}

/// As [`snapshot`], of these processes only.
pub fn snapshot_of(
    proc: &ProcFs,
    profile: &Profile,
    book: &mut IdentityBook,
    pids: &[u32],
) -> io::Result<Vec<Spawn>> {
    let mut scan = Scan::new(proc, profile, book);
    let workers = workers(proc, profile, &mut scan, pids);
    if workers.is_empty() {
        return Ok(Vec::new());
    }
    let mut parents = HashMap::with_capacity(pids.len());
    for &pid in pids {
        // Another user's processes may be unreadable (hidepid): they are not seen then.
        if let Ok(Some(stat)) = proc.stat(pid) {
            parents.insert(pid, stat.ppid);
        }
    }

    let mut found: Vec<(u64, usize, Spawn)> = Vec::new();
    for (&pid, seen) in &workers {
        if let Some(spawn) = scan.worker(seen, Source::Proc, true) {
            found.push((seen.stat.start_ns, depth(pid, &parents), spawn));
        }
    }
    for &pid in pids.iter().filter(|pid| !workers.contains_key(pid)) {
        let above = std::iter::successors(parents.get(&pid), |above| parents.get(above));
        let worker = above.take(parents.len()).find_map(|above| workers.get(above));
        let Some(worker) = worker.map(|seen| scan.identity(&seen.stat)) else {
            continue;
        };
        if let Some(seen) = scan.seen(pid).filter(|seen| !seen.stat.ended())
            && let Some(spawn) = scan.descendant(&seen, worker, Source::Proc, true)
        {
            found.push((seen.stat.start_ns, depth(pid, &parents), spawn));
        }
    }
    // A child is never older than its parent, but may be of the same tick.
    found.sort_by_key(|(start_ns, depth, spawn)| (*start_ns, *depth, spawn.pid));
    Ok(found.into_iter().map(|(.., spawn)| spawn).collect())
}

/// Compares what is known with what is there: used after observations were lost.
pub fn resync(
    proc: &ProcFs,
    profile: &Profile,
    book: &mut IdentityBook,
    known: &[(Identity, Role)],
) -> io::Result<Resync> {
    let roles: HashSet<(Identity, Role)> = known.iter().copied().collect();
    let identities: HashSet<Identity> = known.iter().map(|(identity, _)| *identity).collect();
    let mut spawns = snapshot(proc, profile, book)?;
    spawns.retain(|spawn| match spawn.role {
        // A known descendant may have become a worker by exec.
        Role::Worker => !roles.contains(&(spawn.identity(), Role::Worker)),
        _ => !identities.contains(&spawn.identity()),
    });
    let mut exits = Vec::new();
    for &(identity, role) in known {
        // What may not be read is there: procfs says so only of a process that exists.
        let gone = match proc.stat(identity.pid) {
            Ok(stat) => !stat.is_some_and(|stat| proc.is_same(identity, &stat) && !stat.ended()),
            Err(_) => false,
        };
        if gone {
            exits.push(inferred_exit(identity, role, Source::Proc));
        }
    }
    Ok(Resync { spawns, exits })
}

/// An exit that was inferred: how it ended is not known.
pub fn inferred_exit(identity: Identity, role: Role, source: Source) -> Exit {
    Exit {
        pid: identity.pid,
        start_ns: identity.start_ns,
        role,
        code: None,
        signal: None,
        reads: None,
        source,
    }
}

/// Processes that the profile's rules match, without those that are parts of a worker.
///
/// Arguments longer than usual are not read of users that are over their budgets.
fn workers(
    proc: &ProcFs,
    profile: &Profile,
    scan: &mut Scan<'_>,
    pids: &[u32],
) -> HashMap<u32, Rc<Seen>> {
    let mut matched = HashMap::new();
    let mut area = Vec::new();
    for &pid in pids {
        let mut read = proc.cmdline_into(pid, USUAL_BYTES, &mut area);
        if matches!(read, Ok(Some(true))) {
            let Ok(Some(_meter)) = proc.meter(pid) else { continue };
            read = proc.cmdline_into(pid, ARGV_SEARCHED_BYTES, &mut area);
        }
        if matches!(read, Ok(Some(_)))
            && profile.match_worker(&tokens_of(&area)).is_some()
            && let Some(seen) = scan.seen(pid)
            && profile.match_worker(&seen.cmdline.tokens()).is_some()
        {
            matched.insert(pid, seen);
        }
    }
    // A set: a worker may have forked thousands.
    let forks: HashSet<u32> = matched
        .values()
        .filter(|seen| {
            matched.get(&seen.stat.ppid).is_some_and(|parent| scan.is_part(seen, parent))
        })
        .map(|seen| seen.stat.pid)
        .collect();
    matched.retain(|pid, _| !forks.contains(pid));
    matched
}

fn depth(pid: u32, parents: &HashMap<u32, u32>) -> usize {
    std::iter::successors(parents.get(&pid), |above| parents.get(above)).take(parents.len()).count()
}
