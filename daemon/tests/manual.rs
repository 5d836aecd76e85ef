//! The manual pages in packaging/man: torpord(8) is made from the settings and `torpord.8.more`, torpor.toml(5) is written by hand and has to know
//! each key of a manifest.
#![allow(clippy::unwrap_used, clippy::panic)]

use clap::CommandFactory;
use std::path::{Path, PathBuf};
use torpor_daemon::config::Config;
use torpor_daemon::manifest::Manifest;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/man")
}

/// `TORPOR_BLESS=1 cargo test -p torpor-daemon --test manual` writes the page anew.
#[test]
fn packaged_torpord_8_is_current() {
    let page = folder().join("torpord.8");
    let mut made = Vec::new();
    clap_mangen::Man::new(Config::command()).section("8").render(&mut made).unwrap();
    made.extend(std::fs::read(folder().join("torpord.8.more")).unwrap());
    if std::env::var_os("TORPOR_BLESS").is_some() {
        std::fs::write(&page, &made).unwrap();
    }
    assert!(
        std::fs::read(&page).unwrap_or_default() == made,
        "packaging/man/torpord.8 is not what the settings are; TORPOR_BLESS=1 writes it anew"
    );
}

/// The keys that the parser's complaint about an unknown one lists.
fn known(manifest: &str) -> Vec<String> {
    let complaint = Manifest::parse(manifest.as_bytes()).unwrap_err().message;
    let (_, keys) = complaint.split_once("known: ").unwrap_or_else(|| panic!("it does not list what it knows: {complaint}"));
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn packaged_torpor_toml_5_names_every_key() {
    let page = std::fs::read_to_string(folder().join("torpor.toml.5")).unwrap();
    let task = "[task]\nname = \"a\"\nruntime = \"exec\"\nentry = \"a\"\n";
    let tables = ["", "[policy]\n", "[aux.a]\n", "[portion.a]\n"];
    let places = tables.map(|table| format!("{task}{table}no-such-key = 1\n"));
    for place in places.into_iter().chain(["[no-such-table]\n".to_owned()]) {
        for key in known(&place) {
            let named = page.lines().any(|line| line.starts_with('.') && line.split([' ', '[', ']', '.']).any(|word| word == key));
            assert!(named, "packaging/man/torpor.toml.5 has no entry for {key:?}");
        }
    }
}
