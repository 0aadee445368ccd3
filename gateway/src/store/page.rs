//! Parts of lists.

/// In which order a list comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As they were written.
    OldestFirst,
    /// The other way round.
    NewestFirst,
}

impl Order {
    /// How a number compares with the one after which a page begins.
    pub(super) const fn beyond(self) -> &'static str {
        match self {
            Self::OldestFirst => " AND number > ",
            Self::NewestFirst => " AND number < ",
        }
    }

    pub(super) const fn by_number(self) -> &'static str {
        match self {
            Self::OldestFirst => " ORDER BY number ASC",
            Self::NewestFirst => " ORDER BY number DESC",
        }
    }
}

/// Which part of a list is wanted.
#[derive(Debug, Clone)]
pub struct Page {
    /// Entries at most.
    pub limit: usize,
    /// In which order they come.
    pub order: Order,
    /// The id of the entry after which it begins.
    pub after: Option<String>,
}

/// A part of a list.
#[derive(Debug, Clone)]
pub struct Paged<T> {
    /// What is in it.
    pub entries: Vec<T>,
    /// Whether there are more.
    pub has_more: bool,
}

impl<T> Paged<T> {
    /// Cuts off what was read to see whether there is more.
    pub fn of(mut entries: Vec<T>, limit: usize) -> Self {
        let has_more = entries.len() > limit;
        entries.truncate(limit);
        Self { entries, has_more }
    }
}
