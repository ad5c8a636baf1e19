//! Portcullis, userspace. The modules stand in the order of the data:
//! resource → policy (validated) → index → compile → maps, with loader and agent around them; model and
//! scenario judge the result.
#![deny(unsafe_code)]

pub mod policy;
pub mod resource;
pub mod selector;

pub mod agent;
pub mod compile;
pub mod config;
pub mod crd;
#[cfg(feature = "http")]
pub mod http;
pub mod index;
pub mod inspect;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod lint;
pub mod loader;
pub mod maps;
pub mod observe;
#[cfg(feature = "kubernetes")]
pub mod plugin;

pub mod model;
pub mod scenario;

pub mod safety;
pub mod state;

pub mod cli;

mod sys;
