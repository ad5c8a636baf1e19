//! From text to the validated domain: [`document`] reads files, [`object`] converts one document ([`fields`] collects
//! every error on the way), [`store`] holds all objects and their last good versions.

pub(crate) mod document;
pub(crate) mod fields;
mod kind;
pub(crate) mod meta;
pub(crate) mod scalar;

pub(crate) mod config;
mod core;
pub(crate) mod endpoint;
pub(crate) mod entity;
mod network_policy;
mod object;
pub(crate) mod rule;

mod store;

pub use document::{Document, documents_from_path, documents_from_str};
pub use kind::{Group, Kind, ObjectKey, STORAGE_VERSION};
pub use object::Object;
pub use store::{Report, Store, StoredObject};

#[cfg(test)]
mod tests;
