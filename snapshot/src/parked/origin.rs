//! What a parked machine needs of the host that resumes it.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// See the module. Who parks a machine makes it, and compares it with its own before it resumes one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The template's id.
    pub template: String,
    /// Hash of the template's content, hexadecimal.
    pub template_hash: String,
    /// Hash of the guest's kernel.
    pub kernel: String,
    /// Hash of the root disk.
    pub root: String,
    /// Hash of the code disk.
    pub code: String,
    /// The processor: `name=value`, separated by `;`.
    pub cpu: String,
    /// Release of the host's kernel.
    pub host_kernel: String,
    /// RAM that the guest's kernel manages.
    pub memory_mib: u32,
}

/// Part of the processor's description that says the host's kernel, which has a field of its own.
const CPU_KERNEL: &str = "kernel";
const CPU_FLAGS: &str = "flags";
const SHOWN: usize = 12;

impl Origin {
    /// What stands in the way of a machine of this origin where `other` is what there is: a sentence for each difference. Flags of a processor
    /// that `other` has beyond these are none.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, needed: &str, there: &str| {
            if needed != there {
                found.push(format!("{what}: the machine was parked with {}, here is {}", short(needed), short(there)));
            }
        };
        compare("template", &self.template, &other.template);
        compare("content of the template", &self.template_hash, &other.template_hash);
        compare("guest kernel", &self.kernel, &other.kernel);
        compare("root disk", &self.root, &other.root);
        compare("code disk", &self.code, &other.code);
        compare("memory", &format!("{} MiB", self.memory_mib), &format!("{} MiB", other.memory_mib));
        compare("host kernel", &self.host_kernel, &other.host_kernel);
        let (needed, there) = (fields(&self.cpu), fields(&other.cpu));
        let names: BTreeSet<_> = needed.keys().chain(there.keys()).copied().collect();
        for name in names.into_iter().filter(|name| ![CPU_KERNEL, CPU_FLAGS].contains(name)) {
            let of = |fields: &BTreeMap<&str, &str>| fields.get(name).copied().unwrap_or_default().to_owned();
            compare(&format!("processor's {name}"), &of(&needed), &of(&there));
        }
        found.extend(lacking(&needed, &there));
        found
    }
}

fn fields(cpu: &str) -> BTreeMap<&str, &str> {
    cpu.split(';').filter_map(|field| field.split_once('=')).collect()
}

fn lacking(needed: &BTreeMap<&str, &str>, there: &BTreeMap<&str, &str>) -> Option<String> {
    let flags = |fields: &BTreeMap<&str, &str>| -> BTreeSet<String> {
        fields.get(CPU_FLAGS).map(|flags| flags.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
    };
    let (needed, there) = (flags(needed), flags(there));
    let lacking: Vec<_> = needed.difference(&there).map(String::as_str).collect();
    let more = match lacking.len().checked_sub(SHOWN) {
        None | Some(0) => String::new(),
        Some(more) => format!(" and {more} more"),
    };
    let shown = lacking.get(..SHOWN.min(lacking.len())).unwrap_or_default().join(", ");
    (!lacking.is_empty()).then(|| format!("the processor here lacks what the machine was parked with: {shown}{more}"))
}

fn short(text: &str) -> String {
    if text.is_empty() {
        return "none".into();
    }
    let end = text.char_indices().nth(64).map_or(text.len(), |(at, _)| at);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(cpu: &str) -> Origin {
        let text = |text: &str| text.to_owned();
        Origin {
            template: text("t1"),
            template_hash: text("aa"),
            kernel: text("bb"),
            root: text("cc"),
            code: text("dd"),
            cpu: text(cpu),
            host_kernel: text("6.18"),
            memory_mib: 128,
        }
    }

    #[test]
    fn each_difference_is_named() {
        let mine = origin("kernel=6.18;vendor_id=A;model=1;flags=fpu avx avx2");
        assert!(mine.differences(&mine).is_empty());
        let more = origin("kernel=6.19;vendor_id=A;model=1;flags=fpu avx avx2 amx");
        assert!(mine.differences(&more).is_empty(), "more flags and the kernel in the processor's description are no difference");
        assert_eq!(more.differences(&mine), ["the processor here lacks what the machine was parked with: amx"]);
        let other = Origin { memory_mib: 64, kernel: String::new(), ..origin("vendor_id=A;model=2;flags=fpu") };
        let expected = [
            "guest kernel: the machine was parked with bb, here is none",
            "memory: the machine was parked with 128 MiB, here is 64 MiB",
            "processor's model: the machine was parked with 1, here is 2",
            "the processor here lacks what the machine was parked with: avx, avx2",
        ];
        assert_eq!(mine.differences(&other), expected);
    }

    #[test]
    fn long_and_odd_descriptions_do_no_harm() {
        let many: Vec<_> = (0..40).map(|n| format!("f{n}")).collect();
        let differences = origin(&format!("flags={}", many.join(" "))).differences(&origin(";;=;é"));
        assert!(differences.iter().any(|text| text.ends_with("and 28 more")), "{differences:?}");
        assert_eq!(short(&"é".repeat(100)).chars().count(), 64);
    }
}
