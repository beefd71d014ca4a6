//! The JSON Schema of a record, made from the Rust types, and its copy in docs/EVIDENCE.md.

use anyhow::{Context as _, Result};

use crate::model::Record;

/// Stands before the schema in docs/EVIDENCE.md.
const BEGIN: &str = "<!-- schema: begin (made by `slashtrace schema`) -->\n\n```json\n";
/// Ends it.
const END: &str = "```\n\n<!-- schema: end -->";

/// The schema (JSON Schema 2020-12) of one line of evidence, pretty-printed.
pub fn json() -> Result<String> {
    let schema = schemars::schema_for!(Record);
    let mut text = serde_json::to_string_pretty(&schema).context("cannot print the schema")?;
    text.push('\n');
    Ok(text)
}

/// `document` with the schema between its marks replaced by the current one; `None` if it has none.
pub fn embed(document: &str, schema: &str) -> Option<String> {
    let (before, rest) = document.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{schema}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{line, samples},
        *,
    };

    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/EVIDENCE.md");

    #[test]
    fn the_document_is_current() {
        let document = std::fs::read_to_string(DOCUMENT).unwrap();
        let current = embed(&document, &json().unwrap()).expect("docs/EVIDENCE.md has the marks");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(DOCUMENT, &current).unwrap();
            return;
        }
        assert!(
            document == current,
            "docs/EVIDENCE.md is not what the types say: \
             UPDATE_SCHEMA=1 cargo test -p slashtrace schema"
        );
    }

    #[test]
    fn the_document_names_every_type() {
        let document = std::fs::read_to_string(DOCUMENT).unwrap();
        for record in samples::every_type() {
            let value = serde_json::to_value(&record).unwrap();
            let name = value["type"].as_str().unwrap();
            assert!(document.contains(&format!("| `{name}` |")), "no row for {name}");
        }
    }

    #[test]
    fn the_document_has_a_valid_example_of_every_type() {
        let schema = serde_json::from_str(&json().unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let document = std::fs::read_to_string(DOCUMENT).unwrap();
        let (_, examples) = document.split_once("## Examples").expect("there are some");
        let (examples, _) = examples.split_once("## Recipes").expect("and then recipes");
        let mut shown = std::collections::BTreeSet::new();
        for example in examples.lines().filter(|line| line.starts_with('{')) {
            let value: serde_json::Value = serde_json::from_str(example).unwrap();
            let errors: Vec<String> =
                validator.iter_errors(&value).map(|error| error.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new(), "{value}");
            // As it is written today, whole.
            let record: Record = serde_json::from_str(example).unwrap();
            assert_eq!(line(&record).unwrap(), example);
            shown.insert(value["type"].as_str().unwrap().to_owned());
        }
        for record in samples::every_type() {
            let value = serde_json::to_value(&record).unwrap();
            assert!(shown.contains(value["type"].as_str().unwrap()), "no example of {value}");
        }
    }

    #[test]
    fn records_of_every_type_are_valid() {
        let schema = serde_json::from_str(&json().unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        for record in samples::every_type() {
            let value = serde_json::from_str(&line(&record).unwrap()).unwrap();
            let errors: Vec<String> =
                validator.iter_errors(&value).map(|error| error.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new(), "{value}");
        }
    }

    #[test]
    fn what_is_no_record_is_not_valid() {
        let schema = serde_json::from_str(&json().unwrap()).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let good = serde_json::to_value(&samples::all()[1]).unwrap();
        assert!(validator.is_valid(&good));
        for (key, value) in [
            ("seq", serde_json::json!("2")),
            ("type", serde_json::json!("teleport")),
            ("role", serde_json::json!("boss")),
            ("pid", serde_json::Value::Null),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(!validator.is_valid(&bad), "{key}");
            bad.as_object_mut().unwrap().remove(key);
            assert!(!validator.is_valid(&bad), "without {key}");
        }
    }

    /// The wire format: a change here is a change of the format.
    #[test]
    fn wire_format() {
        let lines: Vec<String> =
            samples::every_type().iter().map(|record| line(record).unwrap()).collect();
        insta::assert_snapshot!(lines.join("\n"));
    }

    #[test]
    fn embed_needs_its_marks() {
        assert_eq!(embed("no marks", "{}\n"), None);
        let document = format!("a{BEGIN}old{END}b");
        assert_eq!(embed(&document, "new\n").unwrap(), format!("a{BEGIN}new\n{END}b"));
    }
}
