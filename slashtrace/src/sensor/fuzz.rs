use super::{
    join::named::session_in,
    program::{container, unit},
};
use crate::redact;

/// Reads a /proc/PID/cgroup.
pub(crate) fn cgroup(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = (container(&text), unit(&text).map(redact::unit));
}

/// Reads a terminal's session file.
pub(crate) fn session(bytes: &[u8]) {
    if let Some(session) = session_in(bytes, "session_id") {
        assert!(!session.is_empty() && !session.contains(char::is_control), "{session:?}");
    }
}
