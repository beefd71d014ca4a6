//! Recordings of earlier versions are judged as they were then: each is replayed, and every finding
//! is compared with the recorded one. They are evidence of the end-to-end tests, made with
//! `SLASHTRACE_BINARY` and `SLASHTRACE_KEEP_EVIDENCE`. No root is needed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use slashtrace::{evidence, model::Kind};
use slashtrace_tests::host;

/// A finding that is judged otherwise today, on purpose.
struct Explained {
    /// Name of the recording, without `.ndjson.gz`.
    recording: &'static str,
    /// Id of the finding.
    finding: &'static str,
    /// Why it is better so: printed by the test.
    why: &'static str,
}

/// Every accepted difference. One that no longer occurs fails the test, as one that is not here.
const EXPLAINED: &[Explained] = &[];

/// Each state of a finding, in order: everything that its record says, but its own number. The
/// numbers of findings shift when one of them is new; those of observations, in `because`, do not.
type Findings = BTreeMap<String, Vec<Value>>;

fn add(findings: &mut Findings, mut record: Value) {
    let fields = record.as_object_mut().expect("a record is an object");
    fields.remove("seq");
    let id = fields["id"].as_str().expect("a finding has an id").to_owned();
    findings.entry(id).or_default().push(record);
}

/// The findings in a recording.
fn recorded(file: &Path) -> Findings {
    let mut findings = Findings::new();
    for record in evidence::Reader::open(file).expect("the recording is there") {
        let line = evidence::line(&record.expect("it is whole")).expect("a record is plain data");
        let value: Value = serde_json::from_str(&line).expect("a line is JSON");
        if value["type"] == "finding" {
            add(&mut findings, value);
        }
    }
    findings
}

/// The findings that are made of it today.
fn replayed(file: &Path) -> Findings {
    let output =
        Command::new(host::slashtrace()).arg("replay").arg(file).output().expect("slashtrace runs");
    let said = String::from_utf8_lossy(&output.stderr);
    // 3: the findings are other ones, which is what is looked at here.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}: {said}", file.display());
    let mut findings = Findings::new();
    for line in String::from_utf8(output.stdout).expect("evidence is UTF-8").lines() {
        add(&mut findings, serde_json::from_str(line).expect("a line is JSON"));
    }
    findings
}

fn recordings() -> BTreeMap<String, PathBuf> {
    let folder = host::fixture("recordings/29261ca");
    let entries = fs::read_dir(&folder).expect("the recordings are there").flatten();
    let named = entries.filter_map(|entry| {
        let name = entry.file_name().to_string_lossy().strip_suffix(".ndjson.gz")?.to_owned();
        Some((name, entry.path()))
    });
    named.collect()
}

/// The findings that are not the same, by their ids: both, state by state, for a person.
fn compare(then: &Findings, now: &Findings) -> BTreeMap<String, String> {
    let line = |it: Option<&Value>| it.map_or_else(|| "nothing".to_owned(), Value::to_string);
    let ids: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let mut differences = BTreeMap::new();
    for id in ids {
        let states = |of: &Findings| of.get(id).cloned().unwrap_or_default();
        let (then, now) = (states(then), states(now));
        for n in 0..then.len().max(now.len()) {
            let (was, is) = (then.get(n), now.get(n));
            if was != is {
                let told: &mut String = differences.entry(id.clone()).or_default();
                let (was, is) = (line(was), line(is));
                let _ = write!(told, "    recorded: {was}\n    replayed: {is}\n");
            }
        }
    }
    differences
}

#[test]
fn every_finding_is_the_recorded_one_or_its_difference_is_explained() {
    let recordings = recordings();
    let (mut findings, mut states) = (0, 0);
    let mut differences = BTreeMap::new();
    for (name, file) in &recordings {
        let (then, now) = (recorded(file), replayed(file));
        findings += then.len();
        states += then.values().map(Vec::len).sum::<usize>();
        for (id, told) in compare(&then, &now) {
            differences.insert((name.clone(), id), told);
        }
    }
    println!("{findings} findings in {states} states, {} recordings", recordings.len());

    let mut unexpected = String::new();
    for one in EXPLAINED {
        let key = (one.recording.to_owned(), one.finding.to_owned());
        if differences.remove(&key).is_some() {
            println!("{}: {}: {}", one.recording, one.finding, one.why);
        } else {
            let _ = writeln!(unexpected, "  {}: {}: no longer differs", one.recording, one.finding);
        }
    }
    for ((recording, finding), told) in differences {
        let _ = write!(unexpected, "  {recording}: {finding}:\n{told}");
    }
    assert!(unexpected.is_empty(), "findings that differ and are not explained:\n{unexpected}");
}

#[test]
fn every_kind_of_finding_that_there_was_is_in_a_recording() {
    let mut kinds = BTreeSet::new();
    for file in recordings().values() {
        let of_file = recorded(file).into_values().flatten();
        kinds.extend(of_file.map(|finding| finding["kind"].as_str().expect("a kind").to_owned()));
    }
    // Two are younger than the recordings.
    let younger = [Kind::LauncherOrphan, Kind::LostAtClose];
    let old = Kind::ALL.iter().filter(|kind| !younger.contains(kind));
    let all: BTreeSet<String> = old.map(|kind| kind.name().to_owned()).collect();
    assert_eq!(kinds, all);
}

#[test]
fn a_finding_that_is_another_or_gone_is_a_difference() {
    let then = recorded(&recordings()["bundled"]);
    assert_eq!(compare(&then, &then), BTreeMap::new());
    let (first, last) = (then.keys().next().expect("one"), then.keys().last().expect("another"));
    let mut now = then.clone();
    now.get_mut(first).expect("it is there")[0]["confidence"] = "weak".into();
    now.remove(last);
    let differences = compare(&then, &now);
    assert_eq!(differences.keys().collect::<Vec<_>>(), [first, last]);
    assert!(differences[last].contains("replayed: nothing"), "{differences:?}");
}
