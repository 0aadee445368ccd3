//! Chat completions and responses that callers asked to be kept.

use protocol::openai::metadata::Metadata;
use protocol::{ApiError, ErrorCode};
use serde::de::DeserializeOwned;

use super::write::{Reply, Write};
use super::{Page, Paged, Store, StoreError, ask};

/// Responses of one conversation at most, and their bytes: whatever is read is in memory at once.
pub(super) const LONGEST_CONVERSATION: u32 = 1000;
pub(super) const LARGEST_CONVERSATION: i64 = 64 << 20;

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An answer of /v1/chat/completions.
    ChatCompletion,
    /// An answer of /v1/responses.
    Response,
}

impl Kind {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::ChatCompletion => "chat.completion",
            Self::Response => "response",
        }
    }

    pub(super) fn parse(name: &str) -> sqlx::Result<Self> {
        match name {
            "chat.completion" => Ok(Self::ChatCompletion),
            "response" => Ok(Self::Response),
            other => Err(super::undecodable(format!("an object is of the unknown kind '{other}'"))),
        }
    }
}

/// One object to be kept, or one that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: String,
    /// Who alone may see it.
    pub owner: String,
    /// Seconds since 1970.
    pub created_at: i64,
    /// The model, as the caller named it.
    pub model: String,
    /// The caller's own pairs.
    pub metadata: Metadata,
    /// The id of the object that this one goes on from.
    pub previous: Option<String>,
    /// What was asked with, a JSON array.
    pub input: String,
    /// The answer, JSON.
    pub body: String,
}

impl Object {
    /// What it counts towards the bound.
    pub(super) fn bytes(&self) -> i64 {
        (self.input.len() + self.body.len()) as i64
    }
}

/// Keeps an object, and the ids of its items to find it by.
pub(super) struct Put {
    pub object: Object,
    pub items: Vec<String>,
    pub reply: Reply<()>,
}

/// Replaces an object's metadata.
pub(super) struct SetMetadata {
    pub name: Name,
    pub metadata: Metadata,
    pub reply: Reply<bool>,
}

/// Removes an object.
pub(super) struct Delete {
    pub name: Name,
    pub reply: Reply<bool>,
}

/// Which object is meant.
pub(super) struct Name {
    pub owner: String,
    pub kind: Kind,
    pub id: String,
}

impl Name {
    fn new(owner: &str, kind: Kind, id: &str) -> Self {
        Self { owner: owner.to_owned(), kind, id: id.to_owned() }
    }
}

impl Store {
    /// Keeps an object, and the ids of its items to find it by. Returns when that is committed.
    pub async fn put(&self, object: Object, items: Vec<String>) -> Result<(), StoreError> {
        self.write(|reply| Write::Put(Box::new(Put { object, items, reply }))).await
    }

    /// Replaces an object's metadata; false if there is no such object.
    pub async fn set_metadata(
        &self,
        owner: &str,
        kind: Kind,
        id: &str,
        metadata: Metadata,
    ) -> Result<bool, StoreError> {
        let name = Name::new(owner, kind, id);
        self.write(|reply| Write::SetMetadata(SetMetadata { name, metadata, reply })).await
    }

    /// Removes an object; false if there is no such object.
    pub async fn delete(&self, owner: &str, kind: Kind, id: &str) -> Result<bool, StoreError> {
        let name = Name::new(owner, kind, id);
        self.write(|reply| Write::Delete(Delete { name, reply })).await
    }

    /// One object.
    pub async fn get(&self, owner: &str, kind: Kind, id: &str) -> Result<Option<Object>, StoreError> {
        ask!(self, objects::get(owner, kind, id))
    }

    /// The objects of a kind that bear a model's name and all of these pairs, without what they were asked with. `None` if
    /// the page begins after an object that is not there.
    pub async fn list(
        &self,
        owner: &str,
        kind: Kind,
        page: &Page,
        model: Option<&str>,
        metadata: &Metadata,
    ) -> Result<Option<Paged<Object>>, StoreError> {
        ask!(self, objects::list(owner, kind, page, model, metadata))
    }

    /// A response and those that it goes on from, the first one first. `None` if one of them is not there any more, or
    /// if they are more than a conversation may have: half a conversation would be another one.
    pub async fn conversation(&self, owner: &str, id: &str) -> Result<Option<Vec<Object>>, StoreError> {
        let turns = ask!(self, objects::conversation(owner, id))?;
        let is_whole = turns.first().is_some_and(|first| first.previous.is_none());
        Ok(is_whole.then_some(turns))
    }

    /// An object that holds the item of this id.
    pub async fn holder(&self, owner: &str, item: &str) -> Result<Option<Object>, StoreError> {
        ask!(self, objects::holder(owner, item))
    }
}

/// How metadata is written down.
pub(super) fn metadata_json(metadata: &Metadata) -> String {
    serde_json::to_string(metadata).unwrap_or_else(|_| "{}".to_owned())
}

pub(super) fn metadata_of(json: &str) -> sqlx::Result<Metadata> {
    serde_json::from_str(json).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// What was kept as JSON.
pub fn read_kept<T: DeserializeOwned>(json: &str) -> Result<T, ApiError> {
    serde_json::from_str(json).map_err(|error| {
        tracing::error!(%error, "a stored object cannot be read");
        ApiError::new(ErrorCode::Internal, "The stored object cannot be read; the server's log tells why.")
    })
}
