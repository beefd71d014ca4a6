//! What a secret looks like, wherever it stands.

use std::borrow::Cow;

use super::MASK;

/// Beginnings of tokens and keys that are given out by well-known services.
const PREFIXES: [&str; 34] = [
    "sk-",
    "sk_",
    "rk_",
    "pk_live_",
    "pk_test_",
    "whsec_",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "gldt-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xoxr-",
    "xoxs-",
    "xapp-",
    "AKIA",
    "ASIA",
    "AIza",
    "ya29.",
    "eyJ",
    "hf_",
    "npm_",
    "pypi-",
    "dop_v1_",
    "SG.",
    "AGE-SECRET-KEY-",
    "nvapi-",
    "gsk_",
    "r8_",
];
/// The rest behind such a beginning is at least this long.
const REST_MIN: usize = 8;
/// Nothing shorter than the shortest beginning with such a rest is a secret.
const SHORTEST: usize = 3 + REST_MIN;
/// Words of this length and more that look drawn at random are taken for secrets.
const RANDOM_MIN: usize = 20;
/// Names of models and packages are long, too, but of short words.
const SEGMENT_MIN: usize = 12;
/// Names whose value is a secret.
const NAMES: [&str; 10] =
    ["token", "secret", "password", "passwd", "pwd", "apikey", "api_key", "api-key", "auth", "key"];

/// Text with everything in it that looks like a secret masked: known tokens, words drawn at
/// random, what stands behind `Bearer` or `password=`, and the local part of mail addresses.
pub(super) fn scrub(text: &str) -> Cow<'_, str> {
    if is_harmless(text) { Cow::Borrowed(text) } else { scrub_words(text) }
}

fn scrub_words(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut copied = 0;
    let mut mask_next = false;
    for (at, word) in words(text) {
        let before = text[..at].trim_end_matches([' ', '"', '\'']);
        let named = before.strip_suffix(['=', ':']).is_some_and(|before| {
            let name = before.trim_end_matches(['"', '\'', ' ']).to_ascii_lowercase();
            NAMES.iter().any(|known| name.ends_with(known))
        });
        let masked = (mask_next && word.len() >= REST_MIN) || named || is_secret(word);
        mask_next = announces(word);
        let mail = text[at + word.len()..].strip_prefix('@').is_some_and(is_mail_domain);
        if masked || mail {
            out.push_str(&text[copied..at]);
            out.push_str(MASK);
            copied = at + word.len();
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[copied..]);
    Cow::Owned(out)
}

/// Whether nothing in a text can be a secret, found out in one pass: names of programs, flags and
/// most paths have no character behind which a value stands, and no word that looks like a token.
fn is_harmless(text: &str) -> bool {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/'));
    plain && text.split('/').all(|word| !is_secret(word) && !announces(word))
}

/// Whether what follows a word is a secret.
fn announces(word: &str) -> bool {
    word.eq_ignore_ascii_case("bearer") || word.eq_ignore_ascii_case("basic")
}

/// Text with these words masked where they stand alone.
pub(super) fn mask_words(text: &str, names: &[String]) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let found = |word: &str| names.iter().any(|name| name.eq_ignore_ascii_case(word));
    let parts = |word: &str| word.split(['.', '-', '_', '+', '=']).any(found);
    if !words(text).any(|(_, word)| found(word) || parts(word)) {
        return None;
    }
    let mut out = String::new();
    let mut copied = 0;
    for (at, word) in words(text) {
        let mut from = at;
        // `alice-gateway` has two words for names, and one for secrets.
        for part in word.split_inclusive(['.', '-', '_', '+', '=']) {
            let name = part.trim_end_matches(['.', '-', '_', '+', '=']);
            if found(name) {
                out.push_str(&text[copied..from]);
                out.push_str(MASK);
                copied = from + name.len();
            }
            from += part.len();
        }
    }
    out.push_str(&text[copied..]);
    Some(out)
}

/// Runs of what tokens are made of, with their places.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '+' | '=' | '.' | '*');
    let mut rest = 0;
    std::iter::from_fn(move || {
        let from = rest + text[rest..].find(is_part)?;
        let to = text[from..].find(|c| !is_part(c)).map_or(text.len(), |end| from + end);
        // `password=hunter2`: the name is a word of its own.
        let word = &text[from..to];
        let equals = word.find('=').filter(|&at| word[at..].contains(|c| c != '='));
        let to = equals.map_or(to, |at| from + at);
        rest = if equals.is_some() { to + 1 } else { to };
        Some((from, &text[from..to]))
    })
}

/// Whether text begins with a domain, as it stands behind the `@` of a mail address.
pub(super) fn is_mail_domain(rest: &str) -> bool {
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-')));
    let domain = &rest[..end.unwrap_or(rest.len())];
    let top = domain.rsplit_once('.').map(|(_, top)| top);
    top.is_some_and(|top| top.len() >= 2 && top.bytes().all(|b| b.is_ascii_alphabetic()))
}

/// Whether text begins with a known sort of token.
pub(super) fn begins_as_token(text: &str) -> bool {
    if text.len() < SHORTEST {
        return false;
    }
    let first = text.as_bytes()[0];
    PREFIXES.iter().any(|prefix| {
        // The first byte alone tells most of them apart.
        prefix.as_bytes()[0] == first
            && text.strip_prefix(prefix).is_some_and(|rest| rest.len() >= REST_MIN)
    })
}

/// Whether a word is a known sort of token, or looks drawn at random.
pub(super) fn is_secret(word: &str) -> bool {
    if begins_as_token(word) {
        return true;
    }
    if word.len() < RANDOM_MIN {
        return false;
    }
    let word = word.trim_matches(['.', '-', '_', '=']);
    let longest = word.split(['.', '-', '_']).map(str::len).max().unwrap_or(0);
    if word.len() < RANDOM_MIN || longest < SEGMENT_MIN {
        return false;
    }
    let count = |of: fn(&u8) -> bool| word.bytes().filter(of).count();
    let digits = count(u8::is_ascii_digit);
    let (upper, lower) = (count(u8::is_ascii_uppercase), count(u8::is_ascii_lowercase));
    // Words and versions have few digits, dates few letters.
    let mixed = digits >= 3 && upper >= 3 && lower >= 3;
    let dense = digits >= 5 && upper + lower >= 5 && runs(word) >= 8;
    let shouted = upper >= 12 && digits >= 2;
    let scrambled = upper >= 5 && lower >= 5 && runs(word) >= 12;
    mixed || dense || shouted || scrambled
}

/// How often letters of one case, letters of the other and digits take turns.
pub(super) fn runs(word: &str) -> usize {
    let class = |b: u8| match b {
        b'0'..=b'9' => 1,
        b'a'..=b'z' => 2,
        b'A'..=b'Z' => 3,
        _ => 0,
    };
    let (mut last, mut turns) = (0, 0);
    for class in word.bytes().map(class).filter(|&class| class > 0) {
        turns += usize::from(class != last);
        last = class;
    }
    turns.max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What the quick look lets through has nothing in it that the thorough one masks.
        #[test]
        fn the_quick_look_misses_nothing(
            parts in proptest::collection::vec(
                prop_oneof![
                    "[a-zA-Z0-9_.+=*:@ -]{0,24}",
                    "(sk-|ghp_|r8_|AKIA|eyJ)[a-zA-Z0-9]{0,12}",
                    "(Bearer|basic|BASIC|token|bearer_)",
                    "[/ :=]",
                ],
                0..6,
            ),
        ) {
            let text = parts.concat();
            prop_assert!(!is_harmless(&text) || scrub_words(&text) == text, "{text}");
        }
    }

    #[test]
    fn secrets_are_known_by_their_looks() {
        for secret in [
            "sk-live-1234567890",
            "sk-ant-api03-abcdefgh",
            "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
            "github_pat_11ABCDEFG0aBcDeFgHiJkL",
            "glpat-xxxxxxxxxxxxxxxxxxxx",
            "xoxb-1234-5678-abcdef",
            "AKIAIOSFODNN7EXAMPLE",
            "AIzaSyA-1234567890abcdefghijklmnopqrstu",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
            "hf_abcdefghijklmnop",
            "d41d8cd98f00b204e9800998ecf8427e",
            "550e8400-e29b-41d4-a716-446655440000",
            "wJalrXUtnFEMI7K7MDENG7bPxRfiCYEXAMPLEKEY",
            "Zm9vYmFyYmF6cXV4cXV1eA==",
        ] {
            assert!(is_secret(secret), "{secret}");
            let text = format!("/opt/{secret}/bin/x");
            assert_eq!(scrub(&text), "/opt/***/bin/x", "{secret}");
        }
    }

    #[test]
    fn no_beginning_is_shorter_than_the_shortest() {
        assert_eq!(PREFIXES.iter().map(|prefix| prefix.len()).min().unwrap() + REST_MIN, SHORTEST);
    }

    #[test]
    fn words_versions_and_dates_are_none() {
        for text in [
            "python3.11",
            "site-packages",
            "20261122_131836_536459",
            "20261122_131836_8f3a2b1c",
            "tui_gateway.slash_worker",
            "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "linux-image-6.12.117-cloud-amd64",
            "claude-sonnet-4-5-20250929",
            "Qwen3.5-2B-Q4_K_M.gguf",
            "meta-llama/Llama-3.3-70B-Instruct",
            "mcp_stdio_watchdog.py",
            "/opt/python@3.12/bin/python3.12",
            "hermes-agent-dashboard-production",
        ] {
            assert!(matches!(scrub(text), Cow::Borrowed(_)), "{text} -> {}", scrub(text));
        }
    }

    #[test]
    fn what_stands_behind_a_name_is_masked() {
        for (text, shown) in [
            ("Authorization: Bearer abcdefgh", "Authorization: Bearer ***"),
            ("password=hunter2", "password=***"),
            ("x?api_key=abc&b=c", "x?api_key=***&b=c"),
            ("{\"token\": \"abc\"}", "{\"token\": \"***\"}"),
            ("alice@example.org", "***@example.org"),
        ] {
            assert_eq!(scrub(text), shown);
        }
    }

    #[test]
    fn names_are_masked_where_they_stand_alone() {
        let names = ["alice".to_owned()];
        for (text, shown) in [
            ("/srv/alice/v/bin/python", Some("/srv/***/v/bin/python")),
            ("alice-gateway", Some("***-gateway")),
            ("/data/Alice/m.gguf", Some("/data/***/m.gguf")),
            ("malice", None),
        ] {
            assert_eq!(mask_words(text, &names).as_deref(), shown);
        }
    }
}
