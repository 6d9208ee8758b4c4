//! The variational bound of held-out images, term by term, and what an image looks like after each.

use std::collections::BTreeMap;

use ddpm::data::Split;
use ddpm::diffusion::Node;
use ddpm::evaluate::{BoundTerm, Likelihood};
use ddpm::model::Images;
use ddpm::model::denoiser::denoise_images;
use ddpm::random::{Random, Stream};
use ddpm::{Pipeline, PipelineExt};

use crate::api::Failure;
use crate::jobs::{Frame, Outcome, Task};
use crate::picture::Pixels;
use crate::requests::{Bound, ImageRef};
use crate::work::{Places, class, kept_rows, of_set};

/// Measures the bound of the first images of the held-out set. Then noises `image`, or the first of them, to some timesteps of the
/// chain, and denoises it at once: the frames.
pub fn measure(places: &Places, task: &Task, request: &Bound) -> Result<Outcome, Failure> {
    let pipeline = places.models.load(&request.model)?;
    let set = pipeline.open_training_data(Split::Test)?;
    let images = pipeline.read_set(&set, request.n)?;
    let bound = pipeline
        .evaluate()
        .steps(request.steps)
        .seed(request.seed)
        .batch_size(images.n)
        .on_progress(|done, total| task.progress(done, total))
        .likelihood(&images)?;
    let image = match &request.image {
        None => images.slice(0, 1),
        Some(ImageRef::Data { data }) => labelled(of_set(&set, *data)?, &images),
        Some(image) => {
            places.image(task, &pipeline, image)?.with_labels(class(&pipeline, None)?.map(|class| vec![class]))
        }
    };
    decode(task, &pipeline, (&image, request.seed), &bound)?;
    Ok(Outcome { facts: facts(&bound), message: Some(said(&bound, set.name())), ..Outcome::default() })
}

/// Leaves an image its label only where the model takes labels, as the images of the bound have them.
fn labelled(image: Images, like: &Images) -> Images {
    let labels = image.labels.clone().filter(|_| like.labels.is_some());
    image.with_labels(labels)
}

/// Adds the frames: x_t of the image, and x̂0 that the network makes of it.
fn decode(task: &Task, pipeline: &Pipeline, (image, seed): (&Images, u64), bound: &Likelihood) -> Result<(), Failure> {
    let (schedule, denoiser) = (pipeline.scheduler.noise_schedule()?, pipeline.denoiser()?);
    let mut epsilon = vec![0.0; image.pixels.len()];
    Random::new(seed).normals(Stream::Noise, 0, 0, &mut epsilon);
    for row in kept_rows(bound.points.len()) {
        let timestep = bound.points[row].timestep;
        let node = Node { timestep: timestep as f64, level: schedule.level(timestep) };
        let mut pixels = vec![0.0; epsilon.len()];
        node.level.q_sample(&image.pixels, &epsilon, &mut pixels);
        let x_t = Images::new(image.shape(), pixels).with_labels(image.labels.clone());
        let sample = denoise_images(&denoiser, &x_t, node)?;
        task.frame(Frame { timestep: node.timestep, x: Pixels::from(&x_t), sample: Pixels::from(&sample) });
    }
    Ok(())
}

/// The numbers of a bound: its terms from noise to data, and its sums.
fn facts(bound: &Likelihood) -> BTreeMap<String, Vec<f64>> {
    let curve = bound.rate_distortion();
    let of_points = |value: fn(&BoundTerm) -> f64| bound.points.iter().map(value).collect();
    let facts: [(&str, Vec<f64>); 8] = [
        ("timestep", of_points(|point| point.timestep as f64)),
        ("bits", of_points(|point| point.bits)),
        ("mse", of_points(|point| point.mse)),
        ("epsilon_mse", of_points(|point| point.epsilon_mse)),
        ("rate", curve.iter().map(|&(_, rate, _)| rate).collect()),
        ("rmse", curve.iter().map(|&(_, _, rmse)| rmse).collect()),
        ("bits_per_dim", vec![bound.bits_per_dim, bound.standard_error]),
        ("parts", vec![bound.prior, bound.rate - bound.prior, bound.distortion]),
    ];
    facts.into_iter().map(|(name, values)| (name.to_owned(), values)).collect()
}

fn said(bound: &Likelihood, name: &str) -> String {
    let Likelihood { bits_per_dim, standard_error, images, evaluations, .. } = bound;
    format!(
        "{bits_per_dim:.3} ± {standard_error:.3} bits/dim of {images} held-out images of {name}, {evaluations} steps"
    )
}
