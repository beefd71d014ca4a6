use proptest::prelude::*;

use super::*;

/// Keys that people have: in this project's recordings, in hermes-agent, and as other agents make
/// them.
const ORDINARY: [&str; 53] = [
    "k",
    "chat",
    "main",
    "storm_9",
    "per_call",
    "taken-over",
    "bundled_spawn_per_call_64fdbb",
    "20260312_101112_ab12cd",
    "20261122_131836_536459",
    "20261122_131836_8f3a2b1c",
    "20260101_000000_abc123",
    "a1b2c3d4",
    "deadbeef",
    "8f3a2b1c9d0e4f5a",
    "cron_daily_report_20260312",
    "agent:main:telegram:dm:123456789",
    "agent:main:discord:group:1099511627776123456:987654321098765432",
    "telegram_-1001234567890",
    "C024BE91L:1512085950.000216",
    "slack:C024BE91L:1512085950.000216",
    "550e8400-e29b-41d4-a716-446655440000",
    "550E8400-E29B-41D4-A716-446655440000",
    "{550e8400-e29b-41d4-a716-446655440000}",
    "urn:uuid:550e8400-e29b-41d4-a716-446655440000",
    "0192e4a0-7c1e-7b3a-9f4d-3c2b1a0f9e8d",
    "550e8400e29b41d4a716446655440000",
    "session-550e8400-e29b-41d4-a716-446655440000-2",
    "550e8400-e29b-41d4-a716-446655440000:0192e4a0-7c1e-7b3a-9f4d-3c2b1a0f9e8d",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "thread_01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "0ujsswThIGTUYm2K8FjOOfXtY1K",
    "cjld2cjxh0000qzrmn831i7rn",
    "tz4a98xxat96iws9zmbrgj3a",
    "507f1f77bcf86cd799439011",
    "V1StGXR8_Z5jdHi6B-myT",
    "chat-20260312T101112Z-ab12cd34",
    "2026-03-12T10:11:12.345678+01:00",
    "2026-11-27 10:12:30",
    "session 3 of the release",
    "hermes-7d4b9c6f5d-x2x9z",
    "release-v1.2.3.4",
    "claude-sonnet-4-5-20250929",
    "Qwen3.5-2B-Q4_K_M.gguf",
    "ProductionDashboardGatewaySession",
    "hermes-agent-dashboard-production",
    "/srv/projects/payroll",
    "~/projects/payroll#1a2b",
    "https://example.org/rooms/42",
    "#room:example.org",
    "@alice:example.org",
    "größe-日本",
    "a=b",
    "session-0123456789abcdef",
];

/// What must not be shown.
const HIDDEN: [&str; 44] = [
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "user:eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "sk-live-1234567890",
    "sk-ant-api03-abcdefgh",
    "sk-proj-AbCdEf0123456789",
    "chat/sk-live-1234567890",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG0aBcDeFgHiJkL",
    "glpat-xxxxxxxxxxxxxxxxxxxx",
    "xoxb-1234-5678-abcdef",
    "xoxp-1234567890",
    "AKIAIOSFODNN7EXAMPLE",
    "ASIAIOSFODNN7EXAMPLE",
    "AIzaSyA-1234567890abcdefghijklmnopqrstu",
    "hf_abcdefghijklmnop",
    "d41d8cd98f00b204e9800998ecf8427e",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "wJalrXUtnFEMI7K7MDENG7bPxRfiCYEXAMPLEKEY",
    "wJalrXUtnFEMI/K7MDENG/bPxRfiCYq8Zk2VnT4x",
    "Zm9vYmFyYmF6cXV4cXV1eA==",
    "dGhpcyBpcyBhIHNlY3JldA==",
    "x7Jf-9sKkQ2vTn4_Lw8ZpR6yB1cD3eF5gH0iJ",
    "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
    "123456789:AAF9xQz0yR1wT2uV3sP4oN5mL6kJ7iH8gG9",
    "https://alice:hunter2@example.org/",
    "https://alice@example.org/chat",
    "https://example.org/chat?token=abc",
    "https://example.org/chat#access",
    "postgres://app:pw@db/agents",
    "redis://:pw@cache:6379",
    "alice:hunter2@db",
    "/chat?id=5&sig=1",
    "password=hunter2",
    "session;api_key=abc",
    "Authorization: Basic x",
    "Bearer abcdefgh",
    "alice@example.org",
    "dm:4917012345678@s.whatsapp.net",
    "203.0.113.7",
    "client-203.0.113.7:51234",
    "http://10.0.0.1/chat",
    "peer:2001:db8::1",
    "[2001:db8::1]:8080",
];

#[test]
fn ordinary_keys_are_shown() {
    let hidden: Vec<&&str> = ORDINARY.iter().filter(|key| is_hidden(key)).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn what_looks_like_a_secret_or_a_person_is_not() {
    let shown: Vec<&&str> = HIDDEN.iter().filter(|key| !is_hidden(key)).collect();
    assert!(shown.is_empty(), "{shown:?}");
}

#[test]
fn a_long_key_is_not_shown() {
    assert!(!is_hidden(&"k".repeat(KEY_BYTES_MAX)));
    assert!(is_hidden(&"k".repeat(KEY_BYTES_MAX + 1)));
}

#[test]
fn a_pseudonym_is_the_same_under_the_same_key_only() {
    let key = |byte| PseudonymKey::from_bytes([byte; PseudonymKey::BYTES]);
    let secret = HIDDEN[0];
    assert_eq!(key(1).pseudonym(secret), key(1).pseudonym(secret));
    assert_ne!(key(1).pseudonym(secret), key(2).pseudonym(secret));
    assert_ne!(key(1).pseudonym(secret), key(1).pseudonym(HIDDEN[1]));
    assert_ne!(PseudonymKey::random().pseudonym("k"), PseudonymKey::random().pseudonym("k"));
    // A restart with another version of slashtrace has to come to the same: the reference
    // implementation's vector for these 15 bytes.
    let bytes: [u8; 16] = std::array::from_fn(|at| at as u8);
    let text: String = (0..15u8).map(char::from).collect();
    assert_eq!(PseudonymKey::from_bytes(bytes).pseudonym(&text), "session-a129ca6149be45e5");
    assert_eq!(format!("{:?}", key(7)), "PseudonymKey");
}

#[test]
fn a_path_in_a_home_folder_does_not_name_the_person() {
    assert!(!is_hidden("/home/alice/work"));
    let (alice, bob) = (shown("/home/alice/work"), shown("/home/bob/work"));
    assert!(alice.starts_with("~/work#") && bob.starts_with("~/work#") && alice != bob);
    assert_eq!(shown(&alice), alice);
    assert_eq!(shown("/srv/work"), "/srv/work");
}

#[test]
fn a_key_that_was_cut_off_is_masked_as_far_as_it_stands() {
    let key = "sk-live-1234567890";
    for (text, expected) in [
        ("--session-key=sk-live-1234567890", "--session-key=P"),
        ("worker [sk-live-1234567890] busy", "worker [P] busy"),
        ("w-sk-live-123456", "w-***"),
        ("sk-live", "sk-live"),
        ("python", "python"),
    ] {
        let mut text = text.to_owned();
        without(&mut text, key, "P");
        assert_eq!(text, expected);
    }
}

proptest! {
    #[test]
    fn any_key_is_judged_and_taken_out(
        key in "(\\PC|[a-f0-9:.@/?=-]){0,40}", before in "\\PC{0,12}", behind in "\\PC{0,12}",
    ) {
        let hidden = is_hidden(&key);
        let pseudonym = PseudonymKey::random().pseudonym(&key);
        prop_assert!(!is_hidden(&pseudonym));
        let mut text = format!("{before}{key}{behind}");
        without(&mut text, &key, &pseudonym);
        prop_assert!(!hidden || key.len() < HEAD_MIN || !text.contains(&key), "{text}");
    }

    #[test]
    fn what_is_drawn_at_random_is_hidden(hex in "[0-9a-f]{40}", word in "[A-Za-z0-9]{40}") {
        // Ten letters or digits in a row are no accident in 40: 1 in 10^8.
        prop_assert!(is_hidden(&hex), "{hex}");
        prop_assert!(is_hidden(&word), "{word}");
    }

    #[test]
    fn ids_are_shown(
        a in "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        day in "20[0-9]{6}", time in "[0-9]{6}", hex in "[0-9a-f]{6}|[0-9a-f]{8}",
        ulid in "[0-7][0-9A-HJKMNP-TV-Z]{25}", nano in "[A-Za-z0-9_-]{21}",
    ) {
        for key in [a, format!("{day}_{time}_{hex}"), ulid] {
            prop_assert!(!is_hidden(&key), "{key}");
        }
        // It may happen to begin as a token does.
        prop_assert!(!is_hidden(&nano) || has_token(&nano), "{nano}");
    }
}
