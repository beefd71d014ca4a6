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
        rules::Rules,
        table::{Gateway, Table},
        worker::Worker,
    },
    model::{Forecast, Identity, Memory},
};

const LEAST: u64 = 4;
const HOUR: u64 = 3_600_000_000_000;

/// Brings what is known of a gateway's growth up to now.
pub(in crate::engine) fn watch(table: &mut Table, id: Identity) {
    let now = table.now;
    let Some(gateway) = table.gateways.get_mut(&id) else { return };
    let due = gateway.growth.due(now, &table.rules);
    for at in due {
        let surplus = table.surplus_at(id, at);
        if let Some(gateway) = table.gateways.get_mut(&id) {
            gateway.growth.note(at, surplus);
        }
    }
    if let Some(gateway) = table.gateways.get_mut(&id) {
        gateway.growth.settle(now, gateway.surplus, LEAST, &table.rules);
    }
}

pub(super) fn judge(table: &Table, id: Identity, said: Option<Said>) -> Judgement {
    let Some(gateway) = table.gateways.get(&id) else { return Judgement::default() };
    let surplus = gateway.surplus;
    if said.is_some() {
        if surplus < LEAST || gateway.growth.grown(surplus) == 0 {
            return Judgement::default();
        }
    } else {
        // What holds for a moment only because records came out of order is not opened.
        let Some(since) = gateway.growth.over_since() else { return Judgement::default() };
        let due = since.saturating_add(LAG);
        if due > table.now {
            return Judgement::new(None, Some(due));
        }
    }
    let below = gateway.growth.last_below(surplus);
    let stops = below.map(|at| at.saturating_add(table.rules.accumulation).saturating_add(1));
    // Many workers are looked at only when there may be something to say.
    let renewed = said.is_none_or(|said| {
        said.renewal.differs(Renewal::Size(surplus)) || (!said.runs_out && table.memory.is_some())
    });
    let holds =
        if renewed { Holds::Yes(Box::new(verdict(table, id, gateway))) } else { Holds::AsSaid };
    Judgement { holds, deadline: stops }
}

fn verdict(table: &Table, id: Identity, gateway: &Gateway) -> Verdict {
    let workers = surplus_groups(table, gateway);
    let grown = gateway.growth.grown(gateway.surplus);
    let watched = gateway.growth.first_point().map_or(0, |at| table.now.saturating_sub(at));
    let forecast =
        forecast(grown, watched, &workers, table.memory.map(|(memory, _)| memory), &table.rules);
    let name = workers
        .first()
        .and_then(|worker| worker.link.as_ref())
        .map_or("", |link| link.gateway.comm.as_str());
    let ends = forecast.exhausted_in_s.map_or_else(String::new, |seconds| {
        format!(
            "; at this rate memory is used up in {}",
            time(seconds.saturating_mul(HOUR / 3_600))
        )
    });
    let rss: u64 = workers.iter().filter_map(|worker| worker.rss_kib).fold(0, u64::saturating_add);
    let held = if rss == 0 { String::new() } else { format!(", {} in all", size(rss)) };
    let text = format!(
        "gateway {name}({}) has {} where {} would do{held}: {grown} more than before within {}{ends}",
        id.pid,
        count(workers.len(), "live worker"),
        (workers.len() as u64).saturating_sub(gateway.surplus),
        time(watched.max(LAG)),
    );
    let mut verdict = Verdict::about(&workers, text).because(table.memory.map(|(_, seq)| seq));
    verdict.forecast = Some(forecast);
    verdict.renewal = Renewal::Size(gateway.surplus);
    verdict
}

/// The workers past the grace of all groups that have more than one, oldest first.
fn surplus_groups<'a>(table: &'a Table, gateway: &Gateway) -> Vec<&'a Worker> {
    let mut workers: Vec<&Worker> = gateway
        .workers
        .iter()
        .filter_map(|id| table.workers.get(id))
        .filter(|worker| worker.is_live() && worker.matures_at(&table.rules) <= table.now)
        .filter(|worker| {
            let group = worker.key().and_then(|key| table.groups.get(&key));
            group.is_some_and(|group| group.surplus > 0)
        })
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
        workers.iter().filter_map(|worker| worker.rss_kib).map(u128::from).collect();
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
