//! The builder, shorter chains, and images as a pipeline takes them.

use std::path::PathBuf;

use crate::common::{denoiser, images, network, schedule};
use data::{Dataset, Part, Split};
use ddpm_evaluate::{
    Chain, Division, Error, Evaluation, Flow, ImageSource, Trace, even_timesteps, flow_likelihood, likelihood,
    open_data, read_images,
};
use diffusion::{SchedulerConfig, Variance, timesteps};
use model::guidance::Guidance;
use model::{Pipeline, Preprocessing};
use sample::{ClipChoice, Generation};

fn pipeline(name: &str) -> Pipeline {
    let scheduler = SchedulerConfig {
        num_train_timesteps: 20,
        beta_start: 1e-3,
        beta_end: 0.2,
        variance_type: if name == "ho" { Variance::FixedSmall } else { Variance::LearnedRange },
        ..SchedulerConfig::default()
    };
    let (network, root) = (network(name), PathBuf::new());
    let preprocessing = Preprocessing {
        resolution: Some([8, 8]),
        channels: Some(network.signature().in_channels),
        ..Preprocessing::default()
    };
    Pipeline { network, scheduler, preprocessing, sampling: None, root }
}

#[test]
fn the_builder_calls_the_functions_with_the_pipelines_settings() {
    let (pipeline, denoiser, schedule) = (pipeline("ho"), denoiser("ho"), schedule());
    let images = images(8, 3);
    let all = timesteps::all(20);
    let chain = Chain {
        schedule: &schedule,
        variance: Variance::FixedSmall,
        log_variances: None,
        timesteps: &all,
        clip_sample: pipeline.scheduler.clip(),
        values: Default::default(),
        draws: 1,
        batch_size: 64,
        seed: 0,
        division: Division::default(),
    };
    assert!(chain.clip_sample.is_some());
    let expected = |chain: &Chain| likelihood(&denoiser, &images, chain, |_, _| true).unwrap();
    let evaluation = || Evaluation::new(&pipeline);
    assert_eq!(evaluation().likelihood(&images).unwrap(), expected(&chain));
    let short = Chain { timesteps: &[19, 10, 0], draws: 2, seed: 4, clip_sample: None, ..chain.clone() };
    let short = Chain { variance: Variance::FixedLarge, ..short };
    let built = evaluation().draws(2).seed(4).batch_size(5).steps(3).with(|options| {
        options.clip = Some(ClipChoice::Range(false));
        options.variance = Some(Variance::FixedLarge);
    });
    assert_eq!(built.likelihood(&images).unwrap(), expected(&short));
    let listed = evaluation().with(|options| options.timesteps = Some(vec![0, 19, 10]));
    assert_eq!(listed.likelihood(&images).unwrap(), expected(&Chain { timesteps: &[19, 10, 0], ..chain.clone() }));

    let flow = Flow {
        schedule: &schedule,
        steps: 2,
        trace: Trace::Hutchinson(1),
        draws: 1,
        batch_size: 64,
        seed: 0,
        values: Default::default(),
        division: Division::default(),
    };
    let built = evaluation().with(|options| options.flow_steps = 2).flow_likelihood(&images).unwrap();
    assert_eq!(built, flow_likelihood(&denoiser, &images, &flow, |_, _| true).unwrap());

    let cancelled = evaluation().on_progress(|_, _| false).likelihood(&images);
    assert!(matches!(cancelled, Err(Error::Stopped)));
}

#[test]
fn the_builder_guides() {
    let pipeline = pipeline("adm");
    let images = images(8, 3).with_labels(Some(vec![0, 1, 8]));
    let bits = |scale: f64| {
        let evaluation = Evaluation::new(&pipeline).steps(4).guidance(Guidance::new(scale, 9));
        evaluation.likelihood(&images).unwrap().bits_per_dim
    };
    assert_eq!(bits(1.0), Evaluation::new(&pipeline).steps(4).likelihood(&images).unwrap().bits_per_dim);
    assert_ne!(bits(1.0), bits(2.0));
}

#[test]
fn shorter_chains_cost_what_the_profile_predicts_with_other_noise() {
    let pipeline = pipeline("ho");
    let images = images(16, 3);
    let profile = Evaluation::new(&pipeline).draws(20).likelihood(&images).unwrap().mse_profile();
    let mut calls = Vec::new();
    let rows = Evaluation::new(&pipeline)
        .on_progress(|done, total| {
            calls.push((done, total));
            true
        })
        .sub_chains(&images, &profile, &[4, 10])
        .unwrap();
    let kinds: Vec<_> = rows.iter().map(|row| (row.steps, row.kind)).collect();
    assert_eq!(kinds[0], (4, "even, fixed_large"));
    assert_eq!(kinds[9], (10, "best, by channel"));
    assert_eq!(rows.len(), 10);
    for row in &rows {
        assert_eq!((row.timesteps.len(), row.timesteps[0]), (row.steps, 19));
        assert!((row.measured - row.predicted).abs() < 0.04 * row.predicted, "{row:?}");
    }
    // On the profile itself the optimal chain is the cheapest.
    let predicted = |kind: &str| rows.iter().find(|row| row.steps == 4 && row.kind == kind).unwrap().predicted;
    assert!(predicted("best, optimal") <= predicted("even, optimal") + 1e-9);
    assert!(predicted("best, by channel") <= predicted("best, optimal") + 1e-9);
    assert!(predicted("even, optimal") <= predicted("even, fixed_small") + 1e-9);
    // One count for all chains: 100 noisy images of each image at least.
    assert!(calls.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 == pair[1].1));
    assert_eq!(calls.last(), Some(&(3 * 100 * 10, 3 * 100 * 10)));

    let wrong = Evaluation::new(&pipeline).sub_chains(&images, &profile, &[21]);
    assert!(wrong.unwrap_err().to_string().contains("21"));
}

#[test]
fn even_timesteps_have_both_ends() {
    assert_eq!(even_timesteps(10, 4), [9, 6, 3, 0]);
    assert_eq!(even_timesteps(5, 3), [4, 2, 0]);
    assert_eq!(even_timesteps(3, 100), [2, 1, 0]);
    assert_eq!(even_timesteps(3, 1), [0]);
    assert!(even_timesteps(0, 3).is_empty());
}

#[test]
fn images_are_read_as_the_pipeline_takes_them() {
    let (plain, conditional) = (pipeline("ho"), pipeline("adm"));
    let (set, reading) = open_data(&plain, &Dataset::Builtin, Split::Test).unwrap();
    assert_eq!(reading.part, Part::HeldOut);
    let images = read_images(&plain, &set, 5).unwrap();
    assert_eq!((images.shape(), &images.labels), ([5, 8, 8, 3], &None));
    let labelled = read_images(&conditional, &set, 5).unwrap();
    assert_eq!(labelled.labels.as_deref(), set.labels().map(|labels| &labels[..5]));
    assert_eq!(labelled.pixels, images.pixels);
    assert_eq!(read_images(&plain, &set, usize::MAX).unwrap().n, set.len());

    // Without a held-out split the set is read as a whole, and without labels it is not for a network with classes.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npz");
    let mut bytes = std::io::Cursor::new(Vec::new());
    data::write_npz_images(&mut bytes, &[7; 4 * 64], [4, 8, 8, 1], None).unwrap();
    std::fs::write(&path, bytes.into_inner()).unwrap();
    let dataset = Dataset::Path(path);
    let (set, reading) = open_data(&plain, &dataset, Split::Test).unwrap();
    assert_eq!(reading.part, Part::Whole);
    assert_eq!((set.len(), set.shape()), (4, [8, 8, 3]));
    assert!(read_images(&conditional, &set, 1).unwrap_err().to_string().contains("has no labels"));
    let options = data::ReadOptions { split: Split::Test, ..Default::default() };
    assert!(ImageSource::open(&dataset, &options).unwrap().is_none());
    assert_eq!(ImageSource::open(&Dataset::Builtin, &options).unwrap().map(|(source, _)| source.count()), Some(1000));
}

/// Samples for a metric are those of a file.
#[test]
fn generated_images_are_those_of_the_generation() {
    let pipeline = pipeline("ho");
    let generation = |batch_size| {
        let generation = Generation::new(&pipeline, 3).sampler("ddim").steps(2).batch_size(batch_size);
        generation.with(|options| options.size = Some([8, 8]))
    };
    let source = ImageSource::generate(generation(2)).unwrap();
    let images = generation(3).run().unwrap();
    assert_eq!((source.count(), source.shape()), (3, [8, 8, 3]));
    assert_eq!(source.read(0..3).unwrap(), images.bytes());
}
