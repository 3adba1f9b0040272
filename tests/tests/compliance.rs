//! `docs/rfc-compliance.md`: every requirement has a row, every row a test or a reason, and every test that is named exists and runs.
//! Needs neither root nor the program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The documents, and what they number.
const REQUIREMENTS: [(&str, &str); 5] = [
    ("RFC 4787", "1 2 3 3a 4 5 5a 5b 5c 6 6a 7 8 8a 9 9a 10 10a 11 12 12a 12b 13 13a 14 14a"),
    ("RFC 5382", "1 2 2a 3 3a 3b 4 4a 5 5a 6 7 8 8a 9 10"),
    ("RFC 5508", "1 1a 2 2a 3 3a 3b 3c 3d 4 4a 4b 4c 5 5a 5b 5c 6 7 7a 8 9 10a 10b 10c 10d 10e 10f 11"),
    ("RFC 7857", "2 2.1 2.2 3 4 5 6 7 7.1 8 9 10 11 12"),
    ("RFC 6888", "1 2 3 4 4a 4b 4c 5 5a 5b 6 7 8 8a 8b 8c 9 10 11a 11b 11c 11d 12 13 14 15"),
];

/// The last section: what it has rows for is a list in words.
const BUGS: &str = "Known bugs of other NATs";
const KNOWN_BUGS: usize = 16;

struct Row {
    label: String,
    /// What is done, and the tests or the reason.
    cells: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").to_owned()
}

/// The rows of the tables, by the heading above them.
fn sections() -> BTreeMap<String, Vec<Row>> {
    let path = root().join("docs/rfc-compliance.md");
    let page = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut sections: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    let mut heading = String::new();
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            text.split(',').next().unwrap_or(text).trim().clone_into(&mut heading);
        }
        let Some(cells) = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |")) else { continue };
        let mut cells: Vec<String> = cells.split(" | ").map(|cell| cell.trim().to_owned()).collect();
        let label = cells.remove(0);
        if !label.starts_with("---") && !label.is_empty() && !matches!(label.as_str(), "bug" | "requirement") {
            sections.entry(heading.clone()).or_default().push(Row { label, cells });
        }
    }
    sections
}

/// The tests that a cell names: `file::function` or `folder/file::function`, in backquotes.
fn tests(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect()
}

/// Where the tests of a module are: its file, or the files of its folder. Those of the crates are named with the crate.
fn files_of(module: &str) -> Vec<PathBuf> {
    let root = root();
    let path = match module.split_once('/') {
        Some((krate @ ("xnat-common" | "xnat" | "xtask"), path)) => root.join(krate).join(path),
        _ => root.join("tests/tests").join(module),
    };
    match fs::read_dir(&path) {
        Ok(folder) => folder.map(|entry| entry.expect("an entry").path()).collect(),
        Err(_) => vec![path.with_extension("rs")],
    }
}

/// What is wrong with a test's name, if anything is.
fn check(test: &str) -> Result<(), String> {
    let (module, function) = test.rsplit_once("::").expect("two parts");
    let definition = format!("fn {function}(");
    let mut sources = files_of(module).into_iter().filter_map(|path| fs::read_to_string(path).ok());
    let Some((source, at)) = sources.find_map(|source| source.find(&definition).map(|at| (source, at))) else {
        return Err(format!("{test}: {module} has no such function"));
    };
    let line = source[..at].rfind('\n').map_or(0, |end| end + 1);
    let attributes: Vec<&str> = source[..line]
        .lines()
        .rev()
        .map(str::trim)
        .take_while(|line| line.starts_with('#') || line.starts_with("//"))
        .collect();
    if attributes.iter().any(|attribute| attribute.contains("ignore")) {
        return Err(format!("{test} is ignored"));
    }
    // A test by itself, or one that a macro makes of each function in a list.
    let is_test = attributes.contains(&"#[test]");
    let is_listed = source.lines().any(|line| line.trim().trim_end_matches(',') == function);
    if is_test || is_listed { Ok(()) } else { Err(format!("{test} is no test")) }
}

#[test]
fn every_requirement_has_a_row_and_every_row_a_requirement() {
    let sections = sections();
    for (document, labels) in REQUIREMENTS {
        let wanted: Vec<&str> = labels.split(' ').collect();
        let rows = sections.get(document).unwrap_or_else(|| panic!("the page has no section {document}"));
        let found: Vec<&str> = rows.iter().map(|row| row.label.as_str()).collect();
        assert_eq!(found, wanted, "{document}");
    }
    assert_eq!(sections.get(BUGS).map_or(0, Vec::len), KNOWN_BUGS, "{BUGS}");
}

#[test]
fn every_row_names_a_test_or_gives_a_reason() {
    let sections = sections();
    let rows = sections.iter().flat_map(|(document, rows)| rows.iter().map(move |row| (document, row)));
    let bare: Vec<String> = rows
        .filter(|(_, row)| {
            let [what, proof] = row.cells.as_slice() else { return true };
            let reason = proof.strip_prefix("no test: ").is_some_and(|reason| reason.len() > 20);
            what.is_empty() || tests(proof).is_empty() && !reason
        })
        .map(|(document, row)| format!("{document}, {}: {:?}", row.label, row.cells))
        .collect();
    assert!(bare.is_empty(), "{}", bare.join("\n"));
    assert!(sections[BUGS].iter().all(|row| !tests(&row.cells[1]).is_empty()), "each known bug is a test");
}

#[test]
fn every_test_that_is_named_exists_and_runs() {
    let sections = sections();
    let cells = sections.values().flatten().flat_map(|row| row.cells.iter());
    let named: BTreeSet<&str> = cells.flat_map(|cell| tests(cell)).collect();
    assert!(named.len() > 50, "the page names {} tests", named.len());
    let wrong: Vec<String> = named.into_iter().filter_map(|test| check(test).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
