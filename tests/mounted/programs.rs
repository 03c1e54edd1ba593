//! Strangers' programs: the same commands leave the same in the mount as in a plain directory.

mod builds;
mod databases;
mod descriptors;
mod editors;
mod images;
mod loggers;
mod servers;
mod sqlite;
mod trees;
mod version_control;
mod writers;
