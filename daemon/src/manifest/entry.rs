//! Where a program begins: a runtime and what it starts, in a form that fits that runtime.

use torpor_protocol::agent::Runtime;

/// Where a program begins: a runtime and what it starts, in a form that fits that runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Python: a function of a file.
    Python {
        /// Path in the folder, ends with `.py`.
        file: String,
        /// Name of the function.
        function: String,
    },
    /// A program of the folder.
    Exec {
        /// Path in the folder.
        file: String,
    },
}

impl Entry {
    /// Reads what a manifest says for `runtime`.
    pub fn parse(runtime: Runtime, text: &str) -> Result<Self, String> {
        match runtime {
            Runtime::Python => {
                let (file, function) =
                    text.split_once(':').ok_or_else(|| format!("entry {text:?} is not FILE.py:FUNCTION, such as \"main.py:handler\""))?;
                let file = relative(file)?;
                if file.strip_suffix(".py").is_none_or(|stem| stem.is_empty() || stem.ends_with('/')) {
                    return Err(format!("entry {text:?} names no .py file; it is FILE.py:FUNCTION, such as \"main.py:handler\""));
                }
                let mut chars = function.chars();
                let head = chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic());
                if !head || !chars.all(|c| c == '_' || c.is_ascii_alphanumeric()) {
                    return Err(format!("entry {text:?} names no function; it is FILE.py:FUNCTION, such as \"main.py:handler\""));
                }
                Ok(Self::Python { file, function: function.to_owned() })
            }
            Runtime::Exec => Ok(Self::Exec { file: relative(text)? }),
        }
    }

    /// The file that must be in the folder.
    #[must_use]
    pub fn file(&self) -> &str {
        match self {
            Self::Python { file, .. } | Self::Exec { file } => file,
        }
    }

    /// Its runtime.
    #[must_use]
    pub const fn runtime(&self) -> Runtime {
        match self {
            Self::Python { .. } => Runtime::Python,
            Self::Exec { .. } => Runtime::Exec,
        }
    }
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Python { file, function } => write!(f, "{file}:{function}"),
            Self::Exec { file } => f.write_str(file),
        }
    }
}

/// A path of the folder, as it is written in a manifest.
pub(super) fn relative(path: &str) -> Result<String, String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let whole = !path.is_empty() && path.len() <= 512 && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if whole && !path.contains(['\0', '\n', '\\']) {
        Ok(path.to_owned())
    } else {
        Err(format!("{path:?} is not a path in the task's folder; write it from the folder's top, without \"..\""))
    }
}
