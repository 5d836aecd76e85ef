//! Templates that parked machines are differences to: found by id and content, never made anew.
//!
//! Invariant: a machine is resumed only on the very bytes that it was parked on, under the very disks that it had: content, root disk and code are
//! compared before anything is mapped.

use super::store::{self, Files, Store, StoreError};
use super::{Template, Templates, blocking};
use crate::engine::host::Host;
use crate::engine::template::table::Found;
use crate::engine::types::{Base, ErrorKind, ExecutionError, TaskVersion};
use std::fs::File;
use std::sync::Arc;
use torpor_protocol::agent::Runtime;
use torpor_snapshot::parked::Origin;

/// Most that are kept open.
const MAX_OPEN: usize = 16;

/// What machines that start from a template are differences to.
#[derive(Debug)]
pub(in crate::engine) struct Ground {
    /// The template.
    pub(in crate::engine) base: Base,
    /// What such a machine needs of a host: an encoded [`Origin`].
    pub(in crate::engine) origin: Vec<u8>,
}

/// Why a parked machine has no template.
#[derive(Debug)]
pub(in crate::engine) struct NoGround {
    /// For who waits for the machine.
    pub(in crate::engine) error: ExecutionError,
    /// It may have one the next time.
    pub(in crate::engine) passing: bool,
}

impl NoGround {
    fn for_good(message: impl Into<String>) -> Self {
        Self { error: ExecutionError::new(ErrorKind::Host, message), passing: false }
    }

    fn passing(error: ExecutionError) -> Self {
        Self { error, passing: true }
    }
}

impl From<NoGround> for ExecutionError {
    fn from(none: NoGround) -> Self {
        none.error
    }
}

#[cfg(test)]
impl Ground {
    /// Of a template that is none.
    pub(in crate::engine) fn nowhere() -> Arc<Self> {
        Arc::new(Self { base: Base { template: "t".into(), content: "c".into() }, origin: Vec::new() })
    }
}

/// What a machine on this host needs.
pub(super) fn origin(host: &Host, runtime: Runtime, memory_mib: u32, base: &Base, code: &str) -> Origin {
    let (host_kernel, cpu) = host.cpu.split_once(';').unwrap_or(("", &host.cpu));
    Origin {
        template: base.template.clone(),
        template_hash: base.content.clone(),
        kernel: host.kernel_hash.clone(),
        root: host.image(runtime).hash.clone(),
        code: code.to_owned(),
        cpu: cpu.to_owned(),
        host_kernel: host_kernel.trim_start_matches("kernel=").to_owned(),
        memory_mib,
    }
}

/// The template of that name, if it is whole and has that content.
fn with_content(store: &Store, name: &str, checked: bool, wanted: &str) -> Result<Option<Files>, StoreError> {
    let files = match store.load(name, checked) {
        Err(error) if !error.passing() => {
            tracing::error!(template = name, "{error}; a parked machine needs it");
            return Ok(None);
        }
        loaded => loaded?,
    };
    let Some(files) = files else { return Ok(None) };
    Ok((store::content(&files)? == wanted).then_some(files))
}

impl Templates {
    /// Why a machine of that origin can't run on this host; nothing if it can. The guest's kernel is in its memory, and templates travel: neither matters.
    pub(in crate::engine) fn differences(&self, theirs: &Origin, runtime: Runtime) -> Vec<String> {
        let base = Base { template: theirs.template.clone(), content: theirs.template_hash.clone() };
        let ours = origin(&self.host, runtime, theirs.memory_mib, &base, &theirs.code);
        theirs.differences(&Origin { kernel: theirs.kernel.clone(), host_kernel: theirs.host_kernel.clone(), ..ours })
    }

    /// The template of a parked machine.
    pub(in crate::engine) async fn parked_on(self: &Arc<Self>, base: &Base, task: &TaskVersion) -> Result<Arc<Template>, NoGround> {
        if let Found::Ready(template) = self.table().find(&base.template)
            && template.ground.base.content == base.content
        {
            return Ok(template);
        }
        if let Some(template) = self.parked().get(&base.content) {
            return Ok(Arc::clone(template));
        }
        let (files, (code, code_hash)) = self.with_code(base, task).await?.ok_or_else(|| {
            let short = base.content.get(..12).unwrap_or(&base.content);
            NoGround::for_good(format!("the template that it was parked on ({short}) is not there any more, or damaged"))
        })?;
        if files.meta.code.as_deref() != Some(&code_hash) {
            return Err(NoGround::for_good("the code that it was parked with is not that of its task's version"));
        }
        let template = Arc::new(self.template(task.runtime, files, Some(code)).map_err(NoGround::passing)?);
        let mut parked = self.parked();
        if parked.len() >= MAX_OPEN {
            parked.clear();
        }
        parked.insert(base.content.clone(), Arc::clone(&template));
        Ok(template)
    }

    /// The files of that content and its task's code, with its hash; `None` where none are whole.
    async fn with_code(self: &Arc<Self>, base: &Base, task: &TaskVersion) -> Result<Option<(Files, (File, String))>, NoGround> {
        let (this, path, names) = (Arc::clone(self), task.code.clone(), [base.template.clone(), base.content.clone()]);
        let checked = names.clone().map(|name| self.table().is_checked(&name));
        let wanted = base.content.clone();
        let found = blocking(move || {
            let code = match store::open_code(&path) {
                Err(error) if !error.passing() => return Ok(Err(NoGround::for_good(error.to_string()))),
                opened => opened?,
            };
            let found = names.iter().zip(checked).find_map(|(name, checked)| with_content(&this.store, name, checked, &wanted).transpose());
            Ok(Ok(found.transpose()?.map(|files| (files, code))))
        });
        found.await.map_err(NoGround::passing)?
    }
}
