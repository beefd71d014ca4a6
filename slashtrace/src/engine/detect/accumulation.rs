//! `accumulation`: surplus workers of a gateway grow.
//!
//! The surplus of a gateway is its live workers past the overlap grace, less one for each session
//! that has any. Holds when the surplus is four or more and has grown by four or more within the
//! accumulation window; closes when it is less, or has not grown within the window. The surplus is
//! looked at at sixty points of the window, and what was there when the gateway was first seen is
//! no growth. One worker a session is never a surplus, however many sessions there are.
//!
//! The forecast goes on at the rate of the window: the growth over the part of the window that was
//! watched (at least a sixth of it, so that a burst is not drawn out to a trend), times what those
//! workers hold in memory on average. Updated when the surplus changed by a quarter, or when it
//! becomes known when memory runs out.

use super::{Holds, Judgement, Verdict, count, size, time};
use crate::{
    engine::{
        growth::LAG,
        ledger::{Renewal, Said},
        surplus::{Surplus, Surpluses},
    },
    model::{Forecast, Identity, Memory},
    roster::{Roster, Rules, Worker},
};

pub(super) const LEAST: u64 = 4;
const HOUR: u64 = 3_600_000_000_000;

pub(super) fn judge(
    roster: &Roster,
    surpluses: &Surpluses,
    id: Identity,
    said: Option<Said>,
) -> Judgement {
    let Some(gateway) = surpluses.of(id) else { return Judgement::default() };
    let surplus = gateway.workers;
    if said.is_some() {
        if surplus < LEAST || gateway.growth.grown(surplus) == 0 {
            return Judgement::default();
        }
    } else {
        // What holds for a moment only because records came out of order is not opened.
        let Some(since) = gateway.growth.over_since() else { return Judgement::default() };
        let due = since.saturating_add(LAG);
        if due > roster.now {
            return Judgement::new(None, Some(due));
        }
    }
    let below = gateway.growth.last_below(surplus);
    let stops = below.map(|at| at.saturating_add(roster.rules.accumulation).saturating_add(1));
    // Many workers are looked at only when there may be something to say.
    let renewed = said.is_none_or(|said| {
        said.renewal.differs(Renewal::Size(surplus))
            || (!said.runs_out && roster.memory().is_some())
    });
    let holds = if renewed {
        Holds::Yes(Box::new(verdict(roster, surpluses, id, gateway)))
    } else {
        Holds::AsSaid
    };
    Judgement { holds, deadline: stops }
}

fn verdict(roster: &Roster, surpluses: &Surpluses, id: Identity, gateway: &Surplus) -> Verdict {
    let workers = surplus_groups(roster, surpluses, id);
    let grown = gateway.growth.grown(gateway.workers);
    let watched = gateway.growth.first_point().map_or(0, |at| roster.now.saturating_sub(at));
    let forecast = forecast(
        grown,
        watched,
        &workers,
        roster.memory().map(|(memory, _)| memory),
        &roster.rules,
    );
    let name = workers
        .first()
        .and_then(|worker| worker.gateway.as_ref())
        .map_or("", |link| link.process.comm.as_str());
    let ends = forecast.exhausted_in_s.map_or_else(String::new, |seconds| {
        format!(
            "; at this rate memory is used up in {}",
            time(seconds.saturating_mul(HOUR / 3_600))
        )
    });
    let rss: u64 =
        workers.iter().filter_map(|worker| worker.rss_kib()).fold(0, u64::saturating_add);
    let held = if rss == 0 { String::new() } else { format!(", {} in all", size(rss)) };
    let text = format!(
        "gateway {name}({}) has {} where {} would do{held}: {grown} more than before within {}{ends}",
        id.pid,
        count(workers.len(), "live worker"),
        (workers.len() as u64).saturating_sub(gateway.workers),
        time(watched.max(LAG)),
    );
    let mut verdict = Verdict::about(&workers, text).because(roster.memory().map(|(_, seq)| seq));
    verdict.forecast = Some(forecast);
    verdict.renewal = Renewal::Size(gateway.workers);
    verdict
}

/// The workers past the grace of all groups that have more than one, oldest first.
fn surplus_groups<'a>(roster: &'a Roster, surpluses: &Surpluses, id: Identity) -> Vec<&'a Worker> {
    let live = roster.gateway(id).into_iter().flat_map(|gateway| &gateway.live);
    let mut workers: Vec<&Worker> = live
        .filter_map(|id| roster.worker(*id))
        .filter(|worker| worker.matures_at(&roster.rules) <= roster.now)
        .filter(|worker| worker.key().is_some_and(|key| surpluses.of_group(&key) > 0))
        .collect();
    workers.sort_by_key(|worker| (worker.birth.at, worker.id));
    workers
}

fn forecast(
    grown: u64,
    watched: u64,
    workers: &[&Worker],
    memory: Option<Memory>,
    rules: &Rules,
) -> Forecast {
    let over = watched.max(rules.accumulation / 6).max(LAG);
    let per_hour = u128::from(grown) * u128::from(HOUR) / u128::from(over);
    let sampled: Vec<u128> =
        workers.iter().filter_map(|worker| worker.rss_kib()).map(u128::from).collect();
    let mean = sampled.iter().sum::<u128>() / (sampled.len() as u128).max(1);
    // From the product, not from the rounded workers an hour: slow growth is growth too.
    let kib_per_hour = u128::from(grown)
        .saturating_mul(u128::from(HOUR))
        .saturating_mul(mean)
        .checked_div(u128::from(over))
        .unwrap_or(0);
    let exhausted = memory
        .filter(|_| kib_per_hour > 0)
        .map(|memory| u128::from(memory.available_kib) * 3_600 / kib_per_hour);
    let narrow = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    Forecast {
        workers_per_hour: narrow(per_hour),
        kib_per_hour: narrow(kib_per_hour),
        exhausted_in_s: exhausted.map(narrow),
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::testing::scenario::{History, K, S};
    use crate::model::{Confidence, FindingState, Kind};

    const MIN: u64 = 60 * S;

    /// One more worker of a session every five minutes, 96 MiB each.
    fn piling_up(workers: u32) -> History {
        let mut history = History::new();
        for pid in 101..101 + workers {
            history.spawn(pid, 100, K).after(S).rss(pid, 96 << 10).after(5 * MIN);
        }
        history
    }

    #[test]
    fn holds_when_the_surplus_grows_and_says_when_memory_runs_out() {
        let mut history = piling_up(1);
        history.tick_with_memory(960 << 10);
        for pid in 201..205 {
            history.spawn(pid, 100, K).after(S).rss(pid, 96 << 10).after(10 * MIN);
        }
        let finding = history.open(Kind::Accumulation).expect("open");
        assert_eq!(finding.confidence, Confidence::Proven);
        assert_eq!(finding.workers.len(), 5, "{}", finding.text);
        let forecast = finding.forecast.expect("forecast");
        // 4 workers in 35 minutes.
        assert_eq!(forecast.workers_per_hour, 6);
        assert!((650..660).contains(&(forecast.kib_per_hour >> 10)), "{forecast:?}");
        assert_eq!(forecast.exhausted_in_s, Some(960 * 1024 * 3_600 / forecast.kib_per_hour));
        assert!(finding.text.contains("memory is used up in 87 min"), "{}", finding.text);
        assert_eq!(finding.session.as_deref(), Some("K"));
    }

    #[test]
    fn three_more_are_too_few() {
        assert!(!piling_up(4).ever(Kind::Accumulation));
        assert!(piling_up(5).ever(Kind::Accumulation));
    }

    #[test]
    fn many_sessions_with_one_worker_each_are_none() {
        let mut history = History::new();
        for pid in 101..201 {
            history.spawn(pid, 100, &pid.to_string()).after(MIN);
        }
        assert!(history.silent());
    }

    #[test]
    fn pairs_of_many_sessions_add_up() {
        let mut history = History::new();
        for pid in 101..109 {
            history.spawn(pid, 100, &(pid / 2).to_string()).after(MIN);
        }
        let finding = history.open(Kind::Accumulation);
        assert!(finding.is_none(), "sessions 51 to 53 have a pair each: a surplus of three");
        history.spawn(110, 100, "50").after(MIN);
        let finding = history.open(Kind::Accumulation).expect("four");
        assert_eq!((finding.workers.len(), &finding.session), (8, &None));
    }

    #[test]
    fn slow_growth_beyond_the_window_is_none() {
        let mut history = History::new();
        for pid in 101..121 {
            history.spawn(pid, 100, K).after(21 * MIN);
        }
        assert!(!history.ever(Kind::Accumulation));
    }

    #[test]
    fn a_steady_surplus_that_is_replaced_does_not_grow() {
        let mut history = History::new().starting_at(100_000 * S);
        for pid in 101..111 {
            history.inherited(pid, 100, K, u64::from(pid) * S);
        }
        for pid in 111..171 {
            history.after(5 * MIN).exit(pid - 10).spawn(pid, 100, K);
        }
        assert!(!history.ever(Kind::Accumulation));
    }

    #[test]
    fn what_was_there_at_the_start_is_no_growth() {
        let mut history = History::new().starting_at(100_000 * S);
        for pid in 101..121 {
            history.inherited(pid, 100, K, 90_000 * S + u64::from(pid));
        }
        history.after(7_200 * S);
        assert!(!history.ever(Kind::Accumulation));
    }

    #[test]
    fn closes_when_it_no_longer_grows_or_is_gone() {
        let mut history = piling_up(8);
        assert!(history.open(Kind::Accumulation).is_some());
        history.after(61 * MIN);
        assert!(history.open(Kind::Accumulation).is_none(), "no growth within the last hour");

        let mut history = piling_up(8);
        for pid in 101..105 {
            history.exit(pid);
        }
        assert_eq!(history.last(Kind::Accumulation).state, FindingState::Closed);
    }

    #[test]
    fn it_is_said_once_more_when_memory_becomes_known() {
        let mut history = piling_up(5);
        let said = history.states(Kind::Accumulation).len();
        assert_eq!(history.found(Kind::Accumulation).forecast.expect("one").exhausted_in_s, None);
        history.tick_with_memory(1 << 20);
        let forecast = history.found(Kind::Accumulation).forecast.expect("one");
        assert!(forecast.exhausted_in_s.is_some());
        history.tick_with_memory(2 << 20).spawn(201, 100, "other").after(60 * S);
        assert_eq!(history.states(Kind::Accumulation).len(), said + 1);
    }

    #[test]
    fn it_is_said_again_only_when_it_changed_by_a_quarter() {
        let history = piling_up(40);
        let said = history.states(Kind::Accumulation).len();
        assert!((5..15).contains(&said), "{said}");
    }
}
