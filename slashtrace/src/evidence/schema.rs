use schemars::{Schema, schema_for};

use crate::model::Record;

/// JSON Schema of one line of evidence, generated from the Rust types.
pub fn schema() -> Schema {
    schema_for!(Record)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    const BEGIN: &str = "<!-- schema begin -->\n```json\n";
    const END: &str = "```\n<!-- schema end -->";

    #[test]
    fn the_schema_in_the_docs_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/EVIDENCE.md");
        let text = fs::read_to_string(&path).unwrap();
        let begin = text.find(BEGIN).expect("a place for the schema") + BEGIN.len();
        let end = begin + text[begin..].find(END).expect("its end");
        let current = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            fs::write(&path, format!("{}{current}{}", &text[..begin], &text[end..])).unwrap();
            return;
        }
        assert!(
            text[begin..end] == current,
            "docs/EVIDENCE.md is out of date: UPDATE_SCHEMA=1 cargo test -p slashtrace schema"
        );
    }
}
