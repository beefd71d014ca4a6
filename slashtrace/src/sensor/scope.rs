//! Which processes come from one command: they inherited a variable from it, or were forked by a
//! process that did. That holds for those that have another parent or session by now, too.
//! May touch: the environment of workers and of the processes above them, for that one variable.

use std::{
    collections::{HashSet, VecDeque, hash_map::RandomState},
    ffi::OsString,
    fs::File,
    hash::{BuildHasher as _, Hasher as _},
    io::Read as _,
};

use anyhow::Result;

use super::{Description, Last, Next, Sensor};
use crate::{
    host::proc::ProcFs,
    model::{Body, Identity, Observation, Process, Role, Spawn},
};

/// The variable. Recordings within recordings each add their own mark.
const VARIABLE: &str = "SLASHTRACE_RECORDING";
/// Bytes of an environment that are searched: the kernel allows no more (execve(2), `_STK_LIM`).
const ENVIRON_BYTES_MAX: u64 = 6 << 20;
/// An environment is read until two readings in a row are of one length, at most so often.
const READINGS_MAX: usize = 4;
/// Ended workers that are remembered.
const ENDED_MAX: usize = 4_096;
/// Processes of a scope that are remembered.
const KNOWN_MAX: usize = 65_536;

/// Lets through what is about processes of one command.
#[derive(Debug)]
pub struct Scope {
    mark: String,
    proc: ProcFs,
    /// Workers, what is below them, gateways and what is above those.
    known: HashSet<Identity>,
    /// Workers that ended, of which something may still be told.
    ended: VecDeque<Identity>,
}

impl Scope {
    /// A scope with a mark of its own.
    pub fn new() -> Self {
        let random = RandomState::new().build_hasher().finish();
        let mark = format!("{}-{random:016x}", std::process::id());
        let proc = ProcFs::default();
        Self { mark, proc, known: HashSet::new(), ended: VecDeque::new() }
    }

    /// The variable, and its value for the command.
    pub fn variable(&self) -> (OsString, OsString) {
        let mut value = std::env::var_os(VARIABLE).unwrap_or_default();
        if !value.is_empty() {
            value.push(":");
        }
        value.push(&self.mark);
        (VARIABLE.into(), value)
    }

    /// Whether an observation is about a process of the command, or about none in particular.
    pub fn admits(&mut self, observation: &Observation) -> bool {
        match &observation.body {
            Body::Spawn(spawn) => self.spawned(spawn),
            Body::Exec(exec) => self.known.contains(&exec.identity()),
            Body::Signal(signal) => self.known.contains(&signal.identity()),
            Body::Sample(sample) => self.known.contains(&sample.identity()),
            Body::Clients(clients) => self.known.contains(&clients.identity()),
            Body::Reply(reply) => self.known.contains(&reply.worker),
            Body::Program(program) => self.is_marked(program.identity()),
            Body::Terminal(event) => {
                let named = [&event.master, &event.leader].into_iter().flatten();
                let mut named = named.map(Process::identity).chain(event.processes.iter().copied());
                named.any(|id| self.is_marked(id))
            }
            // The end of a worker is told again when it was reaped; whether one below it was reaped is
            // sampled.
            Body::Exit(exit) => match exit.role {
                Role::Worker | Role::Descendant => self.worker_ended(exit.identity()),
                _ => self.known.remove(&exit.identity()),
            },
            Body::Start(_)
            | Body::Checkpoint(_)
            | Body::Tick(_)
            | Body::Gap(_)
            | Body::Action(_)
            | Body::Finding(_)
            | Body::Stop(_) => true,
        }
    }

    fn worker_ended(&mut self, id: Identity) -> bool {
        let known = self.known.contains(&id);
        if known {
            self.ended.push_back(id);
        }
        if self.ended.len() > ENDED_MAX
            && let Some(oldest) = self.ended.pop_front()
        {
            self.known.remove(&oldest);
        }
        known
    }

    fn spawned(&mut self, spawn: &Spawn) -> bool {
        let parent = spawn.parent.as_ref().map(|parent| &parent.process);
        let above: Vec<Identity> =
            parent.into_iter().chain(&spawn.ancestors).map(Process::identity).collect();
        let within = match spawn.role {
            Role::Worker => {
                let chain: Vec<Identity> =
                    [spawn.identity()].into_iter().chain(above.iter().copied()).collect();
                // It came from the command, which is our child, without leaving the session.
                let ours = above.iter().any(|id| id.pid == std::process::id());
                ours || self.is_any_marked(&chain)
            }
            _ => spawn.worker.is_some_and(|worker| self.known.contains(&worker)),
        };
        if within && self.known.len() < KNOWN_MAX {
            self.known.insert(spawn.identity());
            if spawn.role == Role::Worker {
                // Its gateway, whose end and clients matter; not who is above the command.
                self.known.extend(above.first());
            }
        }
        within
    }

    /// Whether one of a worker and those above it is marked. Where nobody is left to be asked it
    /// counts: to tell of too much is better than to lose something.
    fn is_any_marked(&self, chain: &[Identity]) -> bool {
        // Nothing has to be read for a gateway that had a worker of the command before.
        if chain.iter().any(|id| self.known.contains(id)) {
            return true;
        }
        let told: Vec<Option<bool>> = chain.iter().map(|id| self.mark_of(*id)).collect();
        told.contains(&Some(true)) || told.iter().take(2).all(Option::is_none)
    }

    fn is_marked(&self, id: Identity) -> bool {
        self.mark_of(id) == Some(true)
    }

    /// Whether a process is marked; none where that is unknown. Of a process that ends or executes
    /// something meanwhile, less than the whole environment is read (`environ_read`,
    /// fs/proc/base.c): that no mark was in it says nothing.
    fn mark_of(&self, id: Identity) -> Option<bool> {
        if self.known.contains(&id) {
            return Some(true);
        }
        let mut length = 0;
        for _ in 0..READINGS_MAX {
            let environ = self.environ(id)?;
            if holds(&environ, &self.mark) {
                return Some(true);
            }
            if environ.len() == length {
                return self.lives(id).then_some(false);
            }
            length = environ.len();
        }
        None
    }

    /// As much of the environment as can be read; none if that is nothing.
    fn environ(&self, id: Identity) -> Option<Vec<u8>> {
        let mut environ = Vec::new();
        let file = File::open(self.proc.path(id.pid, "environ")).ok()?;
        let _ = file.take(ENVIRON_BYTES_MAX).read_to_end(&mut environ);
        (!environ.is_empty()).then_some(environ)
    }

    fn lives(&self, id: Identity) -> bool {
        let stat = self.proc.stat(id.pid);
        matches!(stat, Ok(Some(stat)) if self.proc.is_same(id, &stat) && !stat.ended())
    }
}

impl Default for Scope {
    fn default() -> Self {
        Self::new()
    }
}

/// Of a sensor set what is about processes of one command.
pub struct Scoped {
    sensor: Box<dyn Sensor>,
    scope: Scope,
}

impl Scoped {
    /// Keeps back what is about others.
    pub fn new(sensor: Box<dyn Sensor>, scope: Scope) -> Self {
        Self { sensor, scope }
    }
}

impl Sensor for Scoped {
    fn describe(&self) -> Description {
        self.sensor.describe()
    }

    fn next(&mut self) -> Next<'_> {
        Box::pin(async {
            let mut batch = self.sensor.next().await?;
            batch.retain(|observation| self.scope.admits(observation));
            Ok(batch)
        })
    }

    fn horizon(&self, now_ns: u64) -> u64 {
        self.sensor.horizon(now_ns)
    }

    fn finish(self: Box<Self>) -> Result<Last> {
        let Self { sensor, mut scope } = *self;
        let mut last = sensor.finish()?;
        last.observations.retain(|observation| scope.admits(observation));
        Ok(last)
    }
}

fn holds(environ: &[u8], mark: &str) -> bool {
    let mut values = environ
        .split(|&byte| byte == 0)
        .filter_map(|line| line.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="));
    values.any(|value| value.split(|&byte| byte == b':').any(|it| it == mark.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::samples::{self, spawn},
        model::{Parent, ParentSource},
    };

    fn told(spawn: &Spawn) -> Observation {
        Observation { boottime_ns: 1, body: Body::Spawn(Box::new(spawn.clone())) }
    }

    fn identity(pid: u32) -> Identity {
        let start_ns = ProcFs::default().stat(pid).unwrap().unwrap().start_ns;
        Identity { pid, start_ns }
    }

    #[test]
    fn a_mark_is_found_among_others() {
        let environ = b"PATH=/bin\0SLASHTRACE_RECORDING=1-a:2-b\0X=2-c\0";
        assert!(holds(environ, "1-a") && holds(environ, "2-b"));
        assert!(!holds(environ, "2-c") && !holds(environ, "2"));
    }

    #[test]
    fn what_comes_from_a_marked_process_is_within() {
        let mut scope = Scope::new();
        let (name, value) = scope.variable();
        let mut child =
            std::process::Command::new("sleep").arg("60").env(name, value).spawn().unwrap();
        // `exec` has to have happened.
        let id = identity(child.id());
        while !scope.is_marked(id) {
            std::thread::yield_now();
        }
        let mut within = spawn();
        within.pid = 4_000_000_001;
        let process = Process {
            pid: id.pid,
            start_ns: id.start_ns,
            comm: "sleep".to_owned(),
            argv0: None,
            launcher: None,
        };
        within.parent = Some(Parent {
            process,
            how: ParentSource::Fork,
            gone: false,
            reaper: false,
            forker: None,
            forked_only: false,
        });
        within.ancestors.clear();
        let mut without = spawn();
        without.pid = 4_000_000_002;
        let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let alien = identity(stranger.id());
        let process = &mut without.parent.as_mut().unwrap().process;
        (process.pid, process.start_ns) = (alien.pid, alien.start_ns);
        while scope.mark_of(alien).is_none() {
            std::thread::yield_now();
        }
        without.ancestors.clear();
        assert!(scope.admits(&told(&within)));
        assert!(!scope.admits(&told(&without)));
        for child in [&mut child, &mut stranger] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // Its gateway has ended; another worker of it is known by that gateway.
        within.pid = 4_000_000_004;
        assert!(scope.admits(&told(&within)));
    }

    #[test]
    fn an_environment_that_was_cut_short_says_nothing() {
        use crate::host::proc::fake::{Fake, FakeProc};
        let fake = FakeProc::new();
        let scope = Scope { proc: fake.proc(), ..Scope::new() };
        let mark = |state: char, environ: &[u8]| {
            fake.put(&Fake { pid: 20, state, ..Fake::default() });
            std::fs::write(fake.dir(20).join("environ"), environ).unwrap();
            let start_ns = scope.proc.stat(20).unwrap().unwrap().start_ns;
            scope.mark_of(Identity { pid: 20, start_ns })
        };
        let (cut, whole) = ("PATH=/bin\0SLASHTR", scope.variable());
        let whole = format!("PATH=/bin\0{VARIABLE}={}\0", whole.1.to_str().unwrap());
        assert_eq!(mark('S', cut.as_bytes()), Some(false));
        assert_eq!(mark('Z', cut.as_bytes()), None, "it ended while it was read");
        assert_eq!(mark('Z', whole.as_bytes()), Some(true));
        assert_eq!(mark('S', b""), None);
        // Its pid is another process by now.
        assert_eq!(scope.mark_of(Identity { pid: 20, start_ns: 1 }), None);
    }

    #[test]
    fn those_that_ended_are_forgotten_in_time() {
        let mut scope = Scope::new();
        let exit = |pid| crate::model::Exit {
            pid,
            start_ns: 1,
            role: Role::Worker,
            code: Some(0),
            signal: None,
            reads: None,
            source: crate::model::Source::Kernel,
        };
        for pid in 1..=20_000 {
            scope.known.insert(Identity { pid, start_ns: 1 });
            let ended = Observation { boottime_ns: 1, body: Body::Exit(exit(pid)) };
            assert!(scope.admits(&ended));
            assert!(scope.admits(&ended), "it may be told again");
        }
        assert!(scope.known.len() <= ENDED_MAX + 1, "{}", scope.known.len());
    }

    #[test]
    fn of_others_nothing_is_told_but_what_is_about_nobody() {
        let mut scope = Scope::new();
        for record in samples::every_type() {
            scope.known.clear();
            let observation =
                Observation { boottime_ns: record.boottime_ns, body: record.body.clone() };
            let about_nobody = matches!(
                record.body,
                // Of who is gone it cannot be known.
                Body::Spawn(_)
                    | Body::Start(_)
                    | Body::Checkpoint(_)
                    | Body::Tick(_)
                    | Body::Gap(_)
                    | Body::Action(_)
                    | Body::Finding(_)
                    | Body::Stop(_)
            );
            assert_eq!(scope.admits(&observation), about_nobody, "{record:?}");
        }
    }
}
