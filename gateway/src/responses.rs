//! Responses as they are kept: with what they were asked with, as parts of conversations, and while they are made in the
//! background.

mod background;
mod conversation;
mod keep;

pub use background::Background;
pub use conversation::{context, conversation, no_conversation};
pub use keep::{Keep, KeptWriter};
