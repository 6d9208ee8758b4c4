//! Denoisers for [`SolverTable::run`](ddpm_diffusion::SolverTable::run) from networks, shared by the tests.

use ddpm_diffusion::{Error, Estimate, LinearMap, Node, NoiseLevel, Prediction};

/// Makes a denoiser of `network(x_t, t)`, which returns as many numbers as x_t has, or twice as many if the variance is
/// learned: the prediction, then v. Not for predictions of the previous mean.
pub fn denoiser(
    prediction: Prediction,
    mut network: impl FnMut(&[f64], f64) -> Vec<f64>,
) -> impl FnMut(&[f64], Node) -> Result<Estimate, Error> {
    assert_ne!(prediction, Prediction::PreviousMean);
    move |x, node| {
        // Checked first: the network need not be defined there.
        prediction.maps(node, NoiseLevel::DATA)?;
        estimate(prediction, node, NoiseLevel::DATA, x, network(x, node.timestep))
    }
}

/// Computes the estimates from a network's output.
pub fn estimate(
    prediction: Prediction,
    node: Node,
    previous: NoiseLevel,
    x: &[f64],
    mut output: Vec<f64>,
) -> Result<Estimate, Error> {
    let (to_sample, to_epsilon) = prediction.maps(node, previous)?;
    let v = if output.len() == 2 * x.len() { output.split_off(x.len()) } else { Vec::new() };
    let apply = |map: LinearMap| x.iter().zip(&output).map(|(&x, &output)| map.apply(x, output)).collect();
    Ok(Estimate { sample: apply(to_sample), epsilon: apply(to_epsilon), v })
}
