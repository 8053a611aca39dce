//! Watched files of a guest, as its agent told.

use serde::{Deserialize, Serialize};

/// One look at the watched files of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesSample {
    /// The files.
    pub files: Vec<FileSample>,
    /// Why the guest could not be asked, in words.
    pub trouble: Option<String>,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSample {
    /// Path in the guest.
    pub path: String,
    /// What was found.
    pub found: FileFound,
}

/// What was found at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileFound {
    /// A file with this SHA-256, as 64 hexadecimal digits.
    Sha256(String),
    /// Nothing.
    Missing,
    /// Something that cannot be read, in words.
    Unreadable(String),
    /// A file of more than 1 MiB.
    TooLarge,
}
