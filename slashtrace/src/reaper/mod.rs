//! Ends workers that nobody can use any more, where it is told to. `policy` says what may be done,
//! `judge` (pure) who it is done to, `prepared` opens ahead what that takes, `checks` asks the world
//! again, `executor` acts, one step a time.
//! May touch: `model`, `profile`, `redact`, `host::proc`, `host::net` (who is connected to a worker),
//! the clock; and signals, in one function.

mod checks;
mod decision;
mod executor;
mod judge;
mod policy;
mod prepared;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::{future::poll_fn, os::fd::OwnedFd, sync::Arc, task::Poll, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    task::yield_now,
    time::sleep,
};

pub use decision::Decision;
pub use executor::{Begun, Escalation, Executor, Holds, InProgress, Ready, Terminated};
pub use judge::Judge;
pub use policy::{Facts, Policy, Protect, Scope, Trigger, TriggerError};

use crate::{
    host::clock::boottime_ns,
    model::{Action, Body, Observation, Record, Step},
    profile::Profile,
    redact::Redaction,
    roster::Roster,
};

/// How long a deadline is slept for at a time: tokio's clock stands still while the machine is
/// suspended, the boot clock does not.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// How often to look whether a worker has ended where its pidfd cannot be waited for.
const LOOK_UNWATCHED: Duration = Duration::from_millis(100);

/// Decides and acts, in steps.
///
/// Every step is written before it is done. [`Self::next`] returns what is about to be done
/// (`phase: before`) and does it at its *next* call: in between, the caller writes the record and
/// makes that durable. A caller that cannot write drops the reaper, and nothing was sent.
/// Every record, those of these actions too, is to be given to [`Self::observe`].
#[derive(Debug)]
pub struct Reaper {
    judge: Judge,
    executor: Executor,
    /// Told of, and to be ended at the next step.
    ready: Vec<Ready>,
    running: Vec<Running>,
    /// Nobody is chosen before this, ns of the boot clock.
    waits_until: u64,
}

#[derive(Debug)]
struct Running {
    reap: InProgress,
    /// Told of, and to be killed at the next step.
    kill: bool,
    /// Its pidfd, if it can be waited for.
    end: Option<AsyncFd<Arc<OwnedFd>>>,
}

impl Reaper {
    /// A reaper for the workers of a profile, that knows of none yet.
    pub fn new(profile: Profile, policy: Policy) -> Self {
        let executor = Executor::new(profile, &policy);
        let judge = Judge::new(policy);
        Self { judge, executor, ready: Vec::new(), running: Vec::new(), waits_until: 0 }
    }

    /// For records whose session keys have passed this gate.
    #[must_use]
    pub fn redacting(mut self, redaction: Redaction) -> Self {
        self.executor.redact_with(redaction);
        self
    }

    /// Takes one record; all of them are to be given, in order.
    pub fn observe(&mut self, record: &Record, roster: &Roster) {
        self.judge.observe(record, roster);
        self.executor.observe(record);
    }

    /// Chooses nobody until then, ns of the boot clock: what it is told at first is of before, and
    /// the sensors have not looked at everything yet.
    pub fn wait_until(&mut self, boottime_ns: u64) {
        self.waits_until = boottime_ns;
    }

    /// Whether the circuit breaker is open.
    pub fn is_stopped(&self) -> bool {
        self.judge.is_stopped()
    }

    /// Closes the circuit breaker ([`Judge::resume`]).
    pub fn resume(&mut self) {
        self.judge.resume();
    }

    /// What it may do.
    pub fn policy(&self) -> &Policy {
        self.judge.policy()
    }

    /// How many workers are being ended. One that got SIGTERM when the reaper is dropped gets no
    /// SIGKILL.
    pub fn under_way(&self) -> usize {
        self.ready.len() + self.running.len()
    }

    /// Waits for something to do and does one step; never returns nothing. Cancel-safe: nothing is
    /// done before it waits that it does not return at once. Asks for a runtime with I/O and time.
    pub async fn next(&mut self, roster: &Roster) -> Vec<Observation> {
        loop {
            let said = self.step(boottime_ns(), roster);
            if !said.is_empty() {
                return said;
            }
            if self.executor.prepare(boottime_ns()) {
                // One at a time: what the sensors have comes first.
                yield_now().await;
                continue;
            }
            self.watch();
            let wake = self.wake(boottime_ns());
            tokio::select! {
                () = ended(&self.running) => {}
                () = sleep(wake) => {}
            }
        }
    }

    /// One step, without waiting: what was told of at the last one is done, or else it is looked
    /// for what is to be done.
    pub fn step(&mut self, now_ns: u64, roster: &Roster) -> Vec<Observation> {
        let mut said = self.act(now_ns, roster);
        if said.is_empty() {
            self.follow(now_ns, &mut said, roster);
            self.choose(now_ns, &mut said, roster);
        }
        let observation =
            |action| Observation { boottime_ns: now_ns, body: Body::Action(Box::new(action)) };
        said.into_iter().map(observation).collect()
    }

    /// What was announced and is not done yet, once more: it may not have been written. SIGKILL is
    /// announced when it is due again.
    pub fn announce_again(&mut self, now_ns: u64) -> Vec<Observation> {
        self.running.iter_mut().for_each(|running| running.kill = false);
        let again = |ready: &Ready| Observation {
            boottime_ns: now_ns,
            body: Body::Action(Box::new(ready.before())),
        };
        self.ready.iter().map(again).collect()
    }

    /// When there is something to do, ns of the boot clock, if nothing happens before.
    pub fn next_deadline(&self) -> Option<u64> {
        let told = !self.ready.is_empty() || self.running.iter().any(|running| running.kill);
        let now = told.then_some(0);
        let due = self.running.iter().map(|running| running.reap.due_ns());
        let chosen = self.judge.next_deadline().map(|due| due.max(self.waits_until));
        due.chain(chosen).chain(now).min()
    }

    /// Does what was told of.
    fn act(&mut self, now_ns: u64, roster: &Roster) -> Vec<Action> {
        let Self { judge, executor, ready, running, .. } = self;
        let holds = |worker: &_| judge.holds(worker, roster);
        let mut said = Vec::new();
        for running in running.iter_mut().filter(|running| running.kill) {
            running.kill = false;
            said.push(running.reap.kill(executor, &holds, now_ns));
        }
        for ready in ready.drain(..) {
            said.push(match ready.terminate(executor, &holds, now_ns) {
                Terminated::Sent(reap, action) => {
                    running.push(Running { reap, kill: false, end: None });
                    *action
                }
                Terminated::Said(action) => *action,
            });
        }
        // Where the answer was a result, that was the last word.
        let over = |it: &Running| said.iter().any(|action| is_result_of(action, &it.reap));
        running.retain(|it| !over(it));
        said
    }

    /// Looks after those that got a signal.
    fn follow(&mut self, now_ns: u64, said: &mut Vec<Action>, roster: &Roster) {
        let Self { judge, executor, running, .. } = self;
        let holds = |worker: &_| judge.holds(worker, roster);
        running.retain_mut(|running| {
            let reap = &running.reap;
            if reap.has_ended() || (reap.is_killed() && reap.due_ns() <= now_ns) {
                said.push(reap.finish(executor, now_ns));
                return false;
            }
            if reap.due_ns() > now_ns {
                return true;
            }
            match reap.escalate(executor, &holds, now_ns) {
                Escalation::Kill(action) => {
                    running.kill = true;
                    said.push(*action);
                }
                Escalation::Said(action) => {
                    said.push(*action);
                    return false;
                }
            }
            true
        });
    }

    fn choose(&mut self, now_ns: u64, said: &mut Vec<Action>, roster: &Roster) {
        if now_ns < self.waits_until {
            return;
        }
        let decisions = self.judge.decide(now_ns, roster);
        said.extend(self.judge.take_told());
        for decision in decisions {
            let holds = |worker: &_| self.judge.holds(worker, roster);
            match self.executor.begin(decision, &holds) {
                Begun::Ready(ready) => {
                    said.push(ready.before());
                    self.ready.push(*ready);
                }
                Begun::Said(action) => said.push(*action),
            }
        }
    }

    /// Has the runtime watch the pidfds of those that got a signal.
    fn watch(&mut self) {
        for running in self.running.iter_mut().filter(|running| running.end.is_none()) {
            let pidfd = running.reap.pidfd();
            // SAFETY: an `Arc<OwnedFd>` is always the same descriptor, and it stays open at least
            // until the `AsyncFd`, which holds one of the counts, is dropped.
            running.end =
                unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }.ok();
        }
    }

    fn wake(&self, now_ns: u64) -> Duration {
        let unwatched = self.running.iter().any(|running| running.end.is_none());
        let most = if unwatched { LOOK_UNWATCHED } else { LOOK_AGAIN };
        // A little later rather than earlier, or the look would come too early.
        let ahead = |due: u64| Duration::from_nanos(due.saturating_sub(now_ns));
        let due = self.next_deadline().into_iter().chain(self.executor.next_to_prepare()).min();
        due.map_or(most, |due| ahead(due).min(most)) + Duration::from_millis(1)
    }
}

fn is_result_of(action: &Action, reap: &InProgress) -> bool {
    action.worker == Some(reap.worker()) && action.step == Step::Result
}

/// Waits until one of them has ended.
async fn ended(running: &[Running]) {
    poll_fn(|cx| {
        let ended = |running: &Running| {
            running.end.as_ref().is_some_and(|end| end.poll_read_ready(cx).is_ready())
        };
        if running.iter().any(ended) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}
