//! The one place that decides which bytes of the outside world may be shown, and how. Default-deny:
//! what is not known to be harmless is masked. Sensors hand what they read through the functions
//! here; `stage` is the gate that every observation passes on its way to whoever judges or writes;
//! `keys` knows which session keys are shown, `secrets` what secrets look like. Pure.

mod keys;
mod secrets;
mod stage;

use std::fmt::Write as _;

pub use keys::{PseudonymKey, is_hidden};
pub use stage::Redaction;

use slashtrace_ebpf::fnv1a;

use crate::profile::{Profile, SessionSource, WorkerMatch};

/// What stands for a value that is not shown.
pub const MASK: &str = "***";

/// Tokens of an argv that are shown.
const TOKENS_MAX: usize = 64;
/// Characters of one token that are shown.
const TOKEN_CHARS_MAX: usize = 256;
/// Length of a flag's name: longer ones, and ones with capitals, may be a secret that happens to
/// begin with dashes.
const FLAG_BYTES_MAX: usize = 32;

/// Bytes as text that is safe on a terminal and in JSON: printable UTF-8 stays, anything else
/// (control characters, escape codes, invisible and direction-changing characters, invalid UTF-8)
/// becomes `\n`, `\x1b`, `\u{202e}`, `\xff`; a backslash becomes `\\`.
pub fn escape(bytes: &[u8]) -> String {
    // Nearly every name is one that stays as it is.
    if bytes.iter().all(|byte| matches!(byte, b' '..=b'~') && *byte != b'\\')
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return text.to_owned();
    }
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => out.push(c),
                '\t' | '\n' | '\r' => out.extend(c.escape_default()),
                '\0'..'\x20' | '\x7f' => push_byte(&mut out, c as u8),
                // `escape_debug` leaves what is printable; it escapes format characters (category
                // Cf: bidi controls, zero-width), separators, unassigned and combining ones.
                c => out.extend(c.escape_debug()),
            }
        }
        for &byte in chunk.invalid() {
            push_byte(&mut out, byte);
        }
    }
    out
}

/// Text from a record for a terminal: what [`escape`] would have escaped is escaped, what it did
/// escape stays. Our own records need it not; a file from somewhere else may.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => out.push(c),
            c => out.extend(c.escape_debug()),
        }
    }
    out
}

fn push_byte(out: &mut String, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("writing to a String cannot fail");
}

/// Components of a path that say nothing of who owns it.
const HARMLESS: &str = "usr local bin sbin lib lib64 libexec opt srv var run tmp app home Users snap \
    nix store proc self exe venv .venv env .env v venvs pipx uv tools .local share .pyenv versions \
    hermes .hermes hermes-agent ~ ***";

/// First token of an argv, as far as it may be shown: the name of the program, and of the folders
/// that it is in those that say nothing. Programs that write a title over their argv put anything
/// there, so what follows a space, `=`, `?` or `://` is masked.
pub fn argv0(token: &[u8]) -> String {
    let text = escape(token);
    let end = ["://", " ", "=", "?"]
        .iter()
        .filter_map(|mark| text.find(mark).map(|at| at + mark.len()))
        .min();
    let shown = |text: &str| {
        if text.ends_with("://") { text.to_owned() } else { cut(&folders(text)) }
    };
    match end {
        Some(end) if end < text.len() => format!("{}{MASK}", shown(&text[..end])),
        _ => shown(&text),
    }
}

/// A path whose folders are masked unless they are known to say nothing, or are versions.
fn folders(path: &str) -> String {
    let path = mask_home(path);
    let Some((folders, name)) = path.rsplit_once('/') else { return path };
    let folders: Vec<&str> =
        folders.split('/').map(|folder| if is_harmless(folder) { folder } else { MASK }).collect();
    format!("{}/{name}", folders.join("/"))
}

/// Whether the name of a folder says nothing, or is a version: `python@3.12`, `0.19.0`.
fn is_harmless(folder: &str) -> bool {
    if folder.is_empty() || HARMLESS.split_ascii_whitespace().any(|known| known == folder) {
        return true;
    }
    let program = folder.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let version = &folder[program.len()..];
    let program = program.trim_end_matches(['@', '-']);
    !version.is_empty()
        && version.len() <= 12
        && ["", "v", "python", "cpython", "node"].contains(&program)
}

/// The name of a systemd unit, as far as it may be shown: whole if it is made of words that say
/// nothing, else only what sort of unit it is.
pub fn unit(name: &str) -> String {
    const WORDS: &str = "hermes agent dashboard gateway tui web server app session user docker \
        containerd podman cron ssh sshd system run slash worker slashtrace getty";
    let (stem, sort) = name.rsplit_once('.').unwrap_or((name, "unit"));
    let sort = if matches!(sort, "service" | "scope" | "slice") { sort } else { "unit" };
    let known = |word: &str| WORDS.split_ascii_whitespace().any(|known| known == word);
    if stem.split(['-', '_']).all(known) {
        format!("{stem}.{sort}")
    } else {
        format!("{MASK}.{sort}")
    }
}

/// A value that the profile names (a session key, a model): escaped, home folders, and the user and
/// query parts of URLs masked, cut where it is long.
pub fn value(token: &[u8]) -> String {
    value_of(&escape(token))
}

/// The same of text that is escaped.
fn value_of(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else {
        return cut(&mask_home(text));
    };
    let (rest, query) = match rest.find(['?', '#']) {
        Some(at) => (&rest[..at], &rest[at..=at]),
        None => (rest, ""),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = match authority.rsplit_once('@') {
        Some((_, host)) => format!("{MASK}@{host}"),
        None => authority.to_owned(),
    };
    let query = if query.is_empty() { String::new() } else { format!("{query}{MASK}") };
    cut(&format!("{scheme}://{host}{path}{query}"))
}

/// The folder in which a worker runs, where that is its session's key: the home folder masked, and
/// then with a mark that is another one for another person's.
pub fn folder_key(path: &[u8]) -> String {
    let text = escape(path);
    let masked = mask_home(&text);
    if masked == text {
        return text;
    }
    format!("{masked}#{:04x}", fnv1a(path) & 0xffff)
}

/// argv of a worker: its interpreter, what the rule names of it (tokens, program), flag names, the
/// session's key and the value of the model flag are shown; every other value is masked. An argv of
/// many or long tokens is cut, and says by how much.
pub fn worker_argv(profile: &Profile, argv: &[&[u8]]) -> Vec<String> {
    let Some((first, _)) = argv.split_first() else {
        return Vec::new();
    };
    let found = profile.match_worker(argv);
    let named = found.as_ref().map_or(0..0, |found| found.named.clone());
    // Behind a title is what it was written over.
    let argv = if found.is_some() && named.is_empty() { &argv[..1] } else { argv };
    let key = found.as_ref().and_then(WorkerMatch::key_in_argv).map(|(_, at)| at);
    let flags = found.as_ref().map(shown_flags).unwrap_or_default();
    let mut shown = vec![argv0(first)];
    let mut value_follows = false;
    for (at, token) in argv.iter().enumerate().take(TOKENS_MAX).skip(1) {
        let flags: Vec<&str> =
            flags.iter().filter(|(_, from)| at >= *from).map(|(flag, _)| *flag).collect();
        shown.push(if named.contains(&at) {
            rule_token(token)
        } else if value_follows {
            value(token)
        } else if let Some(flag) = flags.iter().find_map(|flag| shown_flag(flag, token)) {
            flag
        } else if key == Some(at) {
            value(token)
        } else {
            argument(token)
        });
        let in_rule = named.contains(&at) && at + 1 != named.end;
        value_follows =
            !in_rule && !value_follows && flags.iter().any(|it| *token == it.as_bytes());
    }
    if argv.len() > TOKENS_MAX {
        shown.push(format!("[{} more tokens]", argv.len() - TOKENS_MAX));
    }
    shown
}

/// A token that a rule names: as it is, but for the folders of a program.
fn rule_token(token: &[u8]) -> String {
    let text = escape(token);
    cut(&if text.contains('/') { folders(&text) } else { text })
}

/// Flags whose values the profile asks for, and the first token in which each may stand.
fn shown_flags<'a>(found: &WorkerMatch<'a>) -> Vec<(&'a str, usize)> {
    let rule = found.rule;
    let anywhere =
        rule.session.iter().flat_map(|session| &session.0).filter_map(|source| match source {
            SessionSource::Flag(flag) => Some((flag.as_str(), 1)),
            _ => None,
        });
    let behind = [&rule.session_flag, &rule.model_flag].into_iter().flatten();
    anywhere.chain(behind.map(|flag| (flag.as_str(), found.behind))).collect()
}

/// A flag whose value may be shown, with that value if it is in the same token.
fn shown_flag(flag: &str, token: &[u8]) -> Option<String> {
    let rest = token.strip_prefix(flag.as_bytes())?;
    if rest.is_empty() {
        return Some(flag.to_owned());
    }
    rest.strip_prefix(b"=").map(|inline| format!("{flag}={}", value(inline)))
}

/// One argument that is neither the rule's nor a shown flag's value.
fn argument(token: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(token) else {
        return MASK.to_owned();
    };
    if let Some(long) = text.strip_prefix("--") {
        return match long.split_once('=') {
            Some((name, _)) if is_flag_name(name) => format!("--{name}={MASK}"),
            None if is_flag_name(long) || long.is_empty() => text.to_owned(),
            _ => MASK.to_owned(),
        };
    }
    // A short flag's value may be glued to it: `-pSECRET`.
    match text.as_bytes() {
        [b'-', letter] if letter.is_ascii_alphanumeric() => text.to_owned(),
        [b'-', letter, ..] if letter.is_ascii_alphabetic() => {
            format!("-{}{MASK}", char::from(*letter))
        }
        _ => MASK.to_owned(),
    }
}

fn is_flag_name(name: &str) -> bool {
    name.len() <= FLAG_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

/// Cuts text that is too long to be shown, and says how much is left out.
fn cut(text: &str) -> String {
    // No character is shorter than a byte.
    let long = text.len() > TOKEN_CHARS_MAX;
    match long.then(|| text.char_indices().nth(TOKEN_CHARS_MAX)).flatten() {
        Some((at, _)) => format!("{}[{} more characters]", &text[..at], text[at..].chars().count()),
        None => text.to_owned(),
    }
}

/// Masks the name of a person in a path: their home folder becomes `~`, and the component behind a
/// `home` or `Users` deeper in the path becomes [`MASK`].
pub fn mask_home(path: &str) -> String {
    if !path.contains('/') {
        return path.to_owned();
    }
    for home in ["/home/", "/Users/", "/var/home/", "/export/home/", "/usr/home/"] {
        if let Some(rest) = path.strip_prefix(home)
            && !rest.is_empty()
        {
            return match rest.split_once('/') {
                Some((_, rest)) => format!("~/{}", mask_deeper(rest)),
                None => "~".to_owned(),
            };
        }
    }
    if path == "/root" {
        return "~".to_owned();
    }
    if let Some(rest) = path.strip_prefix("/root/") {
        return format!("~/{}", mask_deeper(rest));
    }
    mask_deeper(path)
}

fn mask_deeper(path: &str) -> String {
    let mut behind_home = false;
    let mut components = Vec::new();
    for component in path.split('/') {
        components.push(if behind_home && !component.is_empty() { MASK } else { component });
        behind_home = matches!(component, "home" | "Users");
    }
    components.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(argv: &[&str]) -> String {
        let argv: Vec<&[u8]> = argv.iter().map(|token| token.as_bytes()).collect();
        worker_argv(&Profile::hermes(), &argv).join(" ")
    }

    #[test]
    fn a_worker_as_in_production() {
        assert_eq!(
            shown(&[
                "/home/alice/.hermes/venv/bin/python",
                "-m",
                "tui_gateway.slash_worker",
                "--session-key",
                "20261122_131836_536459",
                "--model",
                "dummy-model",
                "--provider",
                "custom",
                "--parent-pid",
                "2800",
            ]),
            "~/.hermes/venv/bin/python -m tui_gateway.slash_worker --session-key \
             20261122_131836_536459 --model dummy-model --provider *** --parent-pid ***"
        );
    }

    #[test]
    fn values_are_denied_by_default() {
        assert_eq!(
            shown(&[
                "python3",
                "-u",
                "-Wignore",
                "--model",
                "before-the-rule",
                "-m",
                "tui_gateway.slash_worker",
                "--session-key=k=1",
                "--api-key=sk-live-123",
                "--api-key",
                "sk-live-123",
                "-psecret",
                "--AbCdEfSecret",
                "--aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                "positional",
                "-",
                "-=",
                "--",
            ]),
            "python3 -u -W*** --model *** -m tui_gateway.slash_worker --session-key=k=1 \
             --api-key=*** --api-key *** -p*** *** *** *** *** *** --"
        );
    }

    #[test]
    fn a_shown_flag_as_a_value_does_not_show_the_next() {
        // argparse would take `--model` for the session key; the token after it belongs to another flag.
        assert_eq!(
            shown(&["p", "-m", "tui_gateway.slash_worker", "--session-key", "--model", "secret"]),
            "p -m tui_gateway.slash_worker --session-key --model ***"
        );
    }

    #[test]
    fn argv_without_the_rule_shows_no_value() {
        assert_eq!(shown(&["p", "--session-key", "k"]), "p --session-key ***");
        assert_eq!(shown(&[]), "");
    }

    #[test]
    fn hostile_bytes_are_escaped() {
        let argv: [&[u8]; 5] =
            [b"py\xffthon\n", b"-m", b"tui_gateway.slash_worker", b"--session-key", b"\x1b[31mk\0"];
        let shown = worker_argv(&Profile::hermes(), &argv).join(" ");
        assert_eq!(shown, r"py\xffthon\n -m tui_gateway.slash_worker --session-key \x1b[31mk\x00");
    }

    #[test]
    fn what_is_invisible_or_changes_direction_is_escaped() {
        assert_eq!(
            escape("a\u{202e}b\u{200b}c\u{feff}d\u{2028}e\u{ad}f\u{85}".as_bytes()),
            r"a\u{202e}b\u{200b}c\u{feff}d\u{2028}e\u{ad}f\u{85}"
        );
        assert_eq!(
            escape(b"\x7f\x1b]0;t\x07\t\r\n\\ \xe2\x82"),
            r"\x7f\x1b]0;t\x07\t\r\n\\ \xe2\x82"
        );
        assert_eq!(escape("größe 日本 \"q\" 'q' 🦀".as_bytes()), "größe 日本 \"q\" 'q' 🦀");
    }

    #[test]
    fn files_cannot_speak_to_the_terminal() {
        assert_eq!(
            printable("a\x1b[2Jb\u{202e}c\n\\x1b 'ö'"),
            "a\\u{1b}[2Jb\\u{202e}c\\n\\x1b 'ö'"
        );
    }

    #[test]
    fn long_argv_is_cut_and_says_so() {
        let long = "k".repeat(1000);
        let mut argv = vec!["p", "-m", "tui_gateway.slash_worker", "--session-key", &long];
        argv.extend(std::iter::repeat_n("x", 2000));
        let argv: Vec<&[u8]> = argv.iter().map(|token| token.as_bytes()).collect();
        let shown = worker_argv(&Profile::hermes(), &argv);
        assert_eq!(shown.len(), 65);
        assert_eq!(shown[4], format!("{}[744 more characters]", "k".repeat(256)));
        assert_eq!(shown[64], "[1941 more tokens]");
    }

    #[test]
    fn titles_written_over_argv0_are_cut_off() {
        assert_eq!(argv0(b"postgres: alice db idle"), "postgres: ***");
        assert_eq!(argv0(b"TOKEN=abc"), "TOKEN=***");
        assert_eq!(argv0(b"https://u:p@host/x"), "https://***");
        assert_eq!(argv0(b"/opt/python@3.12/bin/python3.12"), "/opt/python@3.12/bin/python3.12");
    }

    #[test]
    fn models_may_be_paths_and_urls() {
        assert_eq!(value(b"/home/alice/models/m.gguf"), "~/models/m.gguf");
        assert_eq!(value(b"https://alice:pw@host:8080/v1?key=s#f"), "https://***@host:8080/v1?***");
        assert_eq!(value(b"http://host"), "http://host");
    }

    #[test]
    fn folders_are_shown_only_if_they_say_nothing() {
        for (path, shown) in [
            ("/srv/acme-payroll/venv/bin/python3", "/srv/***/venv/bin/python3"),
            (
                "/home/alice/.pyenv/versions/3.11.7/bin/python3",
                "~/.pyenv/versions/3.11.7/bin/python3",
            ),
            ("/opt/hermes/0.19.0/bin/python", "/opt/hermes/0.19.0/bin/python"),
            ("./secret/run", "./***/run"),
            ("python3", "python3"),
        ] {
            assert_eq!(argv0(path.as_bytes()), shown);
        }
    }

    #[test]
    fn units_are_shown_only_if_they_say_nothing() {
        for (name, shown) in [
            ("hermes-dashboard.service", "hermes-dashboard.service"),
            ("hermes.service", "hermes.service"),
            ("hermes-sk-live-1234.service", "***.service"),
            ("user@1000.service", "***.service"),
            ("docker-0a1b2c.scope", "***.scope"),
            ("x", "***.unit"),
        ] {
            assert_eq!(unit(name), shown);
        }
    }

    #[test]
    fn home_folders_are_masked() {
        for (path, shown) in [
            ("/home/alice/v/bin/python", "~/v/bin/python"),
            ("/home/alice", "~"),
            ("/home/", "/home/"),
            ("/root/v/bin/python", "~/v/bin/python"),
            ("/root", "~"),
            ("/rootfs/bin/python", "/rootfs/bin/python"),
            ("/Users/alice/v/bin/python", "~/v/bin/python"),
            ("/var/home/alice/python", "~/python"),
            ("/mnt/disk/home/alice/python", "/mnt/disk/home/***/python"),
            ("/usr/bin/python3", "/usr/bin/python3"),
        ] {
            assert_eq!(mask_home(path), shown);
        }
    }
}
