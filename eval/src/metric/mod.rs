//! Metrics: pure functions of predictions and truths.
//!
//! A metric that is not defined on its input (one class only, no variance, nothing predicted) is `None`, never a
//! number that looks like a result. All are checked against scikit-learn, SciPy or CAFA-evaluator, those of
//! segments against the definition in another form.

pub mod bootstrap;
pub mod boundary;
pub mod calibration;
pub mod classification;
pub mod contact;
pub mod correlation;
pub mod go;
pub mod overlap;
pub mod ranking;
pub mod sov;

#[cfg(test)]
mod tests;
