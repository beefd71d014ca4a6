//! Whether a figure grows: a slope that outliers do not move, with the interval it lies in.

use crate::bench::table::Figure;

/// A straight line through a figure over time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Trend {
    /// Change an hour, in the figure's unit: Theil and Sen's median of the slopes between each two
    /// blocks.
    pub(crate) per_hour: f64,
    /// The interval in which it lies with 99.9 % confidence (Sen 1968).
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// The figure's median over all blocks.
    pub(crate) level: f64,
    /// How many blocks of time were compared.
    pub(crate) blocks: usize,
}

/// Both ends of the standard normal distribution beyond which 0.1 % lies. A soak asks about some
/// fifteen figures, and is not to raise a false alarm every few runs.
const Z: f64 = 3.29;
/// Fewer blocks cannot show that much confidence, so there must have been so many rounds of the load.
const BLOCKS_MIN: usize = 8;
const BLOCKS_MAX: usize = 30;
const HOUR_S: f64 = 3_600.0;

impl Trend {
    /// Whether the figure grows beyond doubt.
    pub(crate) fn grows(&self) -> bool {
        self.low > 0.0 && self.per_hour > 0.0
    }

    /// Whether it becomes smaller beyond doubt.
    pub(crate) fn shrinks(&self) -> bool {
        self.high < 0.0 && self.per_hour < 0.0
    }
}

/// The trend of points (seconds, figure) in the order of time; `None` if there are too few.
///
/// Points close to each other depend on each other (what is held now is held a second later), which
/// would make any drift look certain. So the medians of blocks are compared, and a block is no
/// shorter than `period` (seconds), the time after which the load repeats itself; 0 where it has not.
pub(crate) fn trend(points: &[(f64, f64)], period: f64) -> Option<Trend> {
    let blocks = blocks(points, period);
    let n = blocks.len();
    if n < BLOCKS_MIN {
        return None;
    }
    let mut slopes = Vec::with_capacity(n * (n - 1) / 2);
    for (at, &(earlier, before)) in blocks.iter().enumerate() {
        slopes.extend(blocks[at + 1..].iter().map(|&(t, v)| (v - before) / (t - earlier)));
    }
    slopes.sort_by(f64::total_cmp);
    let values: Vec<f64> = blocks.iter().map(|block| block.1).collect();
    let spread = Z * kendall_variance(&values).sqrt();
    let count = slopes.len() as f64;
    let ends = [(count - spread).max(0.0) / 2.0 - 1.0, f64::midpoint(count, spread)];
    let nth = |rank: f64| slopes[(rank.max(0.0) as usize).min(slopes.len() - 1)];
    Some(Trend {
        per_hour: Figure(slopes.clone()).median() * HOUR_S,
        low: nth(ends[0].floor()) * HOUR_S,
        high: nth(ends[1].ceil()) * HOUR_S,
        level: Figure(values).median(),
        blocks: n,
    })
}

/// Medians of equally long pieces of time; one without a point is left out.
fn blocks(points: &[(f64, f64)], period: f64) -> Vec<(f64, f64)> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let span = last.0 - first.0;
    let fitting = if period > 0.0 { (span / period).round() as usize } else { 0 };
    if fitting < BLOCKS_MIN {
        return Vec::new();
    }
    let count = fitting.min(BLOCKS_MAX);
    let mut pieces = vec![(Vec::new(), Vec::new()); count];
    for &(at, value) in points {
        let piece = ((at - first.0) / span * count as f64) as usize;
        let (times, values) = &mut pieces[piece.min(count - 1)];
        times.push(at);
        values.push(value);
    }
    let filled = pieces.into_iter().filter(|(times, _)| !times.is_empty());
    filled.map(|(times, values)| (Figure(times).median(), Figure(values).median())).collect()
}

/// Variance of Kendall's S for these values if they had no trend, corrected for equal ones (Kendall
/// 1975, Rank Correlation Methods).
fn kendall_variance(values: &[f64]) -> f64 {
    let of = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let ties: f64 =
        sorted.chunk_by(|a, b| a.total_cmp(b).is_eq()).map(|equal| of(equal.len() as f64)).sum();
    (of(values.len() as f64) - ties) / 18.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pseudo-random numbers from -1 to 1, the same each time.
    fn noise(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        }
    }

    /// Forty minutes, a sample each 5 s.
    fn points(mut value: impl FnMut(f64) -> f64) -> Vec<(f64, f64)> {
        (0..480).map(|n| f64::from(n) * 5.0).map(|at| (at, value(at))).collect()
    }

    #[test]
    fn a_leak_is_found_under_noise_and_its_rate_is_in_the_interval() {
        let mut noise = noise(1);
        // 2,048 an hour under noise of ±150, a saw-tooth of 300 that repeats every 70 s, and rare spikes.
        let trend = trend(
            &points(|at| {
                let spike = if (at as u64).is_multiple_of(600) { 50_000.0 } else { 0.0 };
                9_000.0
                    + at / 3_600.0 * 2_048.0
                    + 150.0 * noise()
                    + 300.0 * (at % 70.0) / 70.0
                    + spike
            }),
            70.0,
        )
        .expect("enough");
        assert!(trend.grows() && trend.low < 2_048.0 && trend.high > 2_048.0, "{trend:?}");
        assert!((trend.per_hour - 2_048.0).abs() < 300.0, "{trend:?}");
    }

    #[test]
    fn noise_is_no_trend() {
        let mut alarms = 0;
        for seed in 1..=300 {
            let mut noise = noise(seed);
            let found = trend(&points(|_| 9_000.0 + 400.0 * noise()), 70.0).expect("enough");
            assert!(found.low <= found.per_hour && found.per_hour <= found.high, "{found:?}");
            alarms += u32::from(found.grows()) + u32::from(found.shrinks());
        }
        // 0.1 % are expected.
        assert!(alarms <= 3, "{alarms} of 300");
    }

    #[test]
    fn a_step_in_the_warm_up_is_not_asked_about_and_one_for_good_shows() {
        let constant = trend(&points(|_| 37.0), 70.0).expect("enough");
        assert_eq!((constant.per_hour, constant.low, constant.high), (0.0, 0.0, 0.0));
        assert!(!constant.grows() && !constant.shrinks());
        let saw = trend(&points(|at| (at % 70.0 / 10.0).floor()), 70.0).expect("enough");
        assert!(!saw.grows(), "what comes and goes with the load: {saw:?}");
        // A descriptor every five minutes.
        let leak = trend(&points(|at| 37.0 + (at / 300.0).floor()), 70.0).expect("enough");
        assert!(leak.grows() && (leak.per_hour - 12.0).abs() < 2.0, "{leak:?}");
        let shrinks = trend(&points(|at| 37.0 - (at / 300.0).floor()), 70.0).expect("enough");
        assert!(shrinks.shrinks() && !shrinks.grows(), "{shrinks:?}");
    }

    #[test]
    fn too_little_is_no_trend_at_all() {
        assert_eq!(trend(&[], 70.0), None);
        assert_eq!(trend(&[(0.0, 1.0)], 70.0), None);
        assert_eq!(trend(&points(|at| at)[..100], 70.0), None, "seven rounds");
        assert_eq!(trend(&points(|at| at), 0.0), None, "none");
        let few = trend(&points(|at| at)[..114], 70.0).expect("eight rounds");
        assert_eq!(few.blocks, BLOCKS_MIN);
        assert!(few.grows());
    }

    #[test]
    fn the_variance_is_that_of_the_book() {
        let distinct: Vec<f64> = (0..10).map(f64::from).collect();
        assert!((kendall_variance(&distinct) - 125.0).abs() < 1e-9);
        assert!(kendall_variance(&[1.0; 10]).abs() < 1e-9);
    }
}
