//! The rules between crates, over `cargo metadata` and the sources: who may depend on whom, who may use `unsafe`, how long a file may be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What each crate of the workspace may depend on inside the workspace. The command line knows the daemon's HTTP only, and the tests know binaries only.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("torpor-protocol", &[]),
    ("torpor-snapshot", &[]),
    ("torpor-scheduler", &[]),
    ("torpor-seccomp", &[]),
    ("torpor-vmm", &["torpor-protocol", "torpor-snapshot", "torpor-seccomp"]),
    ("torpor-agent", &["torpor-protocol"]),
    ("torpor-daemon", &["torpor-protocol", "torpor-snapshot", "torpor-scheduler", "torpor-seccomp"]),
    ("torpor-cli", &[]),
    ("torpor-tests", &[]),
    // Measures monitors by themselves, and the daemon over HTTP.
    ("torpor-bench", &["torpor-protocol", "torpor-seccomp", "torpor-vmm"]),
    ("torpor-sim", &["torpor-scheduler"]),
];

/// What a crate must not reach, even through others.
const MUST_NOT_REACH: [(&str, &[&str]); 5] = [
    ("torpor-daemon", &["kvm-ioctls", "kvm-bindings", "vm-memory", "linux-loader"]),
    ("torpor-vmm", &["tokio", "hyper", "axum", "sqlx"]),
    ("torpor-agent", &["tokio", "hyper", "kvm-ioctls"]),
    ("torpor-cli", &["axum", "sqlx", "kvm-ioctls"]),
    // A pure function: nothing to read a clock with, or to be random.
    ("torpor-scheduler", &["tokio", "rand", "getrandom", "chrono", "libc"]),
];

/// Crates where `unsafe` has its place; the others forbid it.
const UNSAFE: [&str; 3] = ["torpor-vmm", "torpor-seccomp", "torpor-agent"];

const MAX_LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Packages by id: name, and ids of what it depends on; of workspace members without what only their tests use.
struct Graph {
    names: BTreeMap<String, String>,
    edges: BTreeMap<String, Vec<String>>,
    members: BTreeMap<String, String>,
}

fn graph(metadata: &Value) -> Graph {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap();
    let names: BTreeMap<_, _> = packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let normal = |dep: &Value| dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"] != "dev");
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let edges = nodes.iter().map(|node| {
        let deps = node["deps"].as_array().unwrap().iter().filter(|dep| normal(dep));
        (text(&node["id"]), deps.map(|dep| text(&dep["pkg"])).collect())
    });
    let edges = edges.collect();
    let members = metadata["workspace_members"].as_array().unwrap().iter().map(|id| (names[id.as_str().unwrap()].clone(), text(id)));
    Graph { members: members.collect(), names, edges }
}

#[test]
fn dependencies_point_one_way() {
    let graph = graph(&metadata());
    let known: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    for (member, id) in &graph.members {
        let allowed = known.get(member.as_str()).unwrap_or_else(|| panic!("{member} is not in the table of this test"));
        for used in graph.edges[id].iter().map(|id| &graph.names[id]) {
            assert!(!graph.members.contains_key(used) || allowed.contains(&used.as_str()), "{member} must not depend on {used}");
        }
    }
    assert_eq!(graph.members.len(), known.len(), "the table of this test names a crate that is gone");
}

#[test]
fn nobody_reaches_what_is_not_its_business() {
    let graph = graph(&metadata());
    for (member, forbidden) in MUST_NOT_REACH {
        let mut reached = BTreeSet::new();
        let mut open = vec![&graph.members[member]];
        while let Some(id) = open.pop() {
            if reached.insert(id) {
                open.extend(&graph.edges[id]);
            }
        }
        let reached: BTreeSet<_> = reached.into_iter().map(|id| graph.names[id].as_str()).collect();
        for name in forbidden {
            assert!(!reached.contains(name), "{member} must not reach {name}");
        }
    }
}

#[test]
fn unsafe_code_stays_where_it_belongs() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        if package["source"].is_string() || UNSAFE.contains(&name) {
            continue;
        }
        for target in package["targets"].as_array().unwrap() {
            let kinds = target["kind"].as_array().unwrap();
            if kinds.iter().any(|kind| kind == "lib" || kind == "bin") {
                let source = fs::read_to_string(target["src_path"].as_str().unwrap()).unwrap();
                assert!(source.contains("#![forbid(unsafe_code)]"), "{name}: {} has no #![forbid(unsafe_code)]", target["src_path"]);
            }
        }
    }
}

#[test]
fn every_crate_takes_the_shared_lints() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().unwrap().iter().filter(|package| package["source"].is_null()) {
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{} does not take the workspace's lints", package["name"]);
    }
}

#[test]
fn files_stay_readable() {
    let mut sources = Vec::new();
    let folders = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap());
    for folder in folders.filter(|entry| entry.file_type().unwrap().is_dir()) {
        if folder.file_name() != "target" && folder.file_name() != ".git" {
            collect(&folder.path(), &mut sources);
        }
    }
    assert!(sources.len() > 20, "the sources are not where this test looks");
    for path in sources {
        let source = fs::read_to_string(&path).unwrap();
        let lines = source.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines, at most {MAX_LINES}: split it by concept", path.display());
        let says = source.starts_with("//!") || !is_rust(&path) || is_test(&path);
        assert!(says, "{} does not begin with what it owns (//!)", path.display());
    }
}

/// Tests beside what they test may go without.
fn is_test(path: &Path) -> bool {
    path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests")
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

fn collect(folder: &Path, sources: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && entry.file_name() != "target" {
            collect(&path, sources);
        } else if kind.is_file() && (is_rust(&path) || path.extension().is_some_and(|extension| extension == "py" || extension == "sh")) {
            sources.push(path);
        }
    }
}
