//! What is asked for wrongly or cannot be done here is refused with what to do.

use std::os::unix::process::CommandExt as _;

use super::*;

#[test]
fn help_teaches() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for what in ["Examples:", "Exit codes:", "record", "replay", "doctor", "ps", "schema"] {
        assert!(stdout(&output).contains(what), "{what}");
    }
    let output = run(&["record", "--help"]);
    for what in
        ["--duration", "--linger", "--fail-on", "--sensor", "--count-calls", "[-- <CMD>...]"]
    {
        assert!(stdout(&output).contains(what), "{what}");
    }
    assert_eq!(run(&["--version"]).status.code(), Some(0));
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["--frobnicate"][..],
        &[],
        &["teleport"],
        &["record", "--sensor", "crystal-ball"],
        &["record", "--duration", "soon"],
        &["record", "--linger", "5s"],
        &["run", "--fail-on", "maybe"],
    ] {
        refused(&run(args), &[]);
    }
    refused(&run(&["run", "--sensor", "poll", "--sample-interval", "1ms"]), &["100ms"]);
    refused(&run(&["run", "--sensor", "poll", "--count-calls"]), &["kernel", "next step:"]);
}

#[test]
fn a_bad_profile_is_refused_with_its_line() {
    let folder = Folder::new();
    let bad =
        folder.write("bad.toml", "name = \"p\"\n[worker]\ntokens = []\nsession_flag = \"-s\"\n");
    refused(
        &run(&["--profile", &bad, "ps"]),
        &["bad.toml", "line 3, column 10: neither `tokens` nor `program`", "^^", "next step:"],
    );
    let bad =
        folder.write("empty.toml", "name = \"p\"\n[worker]\ntokens=[\"\"]\nsession_flag=\"-s\"");
    refused(
        &run(&["ps", "--profile", &bad]),
        &["line 3, column 9: a token is empty", "3 | tokens=[\"\"]"],
    );
    let bad = folder.write("binary.toml", b"name = \"p\"\n\xff\xfe");
    refused(&run(&["ps", "--profile", &bad]), &["line 2: not UTF-8"]);
    refused(&run(&["ps", "--profile", "/dev/zero"]), &["longer than"]);
    refused(
        &run(&["ps", "--profile", "/nonexistent.toml"]),
        &["/nonexistent.toml", "No such file"],
    );
}

#[test]
fn a_profile_is_checked() {
    let folder = Folder::new();
    let good = folder.write(
        "good.toml",
        "name = \"p\"\n[worker]\nprogram = \"slashtrace-cli-test\"\nsession = { env = \"S\" }\n",
    );
    let mut worker = Command::new("sleep")
        .arg0("slashtrace-cli-test")
        .arg("60")
        .env("S", "key-1")
        .spawn()
        .unwrap();
    let output = run(&["profile", "check", &good]);
    let json = run(&["profile", "check", "--json", &good]);
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for what in ["is valid", "`slashtrace-cli-test`", "$S", "1 of this machine", "key-1"] {
        assert!(stdout(&output).contains(what), "{what}: {}", stdout(&output));
    }
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(json["valid"], true);
    assert_eq!(json["rules"][0]["processes"][0]["session"], "key-1", "{json}");

    let bad =
        folder.write("bad.toml", "name = \"p\"\n[worker]\nprogram = \"a/b\"\nsession = \"none\"\n");
    let wanted =
        ["line 3, column 11", "3 | program = \"a/b\"", "  |           ^^^^^", "next step:"];
    refused(&run(&["profile", "check", &bad]), &wanted);
    let json = run(&["profile", "check", "--json", &bad]);
    assert_eq!(json.status.code(), Some(2));
    let json: serde_json::Value = serde_json::from_str(&stdout(&json)).unwrap();
    assert_eq!(
        (&json["valid"], &json["line"], &json["column"]),
        (&false.into(), &3.into(), &11.into())
    );
    assert!(stdout(&run(&["profile", "check", "--help"])).contains("[[worker]]"));
}

#[test]
fn the_profiles_of_cases_are_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/cases");
    let mut checked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path().join("profile.toml");
        if !path.exists() {
            continue;
        }
        let output = run(&["profile", "check", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{}: {output:?}", path.display());
        checked += 1;
    }
    assert!(checked >= 12, "{checked}");
}

#[test]
fn replay_refuses_what_is_no_evidence() {
    let folder = Folder::new();
    refused(&run(&["replay", "/nonexistent"]), &["/nonexistent", "No such file", "next step:"]);
    let here = folder.0.path().to_str().unwrap();
    refused(
        &run(&["replay", here]),
        &["no evidence in the folder", "evidence.ndjson.gz", "next step:"],
    );
    for (name, text, what) in [
        ("empty", "", "line 1: the file is empty"),
        ("text", "hello\n", "line 1: not a record"),
        ("newer", "{\"v\":2,\"seq\":1,\"type\":\"start\"}\n", "line 1: format version 2"),
        ("cut", "{\"v\":1,\"se", "line 1: the file ends in the middle"),
        ("escape", "{\"v\":1,\"type\":\"\\u001b[2J\"}\n", "`\\x1b[2J`"),
    ] {
        let file = folder.write(name, text);
        refused(&run(&["replay", &file]), &[name, what, "next step:"]);
    }
    refused(&run(&["replay", "-"]), &["the file is empty"]);
}

#[test]
fn schema_is_json_and_head_may_stop_reading() {
    let output = run(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(schema["title"], "Record");
    let mut child = slashtrace().arg("schema").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_kernel_programs_without_root_are_refused_with_what_to_do() {
    let mut command = slashtrace();
    command.args(["run", "--sensor", "ebpf"]);
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        // `nobody` cannot look into the build's folder everywhere, so it gets a copy.
        let folder = tempfile::Builder::new().prefix("st").tempdir_in("/tmp").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let copy = folder.path().join("slashtrace");
        copy_program(&copy);
        let mut command = Command::new(&copy);
        command.args(["run", "--sensor", "ebpf"]).uid(65534).gid(65534).current_dir("/");
        refused(&command.stdin(Stdio::null()).output().unwrap(), &["next step:", "root"]);
    } else {
        refused(&command.output().unwrap(), &["next step:", "root"]);
    }
}
