//! Taking turns at `.lock` and `.json` files.

mod documents;
mod outside;
mod protocols;
mod queue;
