use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Record;

/// The records of earlier files on which everything rests that is known when a file begins: who
/// lives, whose it is, what it did, and the open findings. With them a file is understood without
/// the earlier ones.
///
/// It has the `seq` of the `start` that it follows. What is in it happened, and was written, before:
/// each record keeps its `seq`, `time` and `boottime_ns`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Checkpoint {
    /// Observations, and each open finding as it was last written, in order of `seq`.
    pub records: Vec<Record>,
    /// Whether another `checkpoint` follows with more: a line is only so long.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}
