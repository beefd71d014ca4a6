//! `reaper-stopped`: slashtrace's own circuit breaker opened.
//!
//! Holds from the action that says so to the one that says that it closed: more workers of one user
//! were to be ended at once than the budget allows, and nobody of that user is ended any more. It is
//! about slashtrace, and names no worker: what was to be ended stands in the findings that it is
//! because of.
//!
//! Proven: slashtrace knows it of itself.

use super::{Judgement, Verdict};
use crate::{engine::ledger::Renewal, model::Confidence, roster::Roster};

pub(super) fn judge(uid: Option<u32>, roster: &Roster) -> Judgement {
    let verdict = roster.reaper_stopped(uid).map(|(seq, detail)| Verdict {
        confidence: Confidence::Proven,
        gateway: None,
        session: None,
        workers: Vec::new(),
        processes: Vec::new(),
        terminal: None,
        forecast: None,
        because: vec![*seq],
        text: format!("the reaper stopped: {detail}"),
        renewal: Renewal::Members,
    });
    Judgement::new(verdict, None)
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S};
    use crate::model::{Action, Body, FindingState, Kind, Phase, Step};

    fn action(step: Step) -> Body {
        action_of(step, None)
    }

    fn action_of(step: Step, uid: Option<u32>) -> Body {
        Body::Action(Box::new(Action {
            worker: None,
            uid,
            step,
            phase: Phase::After,
            finding: None,
            kind: None,
            confidence: None,
            because: vec![1],
            outcome: None,
            took_ms: None,
            descendants: Vec::new(),
            detail: "500 workers at once".to_owned(),
        }))
    }

    #[test]
    fn holds_once_the_breaker_opened() {
        let mut history = History::new();
        history.spawn(101, 100, K).tell(action(Step::Stop)).after(60 * S);
        let finding = history.found(Kind::ReaperStopped);
        assert_eq!(finding.text, "the reaper stopped: 500 workers at once");
        assert_eq!((finding.id.as_str(), &finding.because[..]), ("reaper-stopped", &[2][..]));
        assert!(finding.workers.is_empty());
        assert_eq!(history.states(Kind::ReaperStopped).len(), 1, "said once");
    }

    #[test]
    fn each_user_has_one_until_it_closes() {
        let mut history = History::new();
        history.tell(action_of(Step::Stop, Some(1))).tell(action_of(Step::Stop, Some(2)));
        let ids: Vec<&str> = history.findings().iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids, ["reaper-stopped/1", "reaper-stopped/2"]);
        history.tell(action_of(Step::Resume, Some(1)));
        assert_eq!(history.last(Kind::ReaperStopped).id, "reaper-stopped/1");
        assert_eq!(history.last(Kind::ReaperStopped).state, FindingState::Closed);
        history.tell(action_of(Step::Stop, Some(1))).after(S);
        assert_eq!(history.states(Kind::ReaperStopped).len(), 4, "opened again");
    }

    #[test]
    fn its_other_steps_are_no_finding() {
        let mut history = History::new();
        history.spawn(101, 100, K).tell(action(Step::WouldEnd)).tell(action(Step::Kill));
        assert!(history.silent());
    }
}
