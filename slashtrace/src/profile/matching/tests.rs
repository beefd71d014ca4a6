use super::*;
use crate::profile::SessionRule;

fn profile(worker: &str) -> Profile {
    Profile::parse(&format!("name = \"p\"\n{worker}")).unwrap_or_else(|error| panic!("{error}"))
}

fn argv(words: &[&'static str]) -> Vec<&'static [u8]> {
    words.iter().map(|word| word.as_bytes()).collect()
}

/// The rule that matches, and the key in argv.
fn matched(profile: &Profile, words: &[&'static str]) -> Option<(String, Option<String>)> {
    let argv = argv(words);
    let found = profile.match_worker(&argv)?;
    let key = found.key_in_argv().map(|(key, _)| String::from_utf8_lossy(key).into_owned());
    Some((found.rule.name().to_owned(), key))
}

fn key(profile: &Profile, words: &[&'static str]) -> Option<String> {
    matched(profile, words).unwrap_or_else(|| panic!("no worker: {words:?}")).1
}

const FLAG: &str = "[worker]\ntokens = [\"-m\", \"w\"]\nsession_flag = \"--session\"\n";

#[test]
fn a_module_may_be_glued_to_its_flag() {
    let profile = profile(FLAG);
    for words in
        [&["python", "-mw", "--session", "K"][..], &["python", "-u", "-m", "w", "--session=K"]]
    {
        assert_eq!(key(&profile, words), Some("K".to_owned()), "{words:?}");
    }
    for words in [&["python", "-m=w"][..], &["python", "-mww"], &["-m", "w"], &["python", "--mw"]] {
        assert_eq!(matched(&profile, words), None, "{words:?}");
    }
    let rule = &profile.workers[0];
    assert_eq!(rule.spellings(), [vec!["-m".to_owned(), "w".to_owned()], vec!["-mw".to_owned()]]);
}

#[test]
fn an_empty_key_is_none_and_the_last_one_holds() {
    let profile = profile(FLAG);
    let behind = |words: &[&'static str]| key(&profile, &[&["python", "-m", "w"], words].concat());
    assert_eq!(behind(&["--session", "A", "--session=B"]), Some("B".to_owned()));
    for words in [
        &["--session", ""][..],
        &["--session="],
        &["--session"],
        &["--session", "A", "--session="],
        &["--session-id", "A"],
        &["--Session", "A"],
        &[],
    ] {
        assert_eq!(behind(words), None, "{words:?}");
    }
}

#[test]
fn a_session_flag_of_today_stands_behind_the_tokens_and_another_anywhere() {
    let words = ["wrap", "--session", "K", "-m", "w"];
    assert_eq!(key(&profile(FLAG), &words), None);
    let anywhere =
        FLAG.replace("session_flag = \"--session\"", "session = { flag = \"--session\" }");
    assert_eq!(key(&profile(&anywhere), &words), Some("K".to_owned()));
    // The token itself.
    let resume = profile("[worker]\ntokens = [\"--resume\"]\nsession = { flag = \"--resume\" }\n");
    assert_eq!(key(&resume, &["agent", "--resume", "S1"]), Some("S1".to_owned()));
    assert_eq!(key(&resume, &["agent", "-v", "--resume"]), None);
    assert_eq!(matched(&resume, &["agent", "--resume=S1"]), None, "a token is a whole one");
}

#[test]
fn a_position_counts_what_can_be_no_flags_value() {
    let rule = "[worker]\ntokens = [\"-m\", \"w\"]\n\
                session = [{ flag = \"--session\" }, { position = 1 }]\n";
    let profile = profile(rule);
    let behind = |words: &[&'static str]| key(&profile, &[&["python", "-m", "w"], words].concat());
    for words in [
        &["POS"][..],
        &["POS", "--session", ""],
        &["--log=debug", "POS"],
        &["--", "POS"],
        &["-v", "--", "POS"],
        &["--session", "", "POS"],
        &["POS", "other"],
    ] {
        assert_eq!(behind(words), Some("POS".to_owned()), "{words:?}");
    }
    assert_eq!(behind(&["POS", "--session", "K"]), Some("K".to_owned()), "in order");
    for words in [&["--Session", "UP"][..], &["-v", "POS"], &["", "POS"], &["-"], &[]] {
        let found = behind(words);
        assert_eq!(found, (words == ["-"]).then(|| "-".to_owned()), "{words:?}");
    }
    let second = profile.workers[0].session.as_ref().unwrap().0[1].clone();
    assert_eq!(second, SessionSource::Position(1));
}

#[test]
fn env_and_folder_are_places_in_their_order() {
    let rule = "[worker]\nprogram = \"w\"\n\
                session = [{ env = \"ID\" }, { flag = \"--session\" }, { cwd = true }]\n";
    let profile = profile(rule);
    let words = argv(&["/opt/w", "--session", "K"]);
    let found = profile.match_worker(&words).unwrap();
    let k = KeyPlace::Argv { key: b"K", at: 2 };
    assert_eq!(found.keys, [KeyPlace::Env("ID"), k, KeyPlace::Cwd]);
    assert_eq!(found.key_in_argv(), None, "the environment goes before it");
    let none = "[worker]\nprogram = \"w\"\nsession = \"none\"\n";
    let none = Profile::parse(&format!("name = \"p\"\n{none}")).unwrap();
    assert_eq!(none.workers[0].session, Some(SessionRule::default()));
    assert!(none.match_worker(&words).unwrap().keys.is_empty());
}

#[test]
fn a_program_is_the_last_part_of_a_path_or_what_an_interpreter_runs() {
    let profile = profile("[worker]\nprogram = \"c03-mcp\"\nsession = { flag = \"--session\" }\n");
    for words in [
        &["/app/node_modules/.bin/c03-mcp", "--session", "K"][..],
        &["c03-mcp", "--session=K"],
        &["node", "--no-warnings", "/app/node_modules/.bin/c03-mcp", "--session", "K"],
        &["python3", "-mc03-mcp", "--session", "K"],
    ] {
        assert_eq!(key(&profile, words), Some("K".to_owned()), "{words:?}");
    }
    for words in [
        &["npm", "exec", "c03-mcp"][..],
        &["sh", "-c", "c03-mcp --session K"],
        &["vi", "/app/node_modules/.bin/c03-mcp"],
        &["node", "srv.js", "c03-mcp"],
        &["c03-mcp2"],
        &["npm exec c03-mcp --session K"],
        &[],
    ] {
        assert_eq!(matched(&profile, words), None, "{words:?}");
    }
}

#[test]
fn an_exclusion_makes_it_no_worker() {
    let rule = "[worker]\nprogram = \"chromium\"\nexclude = [\"--type=*\", \"--version\"]\n\
                session = \"none\"\n";
    let profile = profile(rule);
    assert!(matched(&profile, &["/usr/lib/chromium/chromium", "--headless"]).is_some());
    for words in [
        &["chromium", "--type=renderer"][..],
        &["chromium", "--headless", "--version"],
        // What a zygote's child wrote over its arguments.
        &["/x/chromium --type=renderer --user-data-dir=/x/chromium", "", ""],
    ] {
        assert_eq!(matched(&profile, words), None, "{words:?}");
    }
}

#[test]
fn tokens_and_a_program_must_both_hold() {
    let profile =
        profile("[worker]\nprogram = \"agent\"\ntokens = [\"serve\"]\nsession = \"none\"\n");
    assert!(matched(&profile, &["/opt/agent", "-v", "serve"]).is_some());
    assert_eq!(matched(&profile, &["/opt/agent", "stop"]), None);
    assert_eq!(matched(&profile, &["/opt/other", "serve"]), None);
}

#[test]
fn the_first_rule_that_matches_holds() {
    let rules = "[[worker]]\nprogram = \"agent\"\ntokens = [\"serve\"]\nsession = \"none\"\nname = \"a\"\n\
                 [[worker]]\nprogram = \"agent\"\nsession = { position = 1 }\nname = \"b\"\n";
    let profile = profile(rules);
    assert_eq!(matched(&profile, &["agent", "serve"]), Some(("a".to_owned(), None)));
    let other = matched(&profile, &["agent", "K"]);
    assert_eq!(other, Some(("b".to_owned(), Some("K".to_owned()))));
    assert_eq!(profile.rule(Some("b")).name(), "b");
    assert_eq!(profile.rule(Some("gone")).name(), "a");
    assert_eq!(profile.name_of(&profile.workers[1]).as_deref(), Some("b"));
    assert_eq!(Profile::hermes().name_of(&Profile::hermes().workers[0]), None, "there is one");
}

#[test]
fn a_title_makes_a_worker_known() {
    let rule = "[worker]\ntokens = [\"-m\", \"w\"]\n\
                session = [{ flag = \"--session\" }, { title = \"agent: worker [*]\" }]\n";
    let profile = profile(rule);
    for words in
        [&["agent: worker [K]"][..], &["agent: worker [K]", "", "", ""], &["agent: worker [K]   "]]
    {
        assert_eq!(key(&profile, words), Some("K".to_owned()), "{words:?}");
    }
    assert_eq!(key(&profile, &["agent: worker []"]), None);
    for words in [&["agent: worker [K"][..], &["agent: master [K]"], &["agent: worker [K]", "x"]] {
        assert_eq!(matched(&profile, words), None, "{words:?}");
    }
    assert_eq!(key(&profile, &["python", "-m", "w", "--session", "K"]), Some("K".to_owned()));
}
