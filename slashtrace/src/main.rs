//! `slashtrace`: see `slashtrace --help`.

fn main() {}
