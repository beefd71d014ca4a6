use std::collections::VecDeque;

use super::{Event, Happening, lives::Lives};
use crate::{
    model::{
        Body, FindingState, FindingWorker, Identity, Phase, Process, Record, Role, TerminalState,
    },
    report::{
        ending::ending,
        words::{lost, plain},
    },
};

/// Events of either sort that are kept: the last ones.
const EVENTS_MAX: usize = 2_500;

/// What happened: births and ends of workers, and, kept apart so that a storm of the former cannot
/// push them out, everything else.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    workers: VecDeque<Event>,
    others: VecDeque<Event>,
    omitted: u64,
}

impl Timeline {
    pub(super) fn take(&mut self, record: &Record, at_ms: u64, lives: &Lives) {
        let Some((kind, session, process, text)) = told(record, lives) else { return };
        let event = Event {
            at_ms,
            time: record.time,
            seq: record.seq,
            kind,
            session: session.map(|key| plain(&key).into_owned()),
            process,
            text,
        };
        let to = match kind {
            Happening::Spawn | Happening::Exit => &mut self.workers,
            _ => &mut self.others,
        };
        if to.len() >= EVENTS_MAX {
            to.pop_front();
            self.omitted += 1;
        }
        to.push_back(event);
    }

    /// The events in order, and how many are missing.
    pub(super) fn report(&self) -> (Vec<Event>, u64) {
        let mut events: Vec<Event> = self.workers.iter().chain(&self.others).cloned().collect();
        events.sort_by_key(|event| event.seq);
        (events, self.omitted)
    }
}

/// What a record has to tell.
fn told(
    record: &Record,
    lives: &Lives,
) -> Option<(Happening, Option<String>, Option<Identity>, String)> {
    Some(match &record.body {
        Body::Spawn(spawn) if spawn.role == Role::Worker => {
            let id = spawn.identity();
            let by = lives.worker(&id).and_then(|worker| lives.gateway(worker.key.gateway?));
            let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
            let verb = if spawn.inherited { "was there before" } else { "spawned" };
            let text = format!("worker {} {verb}{by}", id.pid);
            (Happening::Spawn, spawn.session.clone(), Some(id), text)
        }
        Body::Exit(exit) if exit.role == Role::Worker => {
            let id = exit.identity();
            let worker = lives.worker(&id);
            let session = worker.and_then(|worker| worker.key.session.clone());
            let how = worker.and_then(|worker| worker.end.clone());
            let how = how.unwrap_or_else(|| ending(exit, record.boottime_ns, None));
            (Happening::Exit, session, Some(id), format!("worker {} ended: {how}", id.pid))
        }
        Body::Exit(exit) if exit.role == Role::Gateway => {
            let id = exit.identity();
            let name = lives.gateway(id).unwrap_or_else(|| id.pid.to_string());
            (Happening::GatewayExit, None, Some(id), format!("gateway {name} ended"))
        }
        Body::Terminal(event) if event.state == TerminalState::Closed => {
            let text = format!("terminal pts/{} closed", event.index);
            let leader = event.leader.as_ref().map(Process::identity);
            (Happening::TerminalClosed, event.session.clone(), leader, text)
        }
        Body::Finding(finding) => {
            let kind = match finding.state {
                FindingState::Opened => Happening::FindingOpened,
                FindingState::Closed => Happening::FindingClosed,
                FindingState::Updated => return None,
            };
            let text = match finding.state {
                FindingState::Closed => format!("{} no longer holds", finding.kind),
                _ => format!("{} ({}): {}", finding.kind, finding.confidence, plain(&finding.text)),
            };
            let first = finding.workers.first().map(FindingWorker::identity);
            (kind, finding.session.clone(), first, text)
        }
        Body::Action(action) if action.phase == Phase::After => {
            (Happening::Action, None, action.worker, plain(&action.detail).into_owned())
        }
        Body::Gap(gap) => {
            let whose = gap.uid.map(|uid| format!(" of user {uid}")).unwrap_or_default();
            let what = if gap.reason.is_quota() { "left out" } else { "not seen" };
            let text = format!("{}{whose} {what}: {}", lost(gap.lost), gap.reason.name());
            (Happening::Gap, None, None, text)
        }
        _ => return None,
    })
}
