//! Templates that travel with parked machines: looked for by content, handed out, taken in under the hash of their content as name.

use super::store::{self, Draft, Meta, Store, StoreError};
use super::{Templates, blocking};
use crate::engine::types::{Base, ErrorKind, ExecutionError, TaskVersion};
use std::fs::File;
use std::sync::Arc;

/// The files of a template that is whole and checked.
#[derive(Debug)]
pub struct TemplateFiles {
    /// What it was made from: JSON text.
    pub meta: Vec<u8>,
    /// Its state.
    pub state: File,
    /// Its memory, sparse.
    pub memory: File,
}

/// A template that is being taken in; dropped uncommitted, it is removed.
#[derive(Debug)]
pub struct TemplateDraft {
    draft: Draft,
    content: String,
}

impl TemplateDraft {
    /// Empty and writable.
    #[must_use]
    pub const fn state(&self) -> &File {
        &self.draft.state
    }

    /// Empty and writable.
    #[must_use]
    pub const fn memory(&self) -> &File {
        &self.draft.memory
    }
}

/// Name of a whole template with this content.
fn named(store: &Store, content: &str) -> Result<Option<String>, StoreError> {
    let mut names = store.all().map_err(|source| store.unreadable(source))?;
    // Most likely first: each other has to be read.
    names.sort_by_key(|name| name != content);
    for name in names {
        // What can't be read is not it.
        let Ok(Some(files)) = store.load(&name, true) else { continue };
        if store::content(&files).is_ok_and(|found| found == content) && store.load(&name, false).is_ok_and(|files| files.is_some()) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

impl Templates {
    /// The files of a parked machine's template.
    pub(in crate::engine) async fn files(self: &Arc<Self>, base: &Base, task: &TaskVersion) -> Result<TemplateFiles, ExecutionError> {
        let template = self.parked_on(base, task).await?;
        let failed = |error: &dyn std::fmt::Display| ExecutionError::new(ErrorKind::Host, format!("reading a template: {error}"));
        let (this, id) = (Arc::clone(self), template.id.clone());
        let meta = blocking(move || this.store.load(&id, true)).await?.ok_or_else(|| failed(&"it is not there any more"))?.meta;
        let clone = |file: &File| file.try_clone().map_err(|error| failed(&error));
        let meta = serde_json::to_vec_pretty(&meta).map_err(|error| failed(&error))?;
        Ok(TemplateFiles { meta, state: clone(&template.state)?, memory: clone(&template.memory)? })
    }

    /// Name of a template with this content, if there is one, whole.
    pub(in crate::engine) async fn with_content(self: &Arc<Self>, content: &str) -> Result<Option<String>, ExecutionError> {
        let (this, content) = (Arc::clone(self), content.to_owned());
        blocking(move || named(&this.store, &content)).await
    }

    /// Begins to take one in. Blocks.
    pub(in crate::engine) fn begin_import(&self, content: &str) -> Result<TemplateDraft, ExecutionError> {
        let failed = |error: StoreError| ExecutionError::new(ErrorKind::Host, error.to_string());
        let hash = blake3::Hash::from_hex(content);
        let content = hash.map_err(|_| ExecutionError::new(ErrorKind::Host, "the hash of the template is none"))?.to_hex().to_string();
        Ok(TemplateDraft { draft: self.store.begin(&content).map_err(failed)?, content })
    }

    /// Checks all of it, for a machine whose code disk has this hash, and puts it in its place; durable when this returns. Blocks.
    pub(in crate::engine) fn commit_import(
        &self,
        draft: TemplateDraft,
        meta: &[u8],
        task: &TaskVersion,
        code: &str,
    ) -> Result<(), ExecutionError> {
        let refused = |error: &dyn std::fmt::Display| ExecutionError::new(ErrorKind::Host, format!("the template in the file: {error}"));
        let TemplateDraft { draft, content } = draft;
        let meta: Meta = serde_json::from_slice(meta).map_err(|error| refused(&error))?;
        if meta.code.as_deref() != Some(code) {
            return Err(refused(&"it was made from other code"));
        }
        if meta.runtime != task.runtime.name() || meta.memory_mib != task.memory_mib {
            return Err(refused(&"it was made for another runtime or another size of memory"));
        }
        let found = crate::engine::fingerprint::hash_file(&draft.state).map_err(|error| refused(&error))?;
        if found.to_hex().as_str() != content {
            return Err(refused(&"it is not the one that the machine was parked on"));
        }
        torpor_snapshot::verify(&draft.state, &draft.memory).map_err(|error| refused(&error))?;
        self.store.commit(draft, &Meta { id: content, ..meta }).map(drop).map_err(|error| refused(&error))
    }

    /// Removes one that was taken in for nothing.
    pub(in crate::engine) fn drop_import(&self, content: &str) {
        self.parked().remove(content);
        self.remove(content);
    }
}
