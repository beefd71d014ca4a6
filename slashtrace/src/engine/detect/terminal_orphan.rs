//! `terminal-orphan`: a worker that outlives the terminal of its session.
//!
//! Holds for a live worker whose terminal (its controlling terminal, opened by a gateway above it;
//! else one that its gateway opened and whose process names its session, or was started to; else the
//! one that its session is joined to (`roster::join`); else the only one that its gateway opened
//! shortly before; else its controlling terminal, whoever opened it) closed longer than the terminal
//! grace ago, while it was asked nothing since and has been quiet for the grace, with all that
//! descends from it. A terminal that is kept open for re-attach is not closed. Another
//! open one that shows the same session withdraws the finding, as does a connection of its own or
//! somebody else than its gateway who holds its stdin.
//!
//! Proven if the kernel saw the spawn on that terminal and told of its close. Weak where no gateway is
//! known to have opened it: then it may be a shell's, and the gateway was meant to outlive it.

use super::{Judgement, Verdict, time};
use crate::{
    model::{Confidence, Identity, Source},
    roster::Roster,
};

pub(super) fn judge(roster: &Roster, id: Identity) -> Judgement {
    let worker = roster.worker(id).filter(|worker| worker.is_live() && worker.counts());
    let Some(worker) = worker else { return Judgement::default() };
    let Some(found) = roster.terminal_of(worker) else { return Judgement::default() };
    let Some(closed) = found.terminal.closed else { return Judgement::default() };
    let rules = &roster.rules;
    let active = worker.activity.newest_rise().is_some_and(|rise| rise.from >= closed.at);
    if active || roster.is_shown(worker) || worker.used_directly(rules).is_some() {
        return Judgement::default();
    }
    let due = worker.quiet_at(closed.at.max(worker.birth.at), rules.terminal, rules);
    if due > roster.now {
        return Judgement::new(None, Some(due));
    }
    let session = worker.session.as_ref().map_or(String::new(), |key| format!(" of session {key}"));
    let text = format!(
        "terminal pts/{}{session} closed; worker {} outlived it by {} or longer ({})",
        found.terminal.place().index,
        id.pid,
        time(roster.rules.terminal),
        found.join.words(),
    );
    let told = matches!(closed.source, Source::Kernel | Source::Inotify);
    let close = if told { Confidence::Proven } else { Confidence::Strong };
    let mut verdict = Verdict::about(&[worker], text)
        .unused()
        .because([found.terminal.opened, closed.seq])
        .because(found.seqs.into_iter().flatten());
    verdict.terminal = Some(found.terminal.place());
    // That it was on this terminal does not rest on who forked it.
    verdict.confidence = found.join.confidence(worker).min(close);
    Judgement::new(Some(verdict), None)
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S, pids};
    use crate::model::{Confidence, Kind, Terminal};

    const PLACE: Terminal = Terminal { instance: Some(7), index: 3 };

    fn on_its_terminal() -> History {
        let mut history = History::new();
        history.open_terminal(3, 100, None).after(S).spawn_with(101, 100, |spawn| {
            spawn.session = Some(K.to_owned());
            spawn.terminal = Some(PLACE);
        });
        history.after(S);
        history
    }

    #[test]
    fn holds_for_a_worker_that_outlives_its_controlling_terminal() {
        let mut history = on_its_terminal();
        history.close_terminal(3).after(30 * S - 1);
        assert!(history.silent());
        history.after(1);
        let finding = history.found(Kind::TerminalOrphan);
        assert_eq!((pids(finding), finding.confidence), (vec![101], Confidence::Proven));
        assert!(finding.workers[0].unused);
        assert_eq!(finding.terminal, Some(PLACE));
        assert_eq!(
            finding.text,
            "terminal pts/3 of session K closed; worker 101 outlived it by 30 s or longer \
             (controlling terminal)"
        );
        history.exit(101);
        assert!(history.open(Kind::TerminalOrphan).is_none());
    }

    /// hermes-agent 0.13: the gateway lives below the leader of a terminal that the dashboard opened.
    #[test]
    fn a_terminal_that_was_opened_above_the_gateway_is_the_workers_own() {
        for (opener, confidence) in [(50, Confidence::Proven), (51, Confidence::Weak)] {
            let mut history = History::new();
            let opener = history.process(opener);
            history.open_terminal(3, 50, None).after(S).spawn_with(101, 100, |spawn| {
                spawn.terminal = Some(PLACE);
                spawn.opener = Some(opener);
            });
            history.after(S).close_terminal(3).after(30 * S);
            assert_eq!(history.found(Kind::TerminalOrphan).confidence, confidence);
        }
    }

    /// A sandbox keeps the terminal that it was started from, and has its own of the same index.
    #[test]
    fn an_index_alone_is_not_the_gateways_own_terminal() {
        let mut history = History::new();
        history.open_terminal(3, 100, None).after(S).spawn_with(101, 100, |spawn| {
            spawn.terminal = Some(Terminal { instance: None, ..PLACE });
        });
        history.after(S).close_terminal(3).after(30 * S);
        assert_eq!(history.found(Kind::TerminalOrphan).confidence, Confidence::Weak);
    }

    #[test]
    fn a_session_file_counts_where_the_opener_holds_the_terminal() {
        let mut history = History::new();
        let opener = history.process(50);
        history.open_terminal(3, 50, Some(K)).after(60 * S).spawn_with(101, 100, |spawn| {
            spawn.session = Some(K.to_owned());
            spawn.opener = Some(opener);
        });
        history.after(S).close_terminal(3).after(30 * S);
        assert_eq!(history.found(Kind::TerminalOrphan).confidence, Confidence::Strong);
    }

    #[test]
    fn what_another_user_s_terminal_shows_withdraws_nothing() {
        for (owner, shows, worker) in
            [(1_000, false, 0), (0, true, 0), (1_000, true, 1_000), (0, true, 1_000)]
        {
            let mut history = History::new();
            history.open_terminal(3, 100, None).after(S).spawn_with(101, 100, |spawn| {
                spawn.session = Some(K.to_owned());
                spawn.terminal = Some(PLACE);
                spawn.uid = worker;
            });
            history.after(S).close_terminal(3).after(30 * S);
            assert!(history.open(Kind::TerminalOrphan).is_some());
            history.open_terminal_of_user(4, 90, owner, K).after(S);
            let open = history.open(Kind::TerminalOrphan).is_some();
            assert_eq!(open, !shows, "terminal of {owner}, worker of {worker}");
        }
    }

    #[test]
    fn another_user_s_terminal_that_names_a_session_proves_nothing() {
        for (owner, confidence) in [(1_000, None), (2_000, Some(Confidence::Strong))] {
            let mut history = History::new();
            let opener = history.process(50);
            history.open_terminal_of_user(3, 50, owner, K).after(60 * S);
            history.spawn_with(101, 100, |spawn| {
                spawn.session = Some(K.to_owned());
                spawn.opener = Some(opener);
                spawn.uid = 2_000;
            });
            history.after(S).close_terminal(3).after(30 * S);
            let found = history.open(Kind::TerminalOrphan).map(|finding| finding.confidence);
            assert_eq!(found, confidence, "of {owner}");
        }
    }

    /// A scan and the kernel may both tell of one worker, each with what it could find out.
    #[test]
    fn who_opened_the_terminal_is_kept_when_a_spawn_is_told_again() {
        for first_knows in [true, false] {
            let mut history = History::new();
            let opener = history.process(50);
            history.open_terminal(3, 50, None).after(S);
            for told in [first_knows, !first_knows] {
                let opener = opener.clone();
                history.spawn_with(101, 100, |spawn| {
                    spawn.inherited = told == first_knows;
                    spawn.terminal = told.then_some(PLACE);
                    spawn.opener = told.then_some(opener);
                });
            }
            history.after(S).close_terminal(3).after(30 * S);
            let found = history.found(Kind::TerminalOrphan);
            assert_eq!(found.confidence, Confidence::Proven, "{first_knows}");
        }
    }

    #[test]
    fn one_that_ends_within_the_grace_or_whose_terminal_stays_open_is_none() {
        let mut history = on_its_terminal();
        history.after(600 * S);
        assert!(history.silent());
        history.close_terminal(3).after(29 * S).exit(101).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_terminal_of_the_same_session_withdraws_it() {
        let mut history = on_its_terminal();
        history.close_terminal(3).after(30 * S);
        history.found(Kind::TerminalOrphan);
        history.open_terminal(4, 100, Some(K));
        assert!(history.open(Kind::TerminalOrphan).is_none());
    }

    #[test]
    fn a_call_after_the_close_withdraws_it() {
        let mut history = on_its_terminal();
        history.reads(101, 1).close_terminal(3).after(10 * S).reads(101, 2).after(60 * S);
        assert!(history.open(Kind::TerminalOrphan).is_none());
    }

    #[test]
    fn a_session_file_is_strong_and_a_window_is_weak() {
        let mut history = History::new();
        history.open_terminal(3, 100, Some(K)).after(60 * S).spawn(101, 100, K).after(S);
        history.close_terminal(3).after(30 * S);
        assert_eq!(history.found(Kind::TerminalOrphan).confidence, Confidence::Strong);

        let mut history = History::new();
        history.open_terminal(3, 100, None).after(29 * S).spawn(101, 100, K).after(S);
        history.close_terminal(3).after(30 * S);
        assert_eq!(history.found(Kind::TerminalOrphan).confidence, Confidence::Weak);
    }

    #[test]
    fn two_terminals_in_the_window_or_another_gateways_are_none() {
        let mut history = History::new();
        history.open_terminal(3, 100, None).open_terminal(4, 100, None).open_terminal(5, 200, None);
        history.after(S).spawn(101, 100, K).after(S);
        history.close_terminal(3).close_terminal(4).close_terminal(5).after(60 * S);
        assert!(history.silent());
    }

    #[test]
    fn a_reused_index_is_another_terminal() {
        let mut history = on_its_terminal();
        history.close_terminal(3).after(S).open_terminal(3, 100, None).after(30 * S);
        assert_eq!(pids(history.found(Kind::TerminalOrphan)), [101]);
    }

    /// `nohup` and a log-out: who started a gateway in a shell closes that shell's terminal, and the
    /// gateway goes on serving its sessions.
    #[test]
    fn a_terminal_that_no_gateway_opened_is_weak() {
        let mut history = History::new();
        history.open_terminal_of_others(3).after(S).spawn_with(101, 100, |spawn| {
            spawn.terminal = Some(PLACE);
        });
        history.after(S).close_terminal(3).after(30 * S);
        assert_eq!(history.found(Kind::TerminalOrphan).confidence, Confidence::Weak);

        // Where the gateway opened one for the session, it is that one that counts.
        let mut history = History::new();
        history.open_terminal_of_others(3).open_terminal(4, 100, Some(K)).after(S);
        history.spawn_with(101, 100, |spawn| spawn.terminal = Some(PLACE)).after(S);
        history.close_terminal(3).after(60 * S);
        assert!(history.silent(), "{:?}", history.findings());
        history.close_terminal(4).after(30 * S);
        assert_eq!(history.found(Kind::TerminalOrphan).confidence, Confidence::Strong);
    }

    /// Another user's process can be adopted by a gateway that is the first process of a container,
    /// and its argv can name any session.
    #[test]
    fn another_users_worker_narrows_no_choice_of_terminals() {
        for uid in [1_000, 65_534] {
            let mut history = History::new();
            history.open_terminal(3, 100, None).after(S / 2);
            history.spawn_with(666, 100, |spawn| {
                spawn.session = Some("other".to_owned());
                spawn.uid = uid;
            });
            history
                .after(S / 4)
                .open_terminal(4, 100, None)
                .after(S / 2)
                .spawn(101, 100, K)
                .after(S);
            history.close_terminal(4).after(60 * S);
            assert_eq!(history.ever(Kind::TerminalOrphan), uid == 1_000, "{uid}");
        }
    }
}
