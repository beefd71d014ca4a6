//! Which session keys are shown, and what stands for the others.
//!
//! A key that names a session and nothing else is shown. One that opens a door (a token, a URL with a
//! password), leads to a person (a mail or IP address) or is long becomes a pseudonym. The same key
//! has the same pseudonym wherever the same [`PseudonymKey`] is used.

#[expect(
    deprecated,
    reason = "SipHash-2-4 under a key of our own; nothing else in std takes one"
)]
use std::hash::SipHasher;
use std::{
    borrow::Cow,
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{mask_home, secrets};

/// Longer keys are not shown, bytes.
const KEY_BYTES_MAX: usize = 256;
/// A run of letters and digits that looks drawn at random is an ordinary id up to here: UUIDs, ULIDs
/// (26), KSUIDs (27), nanoids (21), ObjectIds (24) are.
const ID_MAX: usize = 27;
/// Hexadecimal digits of 128 bits and more: a digest or a token, unless it is a UUID.
const HEX_MIN: usize = 32;
/// Padded base64 of so many characters is no name.
const PADDED_MIN: usize = 16;
/// Of a hidden key so much at its beginning is looked for where it may have been cut off.
const HEAD_MIN: usize = 10;
/// What a pseudonym begins with, and its length behind that.
const PSEUDONYM: &str = "session-";
const PSEUDONYM_DIGITS: usize = 16;
/// Names whose value is a secret, where `=` stands between.
const NAMES: [&str; 11] = [
    "token",
    "secret",
    "password",
    "passwd",
    "pwd",
    "apikey",
    "api_key",
    "api-key",
    "auth",
    "signature",
    "access_key",
];

/// The key under which pseudonyms are made. Who has it and a pseudonym can try guesses; who has only
/// the pseudonym cannot.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct PseudonymKey([u64; 2]);

impl PseudonymKey {
    /// Length of a key, bytes.
    pub const BYTES: usize = 16;

    /// A key that is kept somewhere.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let number = u128::from_le_bytes(bytes);
        Self([number as u64, (number >> 64) as u64])
    }

    /// A key that nobody keeps.
    pub fn random() -> Self {
        let random = RandomState::new();
        Self([random.hash_one(0), random.hash_one(1)])
    }

    /// What stands for a key.
    pub(super) fn pseudonym(self, key: &str) -> String {
        #[expect(deprecated, reason = "see above")]
        let mut hasher = SipHasher::new_with_keys(self.0[0], self.0[1]);
        hasher.write(key.as_bytes());
        format!("{PSEUDONYM}{:016x}", hasher.finish())
    }
}

impl fmt::Debug for PseudonymKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PseudonymKey")
    }
}

/// Whether a key, escaped, is not to be shown.
pub fn is_hidden(key: &str) -> bool {
    if is_pseudonym(key) {
        return false;
    }
    key.len() > KEY_BYTES_MAX
        || has_token(key)
        || has_named_value(key)
        || has_url_secret(key)
        || has_mail(key)
        || has_address(key)
        || looks_random(key)
}

/// Whether it is of the form of pseudonyms. Whoever names a session so gains nothing.
fn is_pseudonym(key: &str) -> bool {
    key.strip_prefix(PSEUDONYM).is_some_and(|rest| {
        rest.len() == PSEUDONYM_DIGITS
            && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// A key that is shown, with the home folder masked where it is a path: two people's folders of the
/// same name stay two keys.
pub(super) fn shown(key: &str) -> Cow<'_, str> {
    let masked = mask_home(key);
    if masked == key {
        return Cow::Borrowed(key);
    }
    Cow::Owned(format!("{masked}#{:04x}", slashtrace_ebpf::fnv1a(key.as_bytes()) & 0xffff))
}

/// Text without a hidden key: `by` in its place, and a mask where only its beginning stands (a comm
/// and a long argument are cut off).
pub(super) fn without(text: &mut String, key: &str, by: &str) {
    if key.len() <= text.len() && text.contains(key) {
        *text = text.replace(key, by);
    }
    let head: String = key.chars().take(HEAD_MIN).collect();
    if head.len() < HEAD_MIN {
        return;
    }
    let mut from = 0;
    while let Some(at) = text[from..].find(&head).map(|at| from + at) {
        let same = text[at..].chars().zip(key.chars()).take_while(|(a, b)| a == b);
        let end = at + same.map(|(c, _)| c.len_utf8()).sum::<usize>();
        text.replace_range(at..end, super::MASK);
        from = at + super::MASK.len();
    }
}

/// A well-known sort of token, a JWT among them, at the beginning of any part.
fn has_token(key: &str) -> bool {
    let mut before = None;
    key.char_indices().any(|(at, c)| {
        let begins = !before.is_some_and(char::is_alphanumeric) && c.is_ascii_alphanumeric();
        before = Some(c);
        begins && is_token(&key[at..])
    })
}

fn is_token(text: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '=' | '.');
    let word = &text[..text.find(|c| !part(c)).unwrap_or(text.len())];
    // A word in capitals begins as keys of AWS do.
    let aws = word.strip_prefix("AKIA").or_else(|| word.strip_prefix("ASIA"));
    match aws {
        Some(rest) => rest.len() >= 12 && rest.bytes().take(12).all(|b| b.is_ascii_alphanumeric()),
        None => secrets::begins_as_token(word),
    }
}

/// `password=…`, `token=…`; with a colon only what can be nothing else.
fn has_named_value(key: &str) -> bool {
    const BEHIND_COLON: [&str; 6] =
        ["password", "passwd", "secret", "api_key", "apikey", "authorization"];
    let lower = key.to_ascii_lowercase();
    lower.match_indices(['=', ':', ' ']).any(|(at, mark)| {
        let name = lower[..at].trim_end_matches([' ', '"', '\'']);
        let value = lower[at + 1..].trim_start_matches([' ', '"', '\'']);
        match mark {
            "=" => !value.is_empty() && NAMES.iter().any(|known| name.ends_with(known)),
            ":" => {
                !value.is_empty() && BEHIND_COLON.iter().any(|known| ends_with_word(name, known))
            }
            _ => value.len() >= 8 && ends_with_word(name, "bearer"),
        }
    })
}

fn ends_with_word(text: &str, word: &str) -> bool {
    text.strip_suffix(word)
        .is_some_and(|before| !before.ends_with(|c: char| c.is_ascii_alphabetic()))
}

/// A URL with a user, a query or a fragment; a user and a password before a host; a query alone.
fn has_url_secret(key: &str) -> bool {
    if let Some((_, rest)) = key.split_once("://") {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.contains('@') || rest.contains(['?', '#']) {
            return true;
        }
    }
    let query = key.split_once('?').is_some_and(|(_, query)| query.contains('='));
    let with_password = key.split([' ', '/', ',', ';']).any(|word| {
        word.rsplit_once('@').is_some_and(|(user, host)| {
            let password = user.split_once(':').is_some_and(|(user, password)| {
                !user.is_empty() && !password.is_empty() && !user.starts_with('@')
            });
            password && host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        })
    });
    query || with_password
}

fn has_mail(key: &str) -> bool {
    key.match_indices('@').any(|(at, _)| {
        let local = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '\'');
        key[..at].ends_with(local) && secrets::is_mail_domain(&key[at + 1..])
    })
}

/// An IP address that stands alone: in `v1.2.3.4` there is none.
fn has_address(key: &str) -> bool {
    let stands_alone = |from: usize, to: usize| {
        let part = |c: char| c.is_alphanumeric();
        !key[..from].ends_with(part) && !key[to..].starts_with(part)
    };
    let found = |is_part: fn(char) -> bool, is_address: fn(&str) -> bool| {
        runs_of(key, is_part).any(|(from, run)| {
            // A name's colon may come before it, and a port's colon or a full stop after it.
            let name = usize::from(run.starts_with(':') && !run.starts_with("::"));
            let word = run[name..].trim_end_matches('.');
            let port = usize::from(word.ends_with(':') && !word.ends_with("::"));
            let word = &word[..word.len() - port];
            is_address(word) && stands_alone(from + name, from + name + word.len())
        })
    };
    found(|c| c.is_ascii_digit() || c == '.', |word| word.parse::<Ipv4Addr>().is_ok())
        || found(
            |c| c.is_ascii_hexdigit() || matches!(c, ':' | '.'),
            |word| word.matches(':').count() >= 2 && word.parse::<Ipv6Addr>().is_ok(),
        )
}

/// Runs of such characters, with their places.
fn runs_of(text: &str, is_part: fn(char) -> bool) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = 0;
    std::iter::from_fn(move || {
        let from = rest + text[rest..].find(is_part)?;
        let to = text[from..].find(|c| !is_part(c)).map_or(text.len(), |end| from + end);
        rest = to;
        Some((from, &text[from..to]))
    })
}

/// Long and drawn at random: base64, base32, hexadecimal of 128 bits and more; not a UUID, not an
/// ordinary id, not a date.
fn looks_random(key: &str) -> bool {
    if is_padded_base64(key) {
        return true;
    }
    let segments: Vec<(usize, &str)> = runs_of(key, |c| c.is_ascii_alphanumeric()).collect();
    // Length of the random segments that stand side by side, and where the last of them ends.
    let (mut run, mut end) = (0, 0);
    let mut nth = 0;
    while let Some(&(at, segment)) = segments.get(nth) {
        if is_dashed_uuid(key, &segments[nth..]) {
            nth += UUID.len();
            run = 0;
            continue;
        }
        nth += 1;
        if is_ordinary(segment) || !is_scrambled(segment) {
            run = 0;
            continue;
        }
        let joined = run > 0 && at == end + 1 && is_joint(key.as_bytes()[end]);
        run = segment.len() + if joined { run } else { 0 };
        end = at + segment.len();
        if run > ID_MAX {
            return true;
        }
    }
    false
}

/// What may stand between two parts of one token: base64 and its form for URLs have these.
const fn is_joint(byte: u8) -> bool {
    matches!(byte, b'-' | b'_' | b'+' | b'/')
}

fn is_padded_base64(key: &str) -> bool {
    let body = key.trim_end_matches('=');
    let body_ok = body.len() >= PADDED_MIN
        && key.len() - body.len() <= 2
        && key.len() > body.len()
        && key.len().is_multiple_of(4);
    body_ok && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

/// Lengths of the parts of a UUID.
const UUID: [usize; 5] = [8, 4, 4, 4, 12];

fn is_dashed_uuid(key: &str, segments: &[(usize, &str)]) -> bool {
    segments.len() >= UUID.len()
        && segments.iter().zip(UUID).all(|((_, segment), length)| {
            segment.len() == length && segment.bytes().all(|b| b.is_ascii_hexdigit())
        })
        && segments.windows(2).take(UUID.len() - 1).all(|pair| {
            let end = pair[0].0 + pair[0].1.len();
            pair[1].0 == end + 1 && key.as_bytes()[end] == b'-'
        })
}

/// A number, a moment (`20260312T101112Z`), a ULID, or a UUID without dashes.
fn is_ordinary(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let digits = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    let moment = || {
        let (day, rest) = bytes.split_at_checked(8)?;
        let time = rest.strip_prefix(b"T")?;
        let time = time.strip_suffix(b"Z").unwrap_or(time);
        Some(digits(day) && digits(time) && time.len() <= 9)
    };
    // Crockford's base 32, 128 bits of which the first digit has two.
    let ulid = || {
        let part = |b: &u8| {
            b.is_ascii_digit()
                || (b.is_ascii_uppercase() && !matches!(b, b'I' | b'L' | b'O' | b'U'))
        };
        bytes.len() == 26 && matches!(bytes[0], b'0'..=b'7') && bytes.iter().all(part)
    };
    // RFC 9562: version 4 or 7, and the variant.
    let uuid = || {
        bytes.len() == 32
            && bytes.iter().all(u8::is_ascii_hexdigit)
            && matches!(bytes[12], b'4' | b'7')
            && matches!(bytes[16], b'8' | b'9' | b'a' | b'b' | b'A' | b'B')
    };
    digits(bytes) || moment().unwrap_or(false) || ulid() || uuid()
}

/// Whether letters of one case, letters of the other and digits take turns as nobody writes them.
fn is_scrambled(segment: &str) -> bool {
    let has = |is: fn(&u8) -> bool| segment.bytes().any(|b| is(&b));
    let (digits, letters) = (has(u8::is_ascii_digit), has(u8::is_ascii_alphabetic));
    let (length, runs) = (segment.len(), secrets::runs(segment));
    if segment.bytes().all(|b| b.is_ascii_hexdigit()) && length >= HEX_MIN && letters && digits {
        return true;
    }
    let mixed = digits && letters && length >= 6 && runs * 4 >= length;
    // Words in camel case have longer ones.
    let cases = has(u8::is_ascii_uppercase) && has(u8::is_ascii_lowercase);
    mixed || (cases && length >= 8 && runs * 5 >= length * 2)
}

#[cfg(test)]
mod tests;
