//! The peer link: what daemons tell each other, and what is believed of it.

pub(crate) mod claims;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod roster;
