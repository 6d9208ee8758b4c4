//! Evenly spaced numbers.

/// Returns `numpy.linspace(start, stop, num)`, with the same arithmetic: another last bit could round a timestep
/// differently.
pub(crate) fn linspace(start: f64, stop: f64, num: usize) -> Vec<f64> {
    let step = (stop - start) / num.saturating_sub(1) as f64;
    (0..num)
        .map(|i| match i {
            0 => start,
            i if i == num - 1 => stop,
            i => i as f64 * step + start,
        })
        .collect()
}
