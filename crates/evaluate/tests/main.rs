//! Tests of metrics and likelihoods, as one test program, since linking each file of them would take longer than running it.

mod common;

mod comparison;
mod denoisers;
mod evaluation;
mod flow;
mod likelihood;
mod networks;
mod points;
mod quality;
