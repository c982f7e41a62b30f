//! End to end, one module per subject.

/// Raw files to tables: every record accounted for, bad input of every kind, identical bytes.
mod ingest;
