use std::{fmt, str::FromStr};

use crate::daemon::quota::Bounds;

/// How much evidence there may be.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(super) struct Bounding {
    /// Evidence that one user's processes may make within a minute: `16M`, or `none` for no bound.
    /// Beyond it samples and signals are left out first, then births; a gap names the user and says
    /// how many
    #[arg(long, value_name = "SIZE", default_value_t = Size(Bounds::default().user))]
    evidence_per_user: Size,
    /// The same for all users together
    #[arg(long, value_name = "SIZE", default_value_t = Size(Bounds::default().all))]
    evidence_per_minute: Size,
}

impl Bounding {
    pub(super) fn bounds(self) -> Bounds {
        Bounds { user: self.evidence_per_user.0, all: self.evidence_per_minute.0 }
    }
}

/// Bytes: `500K`, `16M`, `1G`, powers of 1,024; none for `none`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Size(Option<u64>);

const UNITS: [(&str, u32); 4] = [("G", 30), ("M", 20), ("K", 10), ("", 0)];
/// Less is not enough for the first worker of each user.
const LEAST: u64 = 16 << 10;
/// Less is full with what a busy user makes in seconds.
const FOLDER_LEAST: u64 = 1 << 20;

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let upper = text.to_ascii_uppercase();
        let number = upper.trim_end_matches('B').trim_end_matches('I');
        let unit = UNITS.iter().find_map(|(unit, bits)| Some((number.strip_suffix(unit)?, bits)));
        let bytes = unit.and_then(|(number, bits)| {
            number.parse::<u64>().ok()?.checked_mul(1 << bits).filter(|&bytes| bytes < 1 << 60)
        });
        match bytes {
            Some(bytes) if bytes >= LEAST => Ok(Self(Some(bytes))),
            Some(_) => Err(format!("too little: {} at least", Self(Some(LEAST)))),
            None => Err("a number of bytes like `500K`, `16M` or `1G`, or `none`".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(bytes) = self.0 else { return f.write_str("none") };
        let whole = UNITS.iter().find(|(_, bits)| bytes.is_multiple_of(1 << bits));
        let (unit, bits) = whole.copied().unwrap_or(("", 0));
        write!(f, "{}{unit}", bytes >> bits)
    }
}

/// How much a folder of evidence holds at most, bytes.
///
/// # Errors
/// If it is no size, none, or so small that nothing would stay in it.
pub(super) fn folder(text: &str) -> Result<u64, String> {
    match text.parse::<Size>()?.0 {
        Some(bytes) if bytes >= FOLDER_LEAST => Ok(bytes),
        Some(_) => Err(format!("too little: {} at least", Size(Some(FOLDER_LEAST)))),
        None => Err("a folder needs a bound: `256M`, `1G`".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes, written) in [
            ("16M", 16 << 20, "16M"),
            ("16MiB", 16 << 20, "16M"),
            ("1g", 1 << 30, "1G"),
            ("500K", 500 << 10, "500K"),
            ("20000", 20_000, "20000"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!((size.0, size.to_string()), (Some(bytes), written.to_owned()));
        }
        assert_eq!("none".parse::<Size>().unwrap().to_string(), "none");
        assert_eq!(folder("64M"), Ok(64 << 20));
        for wrong in ["none", "1023K", "64", ""] {
            assert!(folder(wrong).is_err(), "{wrong}");
        }
        for wrong in ["", "M", "16X", "-1", "1K", "99999999999G", "1.5M"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }
}
