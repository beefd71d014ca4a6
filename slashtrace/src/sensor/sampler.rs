//! Periodic samples of tracked processes only.
