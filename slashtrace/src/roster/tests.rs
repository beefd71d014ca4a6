//! Tests of the roster by itself.
