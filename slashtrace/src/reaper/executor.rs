use std::{
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Signal, pidfd_send_signal};

use super::{
    Decision, Policy,
    checks::{Checks, No},
};
use crate::{
    host::pidfd::{self, has_ended},
    model::{Action, Identity, Mode, Outcome, Phase, Record, Step},
    profile::Profile,
    redact::Redaction,
};

/// How long a process may take to end after SIGKILL before it is said to have survived: it is in
/// an uninterruptible sleep.
const KILL_GRACE_NS: u64 = 5_000_000_000;

/// What was asked of the whole machine this shortly before is not asked again: a look around takes
/// about as long itself.
const JUST_CHECKED: Duration = Duration::from_millis(50);

/// Whether an open finding still justifies ending this worker.
pub type Holds<'a> = &'a dyn Fn(&Identity) -> bool;

/// Ends workers, one step at a time, so that each step is written before it is done.
///
/// A pidfd is held from before the first check to the end (pidfd_open(2), Linux 5.3): a signal
/// cannot reach a process that got the pid later. A worker that is stopped (SIGSTOP) does not see
/// SIGTERM; SIGKILL ends it after the grace.
#[derive(Debug)]
pub struct Executor {
    checks: Checks,
    mode: Mode,
    term_grace_ns: u64,
}

/// What came of [`Executor::begin`].
#[derive(Debug)]
pub enum Begun {
    /// Every check was passed.
    Ready(Box<Ready>),
    /// It goes no further: refused, gone, or `dry-run`.
    Said(Box<Action>),
}

/// A worker that passed every check. Nothing was sent yet.
#[derive(Debug)]
pub struct Ready {
    decision: Decision,
    pidfd: Arc<OwnedFd>,
    /// When every check was passed.
    checked: Instant,
}

/// What came of [`Ready::terminate`].
#[derive(Debug)]
pub enum Terminated {
    /// SIGTERM was sent; that is to be written.
    Sent(InProgress, Box<Action>),
    /// It was not.
    Said(Box<Action>),
}

/// A worker that got SIGTERM.
#[derive(Debug)]
pub struct InProgress {
    decision: Box<Decision>,
    pidfd: Arc<OwnedFd>,
    sent_ns: u64,
    due_ns: u64,
    killed: bool,
}

/// What is to be done about a worker that outlived the grace.
#[derive(Debug)]
pub enum Escalation {
    /// SIGKILL, once this was written.
    Kill(Box<Action>),
    /// Nothing: this is the result.
    Said(Box<Action>),
}

impl Executor {
    /// An executor for the workers of a profile.
    pub fn new(profile: Profile, policy: &Policy) -> Self {
        Self {
            checks: Checks::new(Path::new("/proc"), profile, policy),
            mode: policy.mode,
            term_grace_ns: u64::try_from(policy.term_grace.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// Compares session keys as this gate shows them, which the records have passed.
    pub fn redact_with(&mut self, redaction: Redaction) {
        self.checks.redact_with(redaction);
    }

    /// Takes one record; all of them are to be given, in order.
    pub fn observe(&mut self, record: &Record) {
        self.checks.prepared_mut().observe(record);
    }

    /// Opens in advance what one worker's end takes, if one is old enough by now: whether one was.
    pub fn prepare(&mut self, now_ns: u64) -> bool {
        self.checks.prepared_mut().prepare(now_ns)
    }

    /// When [`Self::prepare`] has something to do, ns of the boot clock.
    pub fn next_to_prepare(&self) -> Option<u64> {
        self.checks.prepared().next_due()
    }

    /// Checks a decision. Sends nothing.
    pub fn begin(&self, decision: Decision, holds: Holds<'_>) -> Begun {
        let opened = || pidfd::open(decision.worker.pid).map(Arc::new);
        let pidfd = self.checks.prepared().pidfd(&decision.worker).map_or_else(opened, Ok);
        let now = Instant::now();
        let checked = match pidfd {
            Ok(pidfd) => self.check(&decision, &pidfd, holds).map(|()| pidfd),
            Err(rustix::io::Errno::SRCH) => Err(No::Gone),
            Err(errno) => Err(No::Refused(format!("pidfd_open(2): {errno}"))),
        };
        match checked {
            Err(no) => Begun::Said(Box::new(refusal(&decision, no))),
            Ok(pidfd) if self.mode == Mode::Enforce => {
                Begun::Ready(Box::new(Ready { decision, pidfd, checked: now }))
            }
            Ok(_) => {
                let detail =
                    format!("worker {} would get SIGTERM now ({})", decision.worker, decision.ways);
                let descendants = decision.descendants.clone();
                let action = decision.action(Step::WouldEnd, Phase::After, detail);
                Begun::Said(Box::new(Action { descendants, ..action }))
            }
        }
    }

    fn check(&self, decision: &Decision, pidfd: &OwnedFd, holds: Holds<'_>) -> Result<(), No> {
        self.checks.all(decision)?;
        Self::may_be_signalled(decision, pidfd, holds)
    }

    fn may_be_signalled(decision: &Decision, pidfd: &OwnedFd, holds: Holds<'_>) -> Result<(), No> {
        if !holds(&decision.worker) {
            return Err(No::Refused("no finding justifies it any more".to_owned()));
        }
        // As long as it has not ended, its pid was its own: all that was read was of this process.
        match has_ended(pidfd) {
            Ok(false) => Ok(()),
            Ok(true) => Err(No::Gone),
            Err(error) => Err(No::Refused(format!("poll(2) of its pidfd: {error}"))),
        }
    }
}

impl Ready {
    /// What is to be written before [`Self::terminate`].
    pub fn before(&self) -> Action {
        let decision = &self.decision;
        let detail = format!(
            "SIGTERM to worker {}: {} is {}, and every check was passed ({})",
            decision.worker, decision.kind, decision.confidence, decision.ways
        );
        let action = decision.action(Step::Terminate, Phase::Before, detail);
        Action { descendants: decision.descendants.clone(), ..action }
    }

    /// Checks again and sends SIGTERM: the worker and the finding, and everything unless that was
    /// done a moment ago.
    pub fn terminate(self, executor: &Executor, holds: Holds<'_>, now_ns: u64) -> Terminated {
        let Self { decision, pidfd, checked } = self;
        let again = if checked.elapsed() > JUST_CHECKED {
            executor.check(&decision, &pidfd, holds)
        } else {
            let still = executor.checks.still(&decision);
            still.and_then(|()| Executor::may_be_signalled(&decision, &pidfd, holds))
        };
        if let Err(no) = again {
            return Terminated::Said(Box::new(refusal(&decision, no)));
        }
        let (outcome, detail) = sent(send(&pidfd, Signal::TERM), "SIGTERM", &decision);
        let action = Box::new(decision.done(Step::Terminate, outcome, detail));
        if outcome != Outcome::Sent {
            return Terminated::Said(action);
        }
        let due_ns = now_ns.saturating_add(executor.term_grace_ns);
        let decision = Box::new(decision);
        let progress = InProgress { decision, pidfd, sent_ns: now_ns, due_ns, killed: false };
        Terminated::Sent(progress, action)
    }
}

impl InProgress {
    /// The worker.
    pub fn worker(&self) -> Identity {
        self.decision.worker
    }

    /// Its pidfd, which becomes readable when it ends.
    pub fn pidfd(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.pidfd)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        has_ended(&self.pidfd).unwrap_or(false)
    }

    /// When it has had its time: to end after SIGTERM, or after SIGKILL once that was sent.
    pub fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Whether SIGKILL was sent.
    pub fn is_killed(&self) -> bool {
        self.killed
    }

    /// The grace is over: checks everything again. SIGKILL is only for a worker that is still the
    /// same, and still unused.
    pub fn escalate(&self, executor: &Executor, holds: Holds<'_>, now_ns: u64) -> Escalation {
        let worker = self.decision.worker;
        Escalation::Said(Box::new(match executor.check(&self.decision, &self.pidfd, holds) {
            Ok(()) => {
                let grace = now_ns.saturating_sub(self.sent_ns) / 1_000_000;
                let detail =
                    format!("SIGKILL to worker {worker}: it outlived SIGTERM by {grace} ms");
                return Escalation::Kill(Box::new(self.decision.action(
                    Step::Kill,
                    Phase::Before,
                    detail,
                )));
            }
            Err(No::Gone) => self.finish(executor, now_ns),
            Err(No::Refused(reason)) => {
                let detail = format!("worker {worker} gets no SIGKILL: {reason}");
                self.result(executor, Outcome::Withdrawn, detail, now_ns)
            }
        }))
    }

    /// Sends SIGKILL, once what [`Self::escalate`] said was written. The finding and the worker are
    /// looked at once more; a no is the result.
    pub fn kill(&mut self, executor: &Executor, holds: Holds<'_>, now_ns: u64) -> Action {
        match self.escalate(executor, holds, now_ns) {
            Escalation::Said(action) => *action,
            Escalation::Kill(_) => {
                let (outcome, detail) =
                    sent(send(&self.pidfd, Signal::KILL), "SIGKILL", &self.decision);
                self.killed = true;
                self.due_ns = now_ns.saturating_add(KILL_GRACE_NS);
                self.decision.done(Step::Kill, outcome, detail)
            }
        }
    }

    /// The result: that it ended, or, where its time is over, that it lives on.
    pub fn finish(&self, executor: &Executor, now_ns: u64) -> Action {
        let worker = self.decision.worker;
        let by = if self.killed { "SIGTERM and SIGKILL" } else { "SIGTERM" };
        if executor.checks.lives(worker) && !self.has_ended() {
            let detail = format!("worker {worker} lives on after {by}");
            return self.result(executor, Outcome::Survived, detail, now_ns);
        }
        let took = now_ns.saturating_sub(self.sent_ns) / 1_000_000;
        let mut detail = format!("worker {worker} ended {took} ms after {by}");
        if self.killed {
            detail = format!("worker {worker} ended on SIGKILL, {took} ms after SIGTERM");
        }
        self.result(executor, Outcome::Exited, detail, now_ns)
    }

    fn result(&self, executor: &Executor, outcome: Outcome, detail: String, now: u64) -> Action {
        let below = self.decision.descendants.iter().copied();
        Action {
            took_ms: Some(now.saturating_sub(self.sent_ns) / 1_000_000),
            descendants: below.filter(|id| executor.checks.lives(*id)).collect(),
            ..self.decision.done(Step::Result, outcome, detail)
        }
    }
}

fn refusal(decision: &Decision, no: No) -> Action {
    let worker = decision.worker;
    match no {
        No::Gone => {
            decision.done(Step::Refuse, Outcome::Gone, format!("worker {worker} has ended already"))
        }
        No::Refused(reason) => decision.done(
            Step::Refuse,
            Outcome::Refused,
            format!("worker {worker} is not ended: {reason}"),
        ),
    }
}

fn sent(result: rustix::io::Result<()>, name: &str, decision: &Decision) -> (Outcome, String) {
    let worker = decision.worker;
    match result {
        Ok(()) => (Outcome::Sent, format!("{name} was sent to worker {worker}")),
        Err(rustix::io::Errno::SRCH) => (Outcome::Gone, format!("worker {worker} had just ended")),
        Err(errno) => (Outcome::Failed, format!("{name} to worker {worker} failed: {errno}")),
    }
}

/// The one place in the program that signals a worker (pidfd_send_signal(2)).
fn send(pidfd: &OwnedFd, signal: Signal) -> rustix::io::Result<()> {
    pidfd_send_signal(pidfd, signal)
}

#[cfg(test)]
mod tests;
