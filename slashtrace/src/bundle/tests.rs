use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::{
    evidence::{EvidenceWriter, Reader, samples},
    next_step::next_steps,
    report::digest::Digest,
    roster::Roster,
    sink::Sink as _,
};

/// A recording of one record of each type, as `record` leaves it.
fn recorded(folder: &Folder) -> Report {
    let mut writer = EvidenceWriter::create(&folder.part()).unwrap();
    let (mut digest, mut roster) = (Digest::new(), Roster::blank());
    for record in samples::all() {
        roster.observe(&record);
        writer.record(&record, &roster).unwrap();
        digest.record(&record, &roster).unwrap();
    }
    writer.flush().unwrap();
    digest.report()
}

#[test]
fn a_bundle_is_whole_private_and_can_be_read_in_every_form() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("leak");
    let folder = Folder::prepare(&path).unwrap();
    let bundle = folder.finish(&recorded(&folder), &TimeZone::UTC).unwrap();
    let mut names: Vec<String> = fs::read_dir(&path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "README.txt",
            "environment.json",
            "evidence.ndjson.gz",
            "report.html",
            "report.md",
            "slashtrace-report.tar.gz"
        ]
    );
    for name in names {
        assert_eq!(fs::metadata(path.join(name)).unwrap().mode() & 0o777, 0o600);
    }
    for source in [&path, &bundle.evidence, &bundle.archive] {
        let read: Vec<_> = Reader::open(source).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, samples::all(), "{}", source.display());
    }
    assert!(Folder::prepare(&path).unwrap_err().to_string().contains("not empty"));
}

#[test]
fn a_file_that_stands_in_the_way_is_left_alone_and_the_evidence_stays() {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::prepare(parent.path()).unwrap();
    let report = recorded(&folder);
    fs::write(parent.path().join("report.md"), "mine").unwrap();
    let error = folder.finish(&report, &TimeZone::UTC).unwrap_err();
    assert!(error.to_string().contains("the recording is whole"), "{error:#}");
    assert!(next_steps(&error)[0].starts_with("make room, then"), "{error:#}");
    assert_eq!(fs::read_to_string(parent.path().join("report.md")).unwrap(), "mine");
    assert_eq!(Reader::open(parent.path()).unwrap().count(), samples::all().len());
}

#[test]
fn a_recording_that_never_began_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("new");
    let folder = Folder::prepare(&path).unwrap();
    drop(EvidenceWriter::create(&folder.part()).unwrap());
    assert_eq!(folder.abandon(), None);
    assert!(!path.exists());
    let folder = Folder::prepare(&path).unwrap();
    recorded(&folder);
    assert_eq!(folder.abandon(), Some(folder.part()));
}

#[test]
fn what_somebody_put_in_the_place_of_the_evidence_is_not_packed() {
    let parent = tempfile::tempdir().unwrap();
    let folder = Folder::prepare(parent.path()).unwrap();
    let report = recorded(&folder);
    let secret = parent.path().join("secret");
    fs::write(&secret, "not theirs").unwrap();
    fs::remove_file(folder.part()).unwrap();
    std::os::unix::fs::symlink(&secret, folder.part()).unwrap();
    assert!(folder.finish(&report, &TimeZone::UTC).is_err());
    assert!(!parent.path().join(EVIDENCE).exists());
}
