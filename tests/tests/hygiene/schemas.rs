//! Each schema of the API document has a name of its own: of two types called alike one would
//! silently stand for the other.
//!
//! Limit: a type is found by a `derive` on one line that names `ToSchema`, as all of them are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The types of a source file that are schemas, by the name that the document gives them.
fn schemas(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = source.lines();
    while let Some(line) = lines.next() {
        if !(line.trim_start().starts_with("#[derive(") && line.contains("ToSchema")) {
            continue;
        }
        let mut named = None;
        for line in lines.by_ref() {
            if let Some((_, name)) = line.split_once("schema(as = ") {
                named = name.split([',', ')']).next().map(str::to_owned);
            }
            let mut words = line.split([' ', '<', '(', ';']).skip_while(|it| !is_type(it)).skip(1);
            if let Some(name) = words.next() {
                found.push(named.unwrap_or_else(|| name.to_owned()));
                break;
            }
        }
    }
    found
}

fn is_type(word: &str) -> bool {
    ["struct", "enum"].contains(&word)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_schema_has_a_name_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in ["actors", "gateway/src"] {
        sources(&root.join(folder), &mut files);
    }
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        let shown = file.display().to_string();
        for name in schemas(&std::fs::read_to_string(&file).unwrap()) {
            let before = known.insert(name.clone(), shown.clone());
            assert!(before.is_none(), "{name} is in {} and in {shown}", before.unwrap_or_default());
        }
    }
    assert!(known.len() > 100, "only {} schemas were found", known.len());
}

#[test]
fn a_schema_is_found_by_its_own_name_or_the_one_it_is_given() {
    let source = "#[derive(Serialize, ToSchema)]\npub struct Card<T> {\n}\n\
        #[derive(ToSchema)]\n#[schema(as = Other)]\nenum Kind { A }\n\
        #[derive(Clone)]\nstruct NoSchema;\n";
    assert_eq!(schemas(source), ["Card", "Other"]);
}
