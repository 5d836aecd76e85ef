//! Compiles `policies/*.policy` into the filters that the crate holds.

use seccompiler::{BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::{env, fs};

#[path = "src/policy.rs"]
#[allow(dead_code, unreachable_pub, reason = "the crate has more use for it")]
mod policy;

/// In a build with debug assertions the standard library looks whether a descriptor that it closes is open (F_GETFD). No release holds this.
const DEBUG_BUILDS: &str = "fcntl arg1 == 1";

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    println!("cargo::rerun-if-changed=policies");
    println!("cargo::rerun-if-changed=src/policy.rs");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut code = String::new();
    for role in ["event_loop", "vcpu"] {
        let path = format!("policies/{role}.policy");
        let mut text = fs::read_to_string(&path)?;
        if env::var("PROFILE").is_ok_and(|profile| profile == "debug") {
            text.push_str(DEBUG_BUILDS);
        }
        let program = policy::parse(&text).map_err(Failed::from).and_then(|rules| compile(&rules)).map_err(|e| format!("{path}: {e}"))?;
        writeln!(code, "const {}: &[sock_filter] = &[", role.to_uppercase())?;
        for step in program {
            writeln!(code, "    sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},", step.code, step.jt, step.jf, step.k)?;
        }
        writeln!(code, "];")?;
    }
    Ok(fs::write(out.join("filters.rs"), code)?)
}

fn compile(rules: &[policy::Rule]) -> Result<BpfProgram, Failed> {
    let mut calls: BTreeMap<i64, Option<Vec<SeccompRule>>> = BTreeMap::new();
    for rule in rules {
        let call = syscalls::x86_64::Sysno::from_str(&rule.call).map_err(|()| format!("there is no system call {}", rule.call))?;
        let known = calls.entry(i64::from(call.id())).or_insert_with(|| Some(Vec::new()));
        match known {
            _ if rule.conditions.is_empty() => *known = None,
            Some(list) => list.push(SeccompRule::new(rule.conditions.iter().map(condition).collect::<Result<_, _>>()?)?),
            None => return Err(format!("{} is allowed with any arguments already", rule.call).into()),
        }
    }
    // An empty list of rules: whatever the arguments are.
    let calls = calls.into_iter().map(|(call, rules)| (call, rules.unwrap_or_default())).collect();
    let filter = SeccompFilter::new(calls, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?;
    Ok(filter.try_into()?)
}

fn condition(condition: &policy::Condition) -> Result<SeccompCondition, seccompiler::BackendError> {
    let op = if condition.mask == u32::MAX { SeccompCmpOp::Eq } else { SeccompCmpOp::MaskedEq(condition.mask.into()) };
    SeccompCondition::new(condition.argument, SeccompCmpArgLen::Dword, op, condition.value.into())
}
