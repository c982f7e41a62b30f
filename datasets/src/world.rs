//! The made-up sample data.
