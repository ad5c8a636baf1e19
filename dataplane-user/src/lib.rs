//! Portcullis, userspace. The modules stand in the order of the data:
//! resource → policy (validated) → index → compile → maps, with loader and agent around them; model and
//! scenario judge the result.
#![deny(unsafe_code)]

pub mod selector;
pub mod resource;
pub mod policy;

pub mod index;
pub mod compile;
pub mod maps;
pub mod loader;
pub mod agent;

pub mod model;
pub mod scenario;

pub mod cli;
