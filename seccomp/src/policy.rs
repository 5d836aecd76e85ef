//! The format of `policies/*.policy`: which system calls a thread role may make, one rule a line. The build compiles them, tests read them again.
//!
//! ```text
//! # for people
//! NAME = 0xae80                               a name for a number
//! read                                        with any arguments
//! ioctl arg1 == KVM_RUN                       with this one
//! mmap arg2 & PROT_EXEC == 0, arg3 & 1 == 0   with all of these; lines of the same call are alternatives
//! rare exit_group # why                       seen on paths only that no ordinary life takes: the reason stands beside it
//! ```
//! Only the lower 32 bits of an argument are compared: the kernel looks at no more of a command, and flags lie there.

use std::collections::BTreeMap;

/// One thing that an argument has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0.
    pub argument: u8,
    /// Bits that are looked at.
    pub mask: u32,
    /// What they have to be.
    pub value: u32,
}

/// One line of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The system call's name.
    pub call: String,
    /// All of them hold.
    pub conditions: Vec<Condition>,
    /// Why no ordinary life of a monitor makes it.
    pub rare: Option<String>,
    /// The line itself, without its comment.
    pub text: String,
}

impl Rule {
    /// Whether the rule allows a call of its name with these arguments.
    #[must_use]
    pub fn allows(&self, arguments: &[u64; 6]) -> bool {
        self.conditions.iter().all(|condition| {
            let low = arguments[usize::from(condition.argument)] & u64::from(u32::MAX);
            low & u64::from(condition.mask) == u64::from(condition.value)
        })
    }
}

/// Reads a policy. An error names the line and what is wrong with it.
pub fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let (mut names, mut rules) = (BTreeMap::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let (body, comment) = line.split_once('#').map_or((line, ""), |(body, comment)| (body, comment.trim()));
        let failed = |what: String| format!("line {}: {what}: {line}", number + 1);
        if body.trim().is_empty() {
            continue;
        }
        if let Some((name, value)) = body.split_once(" = ") {
            names.insert(name.trim().to_owned(), number_of(&names, value).map_err(failed)?);
            continue;
        }
        rules.push(rule(&names, body.trim(), comment).map_err(failed)?);
    }
    Ok(rules)
}

fn rule(names: &BTreeMap<String, u32>, body: &str, comment: &str) -> Result<Rule, String> {
    let (rare, rest) = body.strip_prefix("rare ").map_or((false, body), |rest| (true, rest.trim()));
    if rare && comment.is_empty() {
        return Err("a rare call says why".into());
    }
    let (call, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let conditions = rest.split(',').map(str::trim).filter(|part| !part.is_empty());
    let conditions = conditions.map(|part| condition(names, part)).collect::<Result<_, _>>()?;
    Ok(Rule { call: call.to_owned(), conditions, rare: rare.then(|| comment.to_owned()), text: body.to_owned() })
}

fn condition(names: &BTreeMap<String, u32>, part: &str) -> Result<Condition, String> {
    let (left, value) = part.split_once("==").ok_or("a condition is argN == VALUE or argN & MASK == VALUE")?;
    let (argument, mask) = match left.split_once('&') {
        Some((argument, mask)) => (argument, number_of(names, mask)?),
        None => (left, u32::MAX),
    };
    let argument = argument.trim().strip_prefix("arg").and_then(|digit| digit.parse().ok()).filter(|argument| *argument < 6);
    let argument = argument.ok_or("an argument is arg0 to arg5")?;
    Ok(Condition { argument, mask, value: number_of(names, value)? })
}

/// A sum of numbers and names.
fn number_of(names: &BTreeMap<String, u32>, text: &str) -> Result<u32, String> {
    text.split('|').map(str::trim).try_fold(0, |sum, part| {
        let named = names.get(part).copied();
        let hex = || part.strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let value = named.or_else(hex).or_else(|| part.parse().ok()).ok_or(format!("{part:?} is neither a number nor a name"))?;
        Ok(sum | value)
    })
}
