//! Recorded system calls against the policies.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::str::FromStr;
use torpor_seccomp::Role;
use torpor_seccomp::policy::{self, Rule};

/// Says which calls are not allowed, and which rules no call needed: `ROLE denied CALL ARGS`, `ROLE unused RULE`, `ROLE rare RULE`.
pub(crate) fn check() {
    let policies = Role::ALL.map(|role| (super::name(role), policy::parse(role.policy()).expect("a policy")));
    let (mut used, mut said) = (BTreeSet::new(), BTreeSet::new());
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("text");
        let mut words = line.split_whitespace();
        let (role, call) = (words.next().expect("a role"), words.next().expect("a call"));
        let mut arguments = [0; 6];
        for (slot, word) in arguments.iter_mut().zip(words) {
            *slot = number(word);
        }
        let (_, rules) = policies.iter().find(|(name, _)| *name == role).expect("a known role");
        let fits = |rule: &Rule| rule.call == call && rule.allows(&arguments);
        match rules.iter().position(fits) {
            Some(at) => drop(used.insert((role_of(role), at))),
            None => drop(said.insert(format!("{role} denied {call} {arguments:x?}"))),
        }
    }
    for (role, rules) in &policies {
        for (_, rule) in rules.iter().enumerate().filter(|(at, _)| !used.contains(&(role_of(role), *at))) {
            let kind = if rule.rare.is_some() { "rare" } else { "unused" };
            said.insert(format!("{role} {kind} {}", rule.text.trim_start_matches("rare ")));
        }
        assert!(rules.iter().all(|rule| syscalls::x86_64::Sysno::from_str(&rule.call).is_ok()));
    }
    said.iter().for_each(|line| println!("{line}"));
}

fn role_of(name: &str) -> usize {
    Role::ALL.iter().position(|role| super::name(*role) == name).expect("a known role")
}

fn number(word: &str) -> u64 {
    u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap_or(0)
}
