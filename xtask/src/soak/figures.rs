//! What is asked of the samples: which figures there are, how much each may grow, and whether it does.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    sample::Sample,
    trend::{Trend, trend},
};
use crate::bench::table::number;

/// How much the resident set may grow, KiB an hour.
const RSS_BOUND: f64 = 1_024.0;
/// How much the evidence of one life may grow in an hour, of its own size: later records have more
/// digits in their numbers.
const EVIDENCE_BOUND: f64 = 0.05;

/// A figure over time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Seconds since the load began, and the figure then.
    pub(crate) points: Vec<(f64, f64)>,
    bound: Bound,
}

/// How much a figure may grow in an hour.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bound {
    /// By so much.
    By(f64),
    /// By this part of itself.
    ByPart(f64),
    /// As it likes: it is shown to explain the others.
    Any,
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Verdict {
    NoTrend,
    Grows,
    Shrinks,
    /// It grows by more than it may.
    Beyond,
    /// There were too few samples to say.
    TooShort,
}

impl Verdict {
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::NoTrend => "no trend",
            Self::Grows => "grows, within its bound",
            Self::Shrinks => "shrinks",
            Self::Beyond => "GROWS",
            Self::TooShort => "too short to say",
        }
    }
}

/// A figure and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judged {
    pub(crate) series: Series,
    pub(crate) trend: Option<Trend>,
    pub(crate) verdict: Verdict,
}

/// Every figure, judged from `warm_up` (seconds) on. `period` is how long a round of the load takes.
pub(crate) fn judge(samples: &[Sample], warm_up: f64, period: f64) -> Vec<Judged> {
    series(samples)
        .into_iter()
        .map(|series| {
            let asked: Vec<_> =
                series.points.iter().copied().filter(|&(at, _)| at >= warm_up).collect();
            let trend = trend(&asked, period);
            let verdict = trend.map_or(Verdict::TooShort, |trend| series.bound.verdict(&trend));
            Judged { series, trend, verdict }
        })
        .collect()
}

impl Bound {
    fn per_hour(self, level: f64) -> Option<f64> {
        match self {
            Self::By(much) => Some(much),
            Self::ByPart(part) => Some(part * level),
            Self::Any => None,
        }
    }

    fn verdict(self, trend: &Trend) -> Verdict {
        let beyond = self.per_hour(trend.level).is_some_and(|most| trend.per_hour > most);
        match (trend.grows(), trend.shrinks()) {
            (true, _) if beyond => Verdict::Beyond,
            (true, _) => Verdict::Grows,
            (_, true) => Verdict::Shrinks,
            _ => Verdict::NoTrend,
        }
    }
}

fn series(samples: &[Sample]) -> Vec<Series> {
    let of = |name: &str, bound, value: fn(&Sample) -> f64| Series {
        name: name.to_owned(),
        points: samples.iter().map(|sample| (sample.at, value(sample))).collect(),
        bound,
    };
    let mut all = vec![
        of("RSS, KiB", Bound::By(RSS_BOUND), |sample| sample.rss_kib),
        of("anonymous memory, KiB", Bound::Any, |sample| sample.anonymous_kib),
        of("open descriptors", Bound::By(0.0), |sample| sample.descriptors),
        of("threads", Bound::By(0.0), |sample| sample.threads),
        Series {
            name: "CPU, ms per s".to_owned(),
            points: changes(samples, |sample| sample.at, |sample| sample.cpu_ms),
            bound: Bound::Any,
        },
        Series {
            name: "evidence, bytes per life".to_owned(),
            points: changes(&rounds(samples), |sample| sample.lives, |sample| sample.evidence),
            bound: Bound::ByPart(EVIDENCE_BOUND),
        },
    ];
    let maps = samples.iter().flat_map(|sample| &sample.maps);
    let mut names: Vec<_> = maps.map(|(name, fill)| (name, fill.most, fill.is_cache)).collect();
    names.sort();
    names.dedup();
    all.extend(names.into_iter().map(|(name, most, is_cache)| {
        let value = |sample: &Sample| Some((sample.at, sample.maps.get(name)?.entries as f64));
        let (what, bound) = if is_cache { ("cache", Bound::Any) } else { ("map", Bound::By(0.0)) };
        Series {
            name: format!("{what} {name}, of {}", number(most as f64)),
            points: samples.iter().filter_map(value).collect(),
            bound,
        }
    }));
    all
}

/// The samples with which a round of the load was over: from one to the next the same was done.
fn rounds(samples: &[Sample]) -> Vec<Sample> {
    samples
        .windows(2)
        .filter(|pair| pair[1].cycles > pair[0].cycles)
        .map(|p| p[1].clone())
        .collect()
}

/// The longest that no evidence was written although workers were spawned meanwhile, s: that long the
/// daemon judged nobody.
pub(crate) fn silence(samples: &[Sample]) -> f64 {
    let mut longest: f64 = 0.0;
    for still in samples.chunk_by(|one, next| one.evidence.total_cmp(&next.evidence).is_eq()) {
        let (Some(first), Some(last)) = (still.first(), still.last()) else { continue };
        if last.lives > first.lives {
            longest = longest.max(last.at - first.at);
        }
    }
    longest
}

/// From one sample to the next: how much `value` changed by what `by` did, in the middle.
fn changes(
    samples: &[Sample],
    by: fn(&Sample) -> f64,
    value: fn(&Sample) -> f64,
) -> Vec<(f64, f64)> {
    let change = |pair: &[Sample]| {
        let past = by(&pair[1]) - by(&pair[0]);
        let at = f64::midpoint(pair[0].at, pair[1].at);
        (past > 0.0).then(|| (at, (value(&pair[1]) - value(&pair[0])) / past))
    };
    samples.windows(2).filter_map(change).collect()
}

/// The figures as a table for a terminal.
pub(crate) fn table(figures: &[Judged]) -> String {
    let head = ["what", "level", "an hour", "99.9 % interval", "may grow by", ""];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(figures.iter().map(|figure| {
        let of = |show: &dyn Fn(&Trend) -> String| {
            figure.trend.as_ref().map_or_else(|| "-".to_owned(), show)
        };
        [
            figure.series.name.clone(),
            of(&|trend| number(trend.level)),
            of(&|trend| signed(trend.per_hour)),
            of(&|trend| format!("{} to {}", signed(trend.low), signed(trend.high))),
            of(&|trend| figure.series.bound.per_hour(trend.level).map_or("-".to_owned(), number)),
            figure.verdict.words().to_owned(),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..head.len()).filter_map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = format!("{:<1$}", row[0], widths[0]);
        for column in 1..5 {
            let _ = write!(line, "  {:>1$}", row[column], widths[column]);
        }
        let _ = write!(line, "  {}", row[5]);
        text += line.trim_end();
        text.push('\n');
    }
    text
}

pub(crate) fn signed(value: f64) -> String {
    let sign = if value > 0.0 {
        "+"
    } else if value < 0.0 {
        "-"
    } else {
        ""
    };
    format!("{sign}{}", number(value.abs()))
}

/// The figures as they are written to soak.json.
pub(crate) fn json(figures: &[Judged]) -> Value {
    let of = |figure: &Judged| {
        let trend = figure.trend.map(|trend| {
            json!({
                "level": trend.level,
                "per_hour": trend.per_hour,
                "low": trend.low,
                "high": trend.high,
                "confidence": 0.999,
                "blocks": trend.blocks,
                "may_grow_by": figure.series.bound.per_hour(trend.level),
            })
        });
        json!({ "what": figure.series.name, "trend": trend, "verdict": figure.verdict.words() })
    };
    figures.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::sample::Fill;

    /// Twenty minutes, a sample each 5 s, a round each 70 s with 30 lives; `change` is handed the
    /// seconds.
    pub(crate) fn samples(change: impl Fn(f64, &mut Sample)) -> Vec<Sample> {
        let sample = |n: u32| {
            let at = f64::from(n) * 5.0;
            let cycles = (at / 70.0).floor();
            let mut sample = Sample {
                at,
                rss_kib: 9_000.0 + (at % 70.0),
                descriptors: 37.0 + (at % 2.0),
                threads: 3.0,
                cpu_ms: at * 2.0,
                evidence: at * 1_000.0,
                lives: cycles * 30.0,
                cycles,
                ..Sample::default()
            };
            let map = |entries, is_cache| Fill { entries, most: 64, is_cache };
            sample.maps.insert("TRACKED".to_owned(), map(5, false));
            sample.maps.insert("RATES".to_owned(), map((at / 40.0) as u64, true));
            change(at, &mut sample);
            sample
        };
        (0..240).map(sample).collect()
    }

    fn verdict(figures: &[Judged], name: &str) -> Verdict {
        let of = |figure: &&Judged| figure.series.name.starts_with(name);
        figures.iter().find(of).expect("it is there").verdict
    }

    #[test]
    fn what_stays_as_it_is_has_no_trend_and_caches_may_fill_up() {
        let figures = judge(&samples(|_, _| {}), 400.0, 70.0);
        for name in ["RSS", "open", "threads", "CPU", "evidence", "map TRACKED"] {
            assert_eq!(verdict(&figures, name), Verdict::NoTrend, "{name}");
        }
        assert_eq!(verdict(&figures, "cache RATES"), Verdict::Grows);
        assert_eq!(figures.len(), 8);
    }

    #[test]
    fn what_grows_beyond_its_bound_is_named() {
        let figures = judge(
            &samples(|at, sample| {
                sample.rss_kib += at / 3_600.0 * 2_000.0;
                sample.descriptors += (at / 100.0).floor();
                sample.evidence += at * at;
                if let Some(fill) = sample.maps.get_mut("TRACKED") {
                    fill.entries += (at / 60.0) as u64;
                }
            }),
            400.0,
            70.0,
        );
        for name in ["RSS", "open", "evidence", "map TRACKED"] {
            assert_eq!(verdict(&figures, name), Verdict::Beyond, "{name}");
        }
        assert_eq!(verdict(&figures, "threads"), Verdict::NoTrend);
        let text = table(&figures);
        assert!(text.lines().next().is_some_and(|head| head.contains("99.9 % interval")), "{text}");
        assert!(text.contains("1,024  GROWS"), "{text}");
    }

    #[test]
    fn what_grows_only_before_the_warm_up_is_over_does_not_count() {
        let figures = judge(&samples(|at, s| s.rss_kib += at.min(400.0) * 10.0), 400.0, 70.0);
        assert_eq!(verdict(&figures, "RSS"), Verdict::NoTrend);
        let slow = judge(&samples(|at, s| s.rss_kib += at / 3_600.0 * 500.0), 400.0, 70.0);
        assert_eq!(verdict(&slow, "RSS"), Verdict::Grows);
        let short = judge(&samples(|_, _| {})[..100], 0.0, 70.0);
        assert_eq!(verdict(&short, "RSS"), Verdict::TooShort);
        assert!(table(&short).contains("too short to say"));
        assert_eq!(json(&short)[0]["trend"], Value::Null);
    }

    #[test]
    fn silence_counts_only_where_something_happened() {
        let all = samples(|_, _| {});
        assert!(silence(&all).abs() < 1e-9, "evidence grows with each sample");
        let stuck = |from: f64, to: f64| {
            let still = move |at: f64| if (from..to).contains(&at) { from } else { at };
            silence(&samples(|at, sample| sample.evidence = still(at)))
        };
        assert!((stuck(100.0, 300.0) - 195.0).abs() < 1e-9);
        assert!(stuck(145.0, 175.0).abs() < 1e-9, "nobody was spawned");
    }

    #[test]
    fn signs_are_shown() {
        assert_eq!([0.0, 1.25, -1.25].map(signed), ["0", "+1.25", "-1.25"]);
    }
}
