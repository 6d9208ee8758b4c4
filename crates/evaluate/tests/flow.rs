//! The likelihood under the probability flow of a small network with stored weights.

use crate::common::{denoiser, denoiser_of, images, schedule};
use burn::tensor::{Device, Tensor, TensorData};
use ddpm_evaluate::{Division, Flow, Trace, flow_likelihood};
use diffusion::{NoiseSchedule, Prediction};
use model::{Condition, Images, Oracle};
use random::{Random, Stream};

fn small_flow(schedule: &NoiseSchedule, trace: Trace) -> Flow<'_> {
    Flow {
        schedule,
        steps: 4,
        trace,
        draws: 1,
        batch_size: 2,
        seed: 5,
        values: Default::default(),
        division: Division::default(),
    }
}

/// Bits/dim of three images of 4×4, smaller than those that the network was made for.
fn flow_bits(flow: &Flow) -> Vec<f64> {
    flow_likelihood(&denoiser("learned_range"), &images(4, 1), flow, |_, _| true).unwrap().each
}

/// Hutchinson's estimate has the exact trace as its mean, and neither depends on the batch.
#[test]
fn the_flows_trace_is_estimated_without_bias() {
    let schedule = schedule();
    let bits = flow_bits;
    let exact = bits(&small_flow(&schedule, Trace::Exact));
    let estimate = bits(&small_flow(&schedule, Trace::Hutchinson(200)));
    let one = small_flow(&schedule, Trace::Hutchinson(1));
    let spread = exact.iter().zip(bits(&one)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    for (exact, estimate) in exact.iter().zip(&estimate) {
        assert!((exact - estimate).abs() < 0.3 * spread && spread > 1e-6, "{exact} {estimate} {spread}");
    }
    assert_eq!(bits(&one), bits(&Flow { batch_size: 3, ..one.clone() }));
    assert_ne!(bits(&one), bits(&Flow { seed: 6, ..one.clone() }));
}

/// The exact trace against central differences of the network, through the likelihood of one step.
#[test]
fn the_flows_density_is_that_of_finite_differences() {
    let (denoiser, schedule) = (denoiser("learned_range"), schedule());
    let pixels: Vec<f32> = (0..16).map(|i| ((i * 79 % 256) as f32) / 127.5 - 1.0).collect();
    let flow = small_flow(&schedule, Trace::Exact);
    let images = Images::new([1, 4, 4, 1], pixels.clone());
    let got = flow_likelihood(&denoiser, &images, &flow, |_, _| true).unwrap();

    let epsilon = |x: &[f64], t: f64| -> Vec<f64> {
        let x: Vec<f32> = x.iter().map(|&x| x as f32).collect();
        let input = Tensor::<4>::from_data(TensorData::new(x, [1, 4, 4, 1]), &Device::flex());
        let output = denoiser.network.forward(input, &[t as f32], Condition::default(), None);
        output.narrow(3, 0, 1).into_data().iter::<f64>().collect()
    };
    let mut uniforms = vec![0.0; 16];
    Random::new(5).uniforms_f64(Stream::Dequantize, 0, 0, &mut uniforms);
    let signal = schedule.alpha_cumprod(0).sqrt();
    let points: Vec<f64> =
        pixels.iter().zip(uniforms).map(|(&x, u)| signal * (f64::from(x) + (u - 0.5) / 127.5)).collect();
    let probability_flow = diffusion::ProbabilityFlow { schedule: &schedule, steps: 4 };
    let density = probability_flow
        .log_density(&points, 16, |x, node| {
            let h = 1e-2;
            let trace: f64 = (0..16)
                .map(|i| {
                    let moved = |by: f64| {
                        let mut x = x.to_vec();
                        x[i] += by;
                        epsilon(&x, node.timestep)[i]
                    };
                    (moved(h) - moved(-h)) / (2.0 * h)
                })
                .sum();
            Ok::<_, diffusion::Error>((epsilon(x, node.timestep), vec![trace]))
        })
        .unwrap();
    let nats = -density.log_density[0] / 16.0 - signal.ln() + 127.5_f64.ln();
    let expected = nats / std::f64::consts::LN_2;
    assert!((got.bits_per_dim - expected).abs() < 2e-4, "{} {expected}", got.bits_per_dim);
}

#[test]
fn what_does_not_fit_is_refused() {
    let schedule = schedule();
    let flow = small_flow(&schedule, Trace::Hutchinson(1));
    let images = images(4, 1);
    let refused = |denoiser: &dyn model::Denoiser, flow: &Flow| {
        flow_likelihood(denoiser, &images, flow, |_, _| true).unwrap_err().to_string()
    };
    let previous_mean = denoiser_of("learned_range", Prediction::PreviousMean);
    assert!(refused(&previous_mean, &flow).contains("whole timesteps"));
    let oracle = Oracle::new(|x, _| x.to_vec(), &Device::flex());
    assert!(refused(&oracle, &flow).contains("differentiated"));
    let denoiser = denoiser("learned_range");
    assert!(refused(&denoiser, &Flow { draws: 0, ..flow.clone() }).contains("at least 1"));
    assert!(refused(&denoiser, &small_flow(&schedule, Trace::Hutchinson(0))).contains("at least 1"));
    assert!(refused(&denoiser, &Flow { steps: 0, ..flow.clone() }).contains("steps"));
    assert!(flow_likelihood(&denoiser, &images, &flow, |_, _| false).is_err());
}
