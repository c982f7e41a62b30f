//! End to end, one binary. Unit tests stand beside the code; what needs the program, several crates or real data is here.

/// Help texts, exit codes and what a wrong call is told.
mod cli;
/// Ingest on more than one machine: the bytes of one process, also when an executor is killed.
#[cfg(feature = "ballista")]
mod cluster;
/// Raw files from their publishers: servers that cut, change, lie or are not there.
mod download;
/// Raw files with faults, and odd but good ones, one at a time.
mod faults;
/// Models by name: the hub, its faults, and the cache that Python shares.
mod hub;
/// Raw files to tables: every record accounted for, identical bytes.
mod ingest;
/// What the tests share.
mod kit;
/// The arrows between the crates, and one version of what must be one.
mod layering;
/// The schedule against TRL's record of a run.
mod optim;
/// Predictions of new sequences: one output for each, in their order, whatever the file holds.
mod predict;
/// Tables as a dataset, and what is different between two folders of them.
mod publish;
/// Every recipe in `recipes/` is whole.
mod recipes;
/// A run that is killed ends in the bytes of one that is not.
mod run;
/// A server on this machine.
mod server;
/// Real files of every format against what others say of them.
mod sources;
/// Raw files from, and tables to, an object store.
#[cfg(feature = "object-store")]
mod store;
