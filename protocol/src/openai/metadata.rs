//! What callers write on the objects that are kept for them.

use std::collections::BTreeMap;

/// Up to 16 pairs; keys have at most 64 characters, values at most 512.
pub type Metadata = BTreeMap<String, String>;
