use super::super::*;

const MINIMAL: &str =
    "name = \"p\"\n[worker]\ntokens = [\"-m\", \"w\"]\nsession_flag = \"--session\"\n";

fn error(text: &str) -> String {
    Profile::parse(text).expect_err("it should be refused").to_string()
}

/// [`MINIMAL`] with one line replaced.
fn with(line: usize, new: &str) -> String {
    let mut lines: Vec<&str> = MINIMAL.lines().collect();
    lines[line - 1] = new;
    error(&lines.join("\n"))
}

#[test]
fn builtin_parses() {
    let profile = Profile::hermes();
    assert_eq!(profile.name, "hermes");
    assert_eq!(profile.workers[0].tokens, ["-m", "tui_gateway.slash_worker"]);
    assert_eq!(profile.graces, Graces::default());
    assert_eq!(profile.windows, Windows::default());
    assert_eq!(profile.helpers[0].grace, Span::from_secs(30));
}

#[test]
fn minimal_takes_the_defaults() {
    let profile = Profile::parse(MINIMAL).unwrap();
    assert_eq!(profile.graces, Graces::default());
    assert_eq!(profile.workers[0].model_flag, None);
    assert!(profile.helpers.is_empty());
}

#[test]
fn survives_the_start_record() {
    let profile = Profile::hermes();
    let json = serde_json::to_string(&profile).unwrap();
    assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile);
    assert_eq!(profile.check(), Ok(()));
}

#[test]
fn a_profile_from_elsewhere_is_checked_too() {
    let mut profile = Profile::hermes();
    profile.workers[0].tokens.clear();
    let error = profile.check().unwrap_err();
    assert_eq!(error.to_string(), "neither `tokens` nor `program`: it would match every process");
}

#[test]
fn zero_overlap_is_a_choice() {
    let profile = Profile::parse(&format!("{MINIMAL}[graces]\noverlap = \"0s\"\n")).unwrap();
    assert_eq!(profile.graces.overlap.as_ns(), 0);
}

#[test]
fn the_line_is_found_however_the_value_is_written() {
    let worker = "worker.tokens = [\"a\",\n\"\"]\nworker.session_flag = \"-s\"";
    let refused = error(&format!("name = \"p\"\n{worker}"));
    assert!(refused.starts_with("line 3, column 1: a token is empty\n"), "{refused}");
    let inline = "worker = { tokens = [\"a\"], session_flag = \"s\" }";
    let refused = error(&format!("\nname = \"p\"\n{inline}"));
    let wanted = "line 3, column 43: `session_flag` must be a flag such as `--name`\n";
    assert!(refused.starts_with(wanted), "{refused}");
}

fn opener(lines: &str) -> String {
    let rule = "[terminal]\nsession_file_env = \"F\"\nsession_key = \"k\"\n[terminal.opener]\n";
    with(4, &format!("session_flag = \"-s\"\n{rule}{lines}"))
}

#[test]
fn refusals_name_line_and_reason() {
    let long = "x".repeat(65);
    let all = [
        error(""),
        error("name = \"p\"\nname = \"q\""),
        error("name = \"p\"\n[worker\n"),
        with(1, "name = \"\""),
        with(1, "name = \"../x\""),
        with(1, "name = \".hidden\""),
        with(1, "name = 3"),
        with(3, "tokens = []"),
        with(3, "tokens = [\"-m\",\n  \"\"]"),
        with(3, r#"tokens = ["a\u0000b"]"#),
        with(3, &format!("tokens = [\"{long}\"]")),
        with(3, "tokens = [\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"]"),
        with(3, &format!("tokens = [{}]", vec![format!("\"{}\"", &long[1..]); 4].join(", "))),
        with(3, "tokens = \"-m\""),
        with(3, "token = [\"-m\"]"),
        with(4, "session_flag = \"\""),
        with(4, "session_flag = \"session\""),
        with(4, "session_flag = \"--\""),
        with(4, "session_flag = \"--s=\""),
        with(4, "session_flag = \"-s\"\nmodel_flag = \"-s\""),
        with(4, "session_flag = \"-s\"\n[graces]\norphan = \"0s\""),
        with(4, "session_flag = \"-s\"\n[graces]\noverlap = \"9000h\""),
        with(4, "session_flag = \"-s\"\n[graces]\nzombie = \"-3s\""),
        with(4, "session_flag = \"-s\"\n[graces]\nzombie = \"soon\""),
        with(4, "session_flag = \"-s\"\n[graces]\ntty = \"3s\""),
        with(4, "session_flag = \"-s\"\n[windows]\nchurn = \"0s\""),
        with(4, "session_flag = \"-s\"\n[[helpers]]\nname = \"h\"\nfile = \"a/b\"\ngrace = \"3s\""),
        with(
            4,
            "session_flag = \"-s\"\n[[helpers]]\nname = \"h\"\nfile = \"a\"\ngrace = \"3s\"\n\
             [[helpers]]\nname = \"h\"\nfile = \"b\"\ngrace = \"3s\"",
        ),
        with(4, "session_flag = \"-s\"\n[project]\nname = \"p\"\nissues = \"javascript:\""),
        with(
            4,
            "session_flag = \"-s\"\n[project]\nname = \"p\"\nissues = \"https://x/\"\n\
             [[project.known]]\nissue = 1\ntitle = \"\"\nsigns = [\"lost-worker\"]",
        ),
        with(
            4,
            "session_flag = \"-s\"\n[project]\nname = \"p\"\nissues = \"https://x/\"\n\
             [[project.known]]\nissue = 1\ntitle = \"t\"\nsigns = [\"lost\"]",
        ),
        opener(""),
        opener("tokens = [\"dashboard\"]"),
        opener("tokens = [\"dashboard\"]\ninner_gateway = []"),
        opener("tokens = [\"\"]\ninner_gateway = [\"-m\"]"),
    ];
    insta::assert_snapshot!(all.join("\n"));
}

/// A profile with these rules.
fn rules(text: &str) -> String {
    error(&format!("name = \"p\"\n{text}\n"))
}

#[test]
fn refusals_of_rules_show_the_place() {
    let p = |rest: &str| rules(&format!("[worker]\nprogram = \"agent\"\n{rest}"));
    let all = [
        rules("[worker]\nsession = \"none\""),
        rules("worker = []"),
        p(""),
        p("session = \"some\""),
        p("session = {}"),
        p("session = []"),
        p("session = { flg = \"-s\" }"),
        p("session = { flag = \"-s\", position = 1 }"),
        p("session = { flag = \"s\" }"),
        p("session = [{ position = 1 }, { position = 0 }]"),
        p("session = [{ env = \"A\" }, { env = \"A\" }]"),
        p("session = { env = \"A-B\" }"),
        p("session = { cwd = false }"),
        p("session = { title = \"agent\" }"),
        p("session = { title = \"a*\" }"),
        p("session = \"none\"\nsession_flag = \"-s\""),
        p("session = \"none\"\none_per = \"session\""),
        p("session = \"none\"\none_per = \"user\""),
        p("session = \"none\"\nchannel = \"pipe\""),
        p("session = \"none\"\nexclude = [\"--type=renderer\", \"--*\"]"),
        p("session = \"none\"\ntokens = [\"serve\"]\nexclude = [\"serve\"]"),
        p("session = { flag = \"-m\" }\ntokens = [\"-m\", \"w\"]"),
        p("session = \"none\"\nlaunchers = [\"npx\", \"/bin/run\"]"),
        p("session = \"none\"\nlaunchers = [\"bash\"]"),
        rules("[worker]\nprogram = \"a/b\"\nsession = \"none\""),
        rules("[worker]\nprogram = \"python3\"\nsession = \"none\""),
        rules(
            "[[worker]]\nprogram = \"a\"\nsession = \"none\"\n\
             [[worker]]\nprogram = \"a\"\nexclude = [\"-v\"]\nsession = \"none\"\nname = \"b\"",
        ),
        rules(
            "[[worker]]\ntokens = [\"a\"]\nsession = \"none\"\n\
             [[worker]]\ntokens = [\"x\", \"a\"]\nsession = \"none\"\nname = \"b\"",
        ),
        rules(
            "[[worker]]\ntokens = [\"a\"]\nsession = \"none\"\n\
             [[worker]]\ntokens = [\"b\"]\nsession = \"none\"",
        ),
        rules("description = \"\tÄ\u{4e2d}\" x"),
    ];
    insta::assert_snapshot!(all.join("\n\n"));
}

#[test]
fn one_rule_is_written_as_it_always_was() {
    let profile = Profile::parse(MINIMAL).unwrap();
    let json = serde_json::to_value(&profile).unwrap();
    let worker = serde_json::json!({ "tokens": ["-m", "w"], "session_flag": "--session" });
    assert_eq!(json["worker"], worker);
}

#[test]
fn several_rules_survive_the_start_record() {
    let text = "name = \"p\"\n[[worker]]\nname = \"agent\"\nprogram = \"c10-agent\"\n\
                session = [{ flag = \"--resume\" }, { env = \"SID\" }]\nchannel = \"socket\"\n\
                [[worker]]\nprogram = \"c10-lsp\"\nsession = { cwd = true }\none_per = \"none\"\n\
                [[worker]]\ntokens = [\"run\"]\nsession = \"none\"\nexclude = [\"--type=*\"]\n";
    let profile = Profile::parse(text).unwrap();
    let json = serde_json::to_string(&profile).unwrap();
    assert_eq!(serde_json::from_str::<Profile>(&json).unwrap(), profile, "{json}");
    let names: Vec<&str> = profile.workers.iter().map(WorkerRule::name).collect();
    assert_eq!(names, ["agent", "c10-lsp", "worker"]);
    let one_per: Vec<OnePer> = profile.workers.iter().map(WorkerRule::one_per).collect();
    assert_eq!(one_per, [OnePer::Session, OnePer::None, OnePer::Gateway]);
    let channel = |rule: &WorkerRule| rule.channel();
    assert_eq!(
        profile.workers.iter().map(channel).collect::<Vec<_>>(),
        [Some(Channel::Socket), None, None]
    );
    assert_eq!(Profile::hermes().workers[0].channel(), Some(Channel::Stdin));
}
