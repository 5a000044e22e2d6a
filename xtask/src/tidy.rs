//! `cargo xtask tidy`: what no other tool checks.
//!
//! Each rule is a pure function from a file's text to complaints, so each is tested below.

use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};

/// A file that is longer is split by protocol, not by layer.
const LINES_MAX: usize = 700;
/// Folders that are not part of the project.
const NOT_OURS: [&str; 6] = ["target", ".git", ".quorate", "node_modules", "dist", "pkg"];

/// Leftovers, written apart so that this file does not hold them.
const LEFTOVERS: [&str; 6] = [
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("#[ig", "nore"),
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
];
/// One machine's paths, and hosts that a build must not name.
const MACHINES: [&str; 7] = [
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("/wo", "rk/"),
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("npmjs", ".org"),
    concat!("static.rust", "-lang.org"),
];

/// Checks the repository.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let mut files = Vec::new();
    list(root, &mut files)?;
    files.sort();
    let mut complaints = Vec::new();
    let mut checked = 0;
    for file in &files {
        let name = file.strip_prefix(root).expect("it was found below the root");
        // What is not text is not checked.
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        let of_file = check(&name.to_string_lossy(), &text);
        complaints.extend(of_file.into_iter().map(|text| format!("{}{text}", name.display())));
        checked += 1;
    }
    complaints.extend(architecture(root, &files)?);
    for complaint in &complaints {
        println!("{complaint}");
    }
    if complaints.is_empty() {
        println!("{checked} files are tidy");
        return Ok(());
    }
    bail!("{} complaints, each above with what to do", complaints.len())
}

fn list(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let ours = entry.file_name().to_str().is_some_and(|name| !NOT_OURS.contains(&name));
        if kind.is_dir() && ours {
            list(&entry.path(), files)?;
        } else if kind.is_file() && ours {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Complaints about one file; each begins with what follows the file's name (`:LINE: …` or `: …`).
fn check(name: &str, text: &str) -> Vec<String> {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    if extension == "lock" || name.starts_with("LICENSE") {
        return Vec::new();
    }
    let mut out = Vec::new();
    let written = ["rs", "toml", "md", "ts", "svelte", "js", "mjs"].contains(&extension);
    for (number, line) in (1..).zip(text.lines()) {
        let mut say = |what: String| out.push(format!(":{number}: {what}"));
        if let Some(machine) = MACHINES.iter().find(|machine| line.contains(**machine)) {
            say(format!("names {machine}: say it without one machine's paths and registries"));
        }
        if !written {
            continue;
        }
        if line.contains('\t') {
            say("holds a tab: indent with spaces".into());
        }
        if line.ends_with(' ') {
            say("ends with a space: remove it".into());
        }
        if let Some(leftover) = LEFTOVERS.iter().find(|leftover| line.contains(**leftover)) {
            say(format!("{leftover} is left over: finish it or take it out"));
        }
    }
    if written && !text.is_empty() && !text.ends_with('\n') {
        out.push(": does not end with a line break".into());
    }
    if extension == "rs" {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            out.push(format!(
                ": has {lines} lines and the limit is {LINES_MAX}: split it by protocol"
            ));
        }
        out.extend(exceptions(text));
    }
    if name.ends_with("Cargo.toml") && text.contains("[package]") && !inherits_lints(text) {
        out.push(": does not inherit the lints: add [lints] with workspace = true".into());
    }
    out
}

/// Every switched-off lint says why.
fn exceptions(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    for form in [concat!("#[al", "low("), concat!("#![al", "low("), concat!("#[ex", "pect(")] {
        for (at, _) in text.match_indices(form) {
            let attribute = text[at..].split_once(")]").map_or(&text[at..], |(inside, _)| inside);
            if !attribute.contains("reason") {
                let line =
                    text[..at].lines().count().max(1) + usize::from(text[..at].ends_with('\n'));
                out.push(format!(
                    ":{line}: a lint is switched off without a reason: add reason = \"…\""
                ));
            }
        }
    }
    out
}

fn inherits_lints(manifest: &str) -> bool {
    let after = manifest.split_once("[lints]").map_or("", |(_, after)| after);
    let section = after.split_once("\n[").map_or(after, |(section, _)| section);
    section.lines().any(|line| line.replace(' ', "") == "workspace=true")
}

/// The code map is true: it names every file of the core.
fn architecture(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let map = std::fs::read_to_string(root.join("ARCHITECTURE.md"))
        .context("ARCHITECTURE.md cannot be read: it is the code map")?;
    let core = root.join("core").join("src");
    let missing = files
        .iter()
        .filter_map(|file| file.strip_prefix(&core).ok())
        .filter(|name| !names(&map, name))
        .map(|name| format!("ARCHITECTURE.md: does not name core/src/{}: add it", name.display()));
    Ok(missing.collect())
}

/// Does a line name the file, or its folder and then the file?
fn names(map: &str, file: &Path) -> bool {
    let whole = file.to_string_lossy();
    let (folder, name) = whole.rsplit_once('/').unwrap_or(("", &whole));
    let listed = |line: &str| {
        line.split_once(&format!("{folder}/")).is_some_and(|(_, rest)| rest.contains(name))
    };
    map.lines().any(|line| line.contains(&*whole) || !folder.is_empty() && listed(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complains(name: &str, text: &str, about: &str) {
        let found = check(name, text);
        assert!(found.iter().any(|complaint| complaint.contains(about)), "{about}: {found:?}");
    }

    #[test]
    fn a_tidy_file_has_no_complaints() {
        assert!(
            check("a.rs", "//! Fine.\n#[expect(dead_code, reason = \"shown\")]\nfn a() {}\n")
                .is_empty()
        );
        assert!(
            check("Cargo.toml", "[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n")
                .is_empty()
        );
    }

    #[test]
    fn each_rule_notices_what_it_is_for() {
        complains("a.rs", "fn a() {\n\tx();\n}\n", ":2: holds a tab");
        complains("a.md", "words \n", ":1: ends with a space");
        complains("a.rs", "fn a() {}", "line break");
        complains("a.rs", &"//\n".repeat(LINES_MAX + 1), "lines and the limit");
        for leftover in LEFTOVERS {
            complains("a.rs", &format!("{leftover}\n"), "left over");
        }
        for machine in MACHINES {
            complains("run.sh", &format!("x{machine}y\n"), "names");
        }
        let exception = concat!("\n#[al", "low(dead_code)]\nfn a() {}\n");
        complains("a.rs", exception, ":2: a lint is switched off");
        complains("x/Cargo.toml", "[package]\n[lints]\n[features]\nworkspace = true\n", "inherit");
    }

    #[test]
    fn a_code_map_names_a_file_by_its_path_or_after_its_folder() {
        let map = "  src/node.rs   dispatch\n  src/coordinator/   get.rs, put.rs\n";
        for (file, want) in [
            ("node.rs", true),
            ("coordinator/get.rs", true),
            ("coordinator/list.rs", false),
            ("put.rs/x", false),
            ("ring.rs", false),
        ] {
            assert_eq!(names(map, Path::new(file)), want, "{file}");
        }
    }
}
