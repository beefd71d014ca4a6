//! What a recording leaves behind, and what is made of it later.

use super::*;

#[test]
fn what_was_recorded_is_found_again() {
    let folder = Folder::new();
    let output = duplicate(&folder, &["--color", "always"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = evidence(&folder);
    let findings: Vec<String> = text
        .lines()
        .filter(|line| line.contains("\"type\":\"finding\""))
        .map(str::to_owned)
        .collect();
    assert!(findings[0].contains("\"kind\":\"duplicate-worker\""), "{}", stderr(&output));
    assert!(stderr(&output).contains("duplicate-worker"), "{}", stderr(&output));

    let file = &folder.text("rec/evidence.ndjson.gz");
    let output = run(&["replay", file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), findings.join("\n") + "\n");
    assert!(stderr(&output).contains("identical to the recorded"));
    let mut child = slashtrace()
        .args(["replay", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert_eq!(stdout(&child.wait_with_output().unwrap()), findings.join("\n") + "\n");

    // The same recording, cut off in the middle of its last line, without its stop, and changed.
    let count = text.lines().count();
    let cut = folder.write("cut", &text[..text.len() - 20]);
    let output = run(&["replay", &cut]);
    refused(&output, &[&format!("line {count}: "), "next step:", "were judged"]);
    assert_eq!(stdout(&output), findings.join("\n") + "\n", "what was whole is judged");
    let whole: Vec<&str> = text.lines().take(count - 1).collect();
    let open = folder.write("open", whole.join("\n") + "\n");
    let output = run(&["replay", &open]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("no stop record"));
    let changed = folder.write("changed", text.replace("duplicate-worker", "lost-worker"));
    refused(&run(&["replay", &changed]), &["not the recorded ones", "recorded (", "next step:"]);

    for (least, code) in [("weak", 1), ("proven", 0)] {
        assert_eq!(run(&["replay", file, "--fail-on", least]).status.code(), Some(code));
    }
    let output = run(&["replay", file, "--table", "--color", "never"]);
    assert!(stderr(&output).contains("duplicate-worker"), "{}", stderr(&output));
}

#[test]
fn findings_fail_a_recording_that_is_told_so() {
    let folder = Folder::new();
    let output = duplicate(&folder, &["--fail-on", "weak", "--quiet"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(folder.path("rec/evidence.ndjson.gz").exists());
}

#[test]
fn a_bundle_is_reported_in_every_format() {
    let folder = Folder::new();
    let output = duplicate(&folder, &["--junit", &folder.text("junit.xml")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let junit = fs::read_to_string(folder.path("junit.xml")).unwrap();
    assert!(junit.contains("<failure type=\"duplicate-worker\""), "{junit}");
    let rec = &folder.text("rec");
    for (format, what) in [
        ("text", "duplicate-worker"),
        ("markdown", "# slashtrace report"),
        ("html", "duplicate-worker"),
        ("json", "\"kind\": \"duplicate-worker\""),
        ("junit", "<testsuites"),
    ] {
        let archive = &folder.text("rec/slashtrace-report.tar.gz");
        for source in [rec, archive] {
            let output = run(&["report", source, "--format", format]);
            assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
            assert!(stdout(&output).contains(what), "{format}: {}", stdout(&output));
        }
        let file = &folder.text(format);
        run(&["report", rec, "--format", format, "-o", file]);
        assert!(fs::read_to_string(file).unwrap().contains(what), "{format}");
    }
    // What the recording said is what its replay says.
    let made = fs::read_to_string(folder.path("rec/report.md")).unwrap();
    assert_eq!(stdout(&run(&["report", rec, "--format", "markdown"])), made);
    assert_eq!(stdout(&run(&["report", rec, "--format", "junit"])), junit);
    let output = run(&["report", rec, "--fail-on", "duplicate-worker"]);
    assert_eq!(output.status.code(), Some(1));
    let output = run(&["report", "--diff", rec, rec]);
    assert!(stdout(&output).starts_with("The same: "), "{}", stdout(&output));
    refused(&run(&["report", "--diff", rec, rec, "--format", "html"]), &["next step:"]);
    refused(&run(&["report"]), &["<BUNDLE>"]);
    refused(&run(&["report", "/nonexistent"]), &["/nonexistent", "next step:"]);
}

#[test]
fn colours_are_for_text_and_only_where_they_are_wanted() {
    let folder = Folder::new();
    let output = duplicate(&folder, &[]);
    assert!(!stderr(&output).contains('\x1b'), "a pipe: {}", stderr(&output));
    let rec = &folder.text("rec");
    let shown = |format: &str, more: &[&str], variables: &[(&str, &str)]| {
        let mut command = slashtrace();
        command.env_remove("CLICOLOR_FORCE").env_remove("NO_COLOR");
        command.args(["report", rec, "--format", format]).args(more);
        stdout(&command.envs(variables.iter().copied()).output().unwrap())
    };
    let bare = shown("text", &[], &[]);
    assert!(!bare.contains('\x1b'), "{bare:?}");
    let always = shown("text", &["--color", "always"], &[("NO_COLOR", "1")]);
    assert!(always.contains("\x1b[1mGATEWAY"), "{always:?}");
    assert_eq!(anstream::adapter::strip_str(&always).to_string(), bare);
    let force = ("CLICOLOR_FORCE", "1");
    assert_eq!(shown("text", &[], &[force]), always);
    assert_eq!(shown("text", &[], &[force, ("NO_COLOR", "1")]), bare);
    assert_eq!(shown("text", &["--color", "never"], &[force]), bare);
    for format in ["json", "junit", "html", "markdown"] {
        let data = shown(format, &[], &[]);
        assert_eq!(shown(format, &["--color", "always"], &[]), data, "{format}");
    }
    for (when, expected) in [("auto", &bare), ("always", &always)] {
        let file = folder.text(when);
        shown("text", &["-o", &file, "--color", when], &[]);
        assert_eq!(&fs::read_to_string(file).unwrap(), expected, "{when}");
    }
}

#[test]
fn sessions_are_hashed_where_that_is_wanted() {
    let folder = Folder::new();
    let output = duplicate(&folder, &["--sessions", "hash"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let records = lines(&folder);
    let found = records.iter().find(|line| line["type"] == "finding").unwrap();
    assert!(found["session"].as_str().unwrap().starts_with("session-"), "{found}");
    assert_eq!(run(&["replay", &folder.text("rec")]).status.code(), Some(0));
}

#[test]
fn without_root_the_same_bundle_is_made_and_says_what_it_could_not_see() {
    let folder = tempfile::Builder::new().prefix("st").tempdir_in("/tmp").unwrap();
    let copy = folder.path().join("slashtrace");
    copy_program(&copy);
    let work = folder.path().join("work");
    fs::create_dir(&work).unwrap();
    let mut command = Command::new(&copy);
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&work, Some(65534), Some(65534)).unwrap();
        command.uid(65534).gid(65534);
    }
    let script = format!("(sleep 1.5 | {WORKER} mine) & sleep 0.8");
    command.args(["record", "-o", "rec", "--sample-interval", "100ms", "--linger", "2s"]);
    let output = command
        .args(["--", "sh", "-c", &script])
        .current_dir(&work)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("sensor: poll (no kernel programs: "), "{told}");
    for name in BUNDLE {
        assert!(work.join("rec").join(name).exists(), "{name}: {told}");
    }
    let report = fs::read_to_string(work.join("rec/report.md")).unwrap();
    assert!(report.contains("`mine`") && report.contains("only /proc was read"), "{report}");
}

#[test]
fn github_is_told_in_its_own_words() {
    let folder = Folder::new();
    let summary = folder.write("summary.md", "before\n");
    let output = folder.text("rec");
    let mut command = slashtrace();
    command.args(["record", "-o", &output, "--sensor", "poll", "--sample-interval", "100ms"]);
    command.args(["--profile", &strict(&folder), "--", "sh", "-c", &two_workers(4)]);
    command.arg(folder.text("fifo"));
    command.env("GITHUB_ACTIONS", "true").env("GITHUB_STEP_SUMMARY", &summary);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("\n::error title=duplicate-worker"), "{}", stderr(&output));
    let summary = fs::read_to_string(summary).unwrap();
    assert!(summary.starts_with("before\n# slashtrace report"), "{summary}");
}

#[test]
fn a_folder_that_cannot_be_used_is_refused() {
    let folder = Folder::new();
    let file = folder.write("file", "precious");
    let here = folder.0.path().to_str().unwrap();
    refused(&run(&["record", "-o", here, "--sensor", "poll"]), &["is not empty", "next step:"]);
    refused(&run(&["record", "-o", &file, "--sensor", "poll"]), &["cannot use", "next step:"]);
    let below = format!("{file}/below");
    refused(&run(&["record", "-o", &below, "--sensor", "poll"]), &["next step:"]);
    refused(&run(&["record", "-o", "/proc/x", "--sensor", "poll"]), &["cannot make", "next step:"]);
    refused(&run(&["run", "--evidence", &file, "--sensor", "poll"]), &["exists", "next step:"]);
    refused(&run(&["run", "--evidence", "/proc/x/y"]), &["cannot create", "next step:"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

/// A run that may write nothing to any disk, and is given no more than 512 MiB and 60 s of CPU.
fn bounded(args: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 0; ulimit -v 524288; ulimit -t 60; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_slashtrace")).args(args).stdin(Stdio::null());
    command.output().unwrap()
}

/// What was injected on 29261ca: 6 MB that unpack to 6 GiB.
#[test]
fn six_gib_in_six_mb_are_refused_before_they_are_unpacked() {
    let gz = |bytes: &mut dyn io::Read| {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        io::copy(bytes, &mut gz).unwrap();
        gz.finish().unwrap()
    };
    // A gzip file may be several, one after the other.
    let zeros = gz(&mut io::repeat(0).take(64 << 20));
    let member = |name: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(6 << 30);
        header.set_cksum();
        gz(&mut &header.as_bytes()[..])
    };
    let folder = Folder::new();
    for (name, start) in [
        ("plain.gz", Vec::new()),
        ("evidence.tar.gz", member("b/evidence.ndjson")),
        ("packed.tar.gz", member("b/evidence.ndjson.gz")),
        ("before.tar.gz", member("b/other")),
    ] {
        let mut bytes = start;
        (0..96).for_each(|_| bytes.extend(&zeros));
        let archive = folder.write(name, &bytes);
        assert!((5_900_000..6_600_000).contains(&bytes.len()), "{}", bytes.len());
        for args in [&["replay", &archive][..], &["report", &archive]] {
            let output = bounded(args);
            refused(&output, &["next step:"]);
            let told = stderr(&output);
            let known = ["200 times its size", "longer than 16 MiB", "no whole archive"];
            assert!(known.iter().any(|known| told.contains(known)), "{name}: {told}");
        }
    }
}

#[test]
fn a_folder_with_a_fifo_does_not_hang() {
    let folder = Folder::new();
    for name in ["evidence.ndjson.gz", "evidence.ndjson", "evidence.ndjson.part"] {
        let fifo = folder.path(name);
        assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        let here = folder.0.path().to_str().unwrap();
        for given in [here, fifo.to_str().unwrap()] {
            refused(&run(&["replay", given]), &[name, "is no file", "next step:"]);
            refused(&run(&["report", given]), &[name, "is no file", "next step:"]);
        }
        refused(&run(&["report", "--diff", here, here]), &["is no file"]);
        fs::remove_file(fifo).unwrap();
    }
}

#[test]
fn what_cannot_begin_leaves_nothing() {
    let folder = Folder::new();
    let rec = folder.text("rec");
    let output = run(&["record", "-o", &rec, "--sensor", "poll", "--", "/nonexistent/command"]);
    refused(&output, &["cannot run /nonexistent/command", "next step:"]);
    assert!(!folder.path("rec").exists());
}

#[test]
fn a_full_disk_is_told() {
    let output = run(&["run", "--sensor", "poll", "--evidence", "/dev/full"]);
    refused(&output, &["/dev/full", "No space left", "next step: make room"]);
}
