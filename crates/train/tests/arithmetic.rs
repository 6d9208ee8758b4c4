//! The numbers of training, each recomputed in f64 from its definition: Adam, clipping, averages, learning rates, losses
//! and their weights, the choice of timesteps.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use common::{TIMESTEPS, alphas_cumprod, assert_close, config, trainer, write_images};
use ddpm_train::{Batch, Checkpoint, DataLoader, Event, Hooks, StepReport, TrainState, Trainer, TrainingConfig, train};
use diffusion::timestep_sampler::LossSecondMoment;
use model::{Condition, Images};
use random::{Random, Stream};
use weights::{Tensors, read_safetensors};

/// The state of a run after a step.
struct State {
    parameters: Tensors,
    averages: Tensors,
    /// `moment1.NAME` and `moment2.NAME`.
    moments: Tensors,
}

/// The state before the first step, as Adam and averages begin, and after each step of a run with a checkpoint for each.
fn states(config: &TrainingConfig, folder: &Path) -> (Vec<State>, Vec<StepReport>) {
    let mut reports = Vec::new();
    let hooks = Hooks::new().on_event(|event| {
        if let Event::Step { report, .. } = event {
            reports.push(report.clone());
        }
    });
    train(config, folder, &Device::flex(), hooks).unwrap();
    let parameters = trainer(config).network().tensors().unwrap();
    let moments = parameters.iter().flat_map(|(name, tensor)| {
        let zero = weights::Tensor { data: vec![0.0; tensor.data.len()], ..tensor.clone() };
        [(format!("moment1.{name}"), zero.clone()), (format!("moment2.{name}"), zero)]
    });
    let mut states = vec![State { averages: parameters.clone(), moments: moments.collect(), parameters }];
    for step in 1..=config.train.steps {
        let read = |file: &str| read_safetensors(folder.join(format!("checkpoints/{step:09}/{file}"))).unwrap().0;
        states.push(State {
            parameters: read("training/weights.safetensors"),
            averages: read("unet/diffusion_pytorch_model.safetensors"),
            moments: read("training/optimizer.safetensors"),
        });
    }
    (states, reports)
}

/// From the checkpoints before and after each step: the first moment gives the gradient, from which everything else
/// follows. Two accumulated passes, a warm-up that ends during the run, and clipping of some steps.
#[test]
fn steps_are_those_of_adam_with_clipping_and_averages() {
    let (beta1, beta2, epsilon) = (0.8f64, 0.95f64, 1e-3);
    let place = tempfile::tempdir().unwrap();
    let images = place.path().join("images.npz");
    write_images(&images, 16, [4, 4, 1]);
    let config = config(
        &images,
        &[
            "train.steps=6",
            "train.gradient_accumulation=2",
            "train.learning_rate=0.01",
            "train.warmup_steps=3",
            "train.beta1=0.8",
            "train.beta2=0.95",
            "train.adam_eps=1e-3",
            "train.grad_clip=1.5",
            "train.ema_decay=0.3",
            "train.checkpoint_every=1",
            "train.keep_checkpoints=9",
            "train.sample_every=0",
        ],
    );
    let (states, reports) = states(&config, &place.path().join("run"));
    assert_eq!((states.len(), reports.len()), (7, 6));
    let mut clipped = 0;
    for (n, (pair, report)) in states.windows(2).zip(&reports).enumerate() {
        let [before, after] = pair else { unreachable!() };
        let step = n as i32 + 1;
        let learning_rate = 0.01 * (f64::from(step) / 3.0).min(1.0);
        assert_close(report.learning_rate, learning_rate, 1e-15);
        // (1+n)/(10+n) exceeds 0.3 from the fourth update on.
        let decay = ((1.0 + n as f64) / (10.0 + n as f64)).min(0.3);
        assert_eq!(decay == 0.3, n > 2);
        let (correction1, correction2) = (1.0 - beta1.powi(step), 1.0 - beta2.powi(step));

        let (mut squares, mut moved) = (0.0, false);
        for (name, tensor) in &after.parameters {
            let moment =
                |state: &State, k: usize, i: usize| f64::from(state.moments[&format!("moment{k}.{name}")].data[i]);
            let peak = |k: usize| (0..tensor.data.len()).map(|i| moment(after, k, i).abs()).fold(0.0, f64::max);
            let (peak1, peak2) = (peak(1), peak(2));
            for i in 0..tensor.data.len() {
                let (m, v) = (moment(after, 1, i), moment(after, 2, i));
                let gradient = (m - beta1 * moment(before, 1, i)) / (1.0 - beta1);
                squares += gradient * gradient;
                let expected = beta2 * moment(before, 2, i) + (1.0 - beta2) * gradient * gradient;
                assert!((v - expected).abs() <= 1e-6 * (v + peak2), "step {step}, {name}: {v} {expected}");

                let old = f64::from(before.parameters[name].data[i]);
                let update = learning_rate * (m / correction1) / ((v / correction2).sqrt() + epsilon);
                let found = f64::from(tensor.data[i]);
                let tolerance = 1e-7 * old.abs() + 1e-6 * update.abs();
                assert!((found - (old - update)).abs() <= tolerance, "step {step}, {name}: {found} {}", old - update);
                moved |= update.abs() > 1e-3 && peak1 > 0.0;

                let old = f64::from(before.averages[name].data[i]);
                let expected = decay * old + (1.0 - decay) * found;
                let average = f64::from(after.averages[name].data[i]);
                let tolerance = 1e-7 * (old.abs() + found.abs());
                assert!((average - expected).abs() <= tolerance, "step {step}, {name}: {average} {expected}");
            }
        }
        assert!(moved, "step {step} changes nothing");
        assert_close(squares.sqrt(), report.gradient_norm.min(1.5), 1e-4);
        clipped += usize::from(report.gradient_norm > 1.5);
    }
    assert!((1..6).contains(&clipped), "{clipped} of 6 steps are clipped, so one side is not tested");
}

/// The half-life of NVlabs/edm, which is short at first, and an average by a power function, whose exponent is that of the length 0.1.
#[test]
fn averages_have_the_half_life_in_images_and_the_lengths_that_are_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let images = place.path().join("images.npz");
    write_images(&images, 16, [4, 4, 1]);
    let sets = [
        "train.steps=5",
        "train.batch_size=4",
        "train.ema_half_life=6",
        "train.ema_rampup=0.5",
        "train.ema_lengths=[0.1, 0.05]",
        "train.checkpoint_every=1",
        "train.keep_checkpoints=9",
        "train.sample_every=0",
    ];
    let config = config(&images, &sets);
    let run = place.path().join("run");
    let (states, _) = states(&config, &run);
    let power_ema = |step: usize| {
        read_safetensors(run.join(format!("checkpoints/{step:09}/training/power_ema.safetensors"))).unwrap().0
    };
    for (n, pair) in states.windows(2).enumerate() {
        let [before, after] = pair else { unreachable!() };
        let half_life = [0.0, 2.0, 4.0, 6.0, 6.0][n];
        let decay = if n == 0 { 0.0 } else { 0.5f64.powf(4.0 / half_life) };
        let powers = [n.max(1), n + 1].map(power_ema);
        let power_decay = (1.0 - 1.0 / (n as f64 + 1.0)).powf(6.937203937601809 + 1.0);
        for (name, tensor) in &after.parameters {
            for (i, &parameter) in tensor.data.iter().enumerate() {
                let check = |decay: f64, old: f32, found: f32| {
                    let expected = decay * f64::from(old) + (1.0 - decay) * f64::from(parameter);
                    let tolerance = 2e-7 * f64::from(old.abs() + parameter.abs());
                    assert!((f64::from(found) - expected).abs() <= tolerance, "{n}, {name}: {found} {expected}");
                };
                check(decay, before.averages[name].data[i], after.averages[name].data[i]);
                let old = if n == 0 { 0.0 } else { powers[0][&format!("0.1/{name}")].data[i] };
                check(power_decay, old, powers[1][&format!("0.1/{name}")].data[i]);
            }
        }
    }
}

/// A batch of the first images of a set.
fn batch(config: &TrainingConfig, size: usize) -> Batch {
    let set = std::sync::Arc::new(config.open(data::Split::Train).unwrap());
    DataLoader::new(set, Random::new(config.train.seed), size).batch(0).unwrap()
}

/// Makes a folder with 32 images, and a configuration for them.
fn place(sets: &[&str]) -> (tempfile::TempDir, TrainingConfig) {
    let place = tempfile::tempdir().unwrap();
    let images = place.path().join("images.npz");
    write_images(&images, 32, [4, 4, 1]);
    let config = config(&images, sets);
    (place, config)
}

#[test]
fn accumulated_passes_are_one_large_pass() {
    let step = |sets: &[&str]| {
        let (_place, config) = place(sets);
        let mut trainer = trainer(&config);
        let report = trainer.step(&batch(&config, 12)).unwrap();
        (report, trainer.optimizer().tensors(trainer.network()).unwrap())
    };
    let (whole, expected) = step(&["train.batch_size=12", "model.dropout=0.2"]);
    let (parts, found) = step(&["train.batch_size=3", "train.gradient_accumulation=4", "model.dropout=0.2"]);
    assert_close(parts.loss, whole.loss, 1e-6);
    assert_close(parts.gradient_norm, whole.gradient_norm, 1e-5);
    assert!(whole.gradient_norm > 1e-3);
    for ((t, part), (other, whole)) in parts.losses.iter().zip(&whole.losses) {
        assert_eq!(t, other);
        assert_close(*part, *whole, 1e-5);
    }
    for (name, expected) in expected {
        let peak = expected.data.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        for (found, expected) in found[&name].data.iter().zip(&expected.data) {
            assert!((found - expected).abs() <= 1e-5 * peak + 1e-9, "{name}: {found} {expected}");
        }
    }
}

/// The learning rate counts steps; each roll-back halves it.
#[test]
fn the_learning_rate_rises_and_is_halved_by_roll_backs() {
    let (_place, config) = place(&["train.learning_rate=0.01", "train.warmup_steps=5"]);
    let at = |step: u64, rollbacks: u32| {
        let mut trainer = trainer(&config);
        restore(&mut trainer, &config, TrainState { step, rollbacks, ..TrainState::default() });
        trainer.learning_rate()
    };
    for (step, expected) in [(0, 0.002), (1, 0.004), (3, 0.008), (4, 0.01), (5, 0.01), (100, 0.01)] {
        assert_close(at(step, 0), expected, 1e-15);
        assert_close(at(step, 3), expected / 8.0, 1e-15);
    }
}

fn restore(trainer: &mut Trainer, config: &TrainingConfig, state: TrainState) {
    let network = common::trainer(config).network().clone();
    let optimizer = ddpm_train::optimizer::Optimizer::new(&network.flat_parameters());
    let (power_ema, scheduler) = (weights::Tensors::new(), config.scheduler());
    trainer.restore(Checkpoint { network, optimizer, power_ema, state, scheduler }).unwrap();
}

/// The squared error of each image, with x_t and ε from the random numbers' addresses.
fn squared_errors(trainer: &Trainer, images: &Images, timesteps: &[usize]) -> Vec<f64> {
    let alphas = alphas_cumprod();
    let size = images.pixels.len() / images.n;
    let device = Device::flex();
    let error = |(place, (x0, &t)): (usize, (&[f32], &usize))| {
        let mut epsilon = vec![0.0f32; size];
        Random::new(7).normals(Stream::Noise, place as u64, trainer.state().step, &mut epsilon);
        let (alpha, sigma) = (alphas[t].sqrt(), (1.0 - alphas[t]).sqrt());
        let mix = |(x0, e): (&f32, &f32)| (alpha * f64::from(*x0) + sigma * f64::from(*e)) as f32;
        let x_t = x0.iter().zip(&epsilon).map(mix).collect();
        let x_t =
            Images::new([1, images.height, images.width, images.channels], x_t).tensor(&device.clone().autodiff());
        let output = trainer.network().forward(x_t, &[t as f32], Condition::default(), None);
        // A learned variance has a channel after each channel of ε̂, since these images have one channel.
        let all: Vec<f64> = output.into_data().iter::<f64>().collect();
        let output: Vec<f64> = all.iter().step_by(all.len() / size).copied().collect();
        let square = |(output, e): (&f64, &f32)| (output - f64::from(*e)).powi(2);
        output.iter().zip(&epsilon).map(square).sum::<f64>() / size as f64
    };
    images.each().zip(timesteps).enumerate().map(error).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// The loss is the mean of w_t times the squared error, with w_t = 1, min(SNR, γ)/SNR, or as listed.
#[test]
fn squared_errors_are_weighted_by_timestep() {
    let list: Vec<f64> = (0..TIMESTEPS).map(|t| 0.25 * (t + 1) as f64).collect();
    let weights = format!("diffusion.loss_weights={list:?}");
    let min_snr = ["diffusion.loss=min_snr", "diffusion.min_snr_gamma=2"];
    for sets in [&[][..], &min_snr, &["diffusion.loss=weights", &weights]] {
        let (_place, config) = place(&[sets, &["train.batch_size=16"]].concat());
        let mut trainer = trainer(&config);
        let batch = batch(&config, 16);
        // t = ⌊T·u⌋ of each image's own u.
        let u = |place: usize| Random::new(7).uniform(Stream::Timestep, place as u64, 0);
        let timesteps: Vec<usize> = (0..16).map(|place| (u(place) * TIMESTEPS as f64) as usize).collect();
        let errors = squared_errors(&trainer, &batch.images, &timesteps);
        let weight = |t: usize| {
            let snr = alphas_cumprod()[t] / (1.0 - alphas_cumprod()[t]);
            match config.diffusion.loss {
                ddpm_train::config::Loss::MinSnr => snr.min(2.0) / snr,
                ddpm_train::config::Loss::Weights => list[t],
                _ => 1.0,
            }
        };
        let report = trainer.step(&batch).unwrap();
        for (place, (t, loss)) in report.losses.iter().enumerate() {
            assert_eq!(*t, timesteps[place]);
            assert_close(*loss, errors[place], 1e-5);
        }
        let expected = mean(errors.iter().zip(&timesteps).map(|(error, &t)| weight(t) * error));
        assert_close(report.loss, expected, 1e-5);
        let plain = mean(errors.iter().copied());
        assert!(sets.is_empty() || (expected / plain - 1.0).abs() > 0.1, "{sets:?} changes nothing");
    }
}

/// Offset noise is z·strength more in all pixels of a channel, with one z for each image and channel, in x_t and in the target.
#[test]
fn offset_noise_is_one_number_for_each_image_and_channel() {
    let (_place, plain) = place(&["train.batch_size=16"]);
    let (_other, offset) = place(&["train.batch_size=16", "diffusion.offset_noise=0.5"]);
    let batch = batch(&plain, 16);
    let [plain, offset] = [&plain, &offset].map(|config| trainer(config).noised(&batch));
    assert_eq!((&plain.timesteps, &plain.images), (&offset.timesteps, &offset.images));
    let size = plain.epsilon.len() / 16;
    let difference: Vec<f32> = offset.epsilon.iter().zip(&plain.epsilon).map(|(a, b)| a - b).collect();
    let mut drawn = Vec::new();
    for image in difference.chunks(size) {
        // The images have one channel.
        assert!(image.iter().all(|d| (d - image[0]).abs() < 1e-5), "{image:?}");
        drawn.push(f64::from(image[0]) / 0.5);
    }
    // Sixteen standard normal numbers.
    let mean_square = drawn.iter().map(|z| z * z).sum::<f64>() / 16.0;
    assert!((0.3..2.2).contains(&mean_square), "{drawn:?}");
    let mut sorted = drawn.clone();
    sorted.sort_by(f64::total_cmp);
    assert!(sorted.windows(2).all(|pair| pair[1] > pair[0]), "{sorted:?}");
    assert!(drawn.iter().any(|z| *z > 0.0) && drawn.iter().any(|z| *z < 0.0), "{drawn:?}");
}

/// p_t of Nichol & Dhariwal (2021, eq. 18) with 0.001 of the uniform distribution, from the latest ten losses of each t.
fn probabilities(history: &BTreeMap<usize, Vec<f64>>) -> Vec<f64> {
    let rms: Vec<f64> = history.values().map(|losses| mean(losses.iter().map(|loss| loss * loss)).sqrt()).collect();
    let sum: f64 = rms.iter().sum();
    rms.iter().map(|rms| 0.999 * rms / sum + 0.001 / TIMESTEPS as f64).collect()
}

/// Timesteps are drawn by inversion from p_t; the loss is weighted with 1/(T·p_t); the losses that are remembered have the
/// weight of their timestep but not that of importance.
#[test]
fn importance_sampling_weights_the_loss() {
    let list: Vec<f64> = (0..TIMESTEPS).map(|t| 0.25 * (t + 1) as f64).collect();
    let (_place, config) = place(&[
        "diffusion.timestep_sampler=importance",
        "diffusion.loss=weights",
        &format!("diffusion.loss_weights={list:?}"),
        "train.batch_size=16",
    ]);
    let mut history: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    let mut importance = LossSecondMoment::new(TIMESTEPS).unwrap();
    for t in 0..TIMESTEPS {
        for k in 0..10 {
            let loss = (t * 7 % 23 + 1) as f64 * (1.0 + 0.05 * f64::from(k));
            importance.update(t, loss).unwrap();
            history.entry(t).or_default().push(loss);
        }
    }
    let p = probabilities(&history);
    let mut trainer = trainer(&config);
    restore(&mut trainer, &config, TrainState { step: 3, importance: Some(importance), ..TrainState::default() });
    let batch = batch(&config, 16);
    let drawn = |place: usize| {
        let u = Random::new(7).uniform(Stream::Timestep, place as u64, 3);
        let mut below = 0.0;
        (0..TIMESTEPS).find(|&t| {
            below += p[t];
            u < below
        })
    };
    let timesteps: Vec<usize> = (0..16).map(|place| drawn(place).unwrap()).collect();
    let errors = squared_errors(&trainer, &batch.images, &timesteps);
    let report = trainer.step(&batch).unwrap();
    let found: Vec<usize> = report.losses.iter().map(|(t, _)| *t).collect();
    assert_eq!(found, timesteps);
    let importance = |t: usize| 1.0 / (TIMESTEPS as f64 * p[t]);
    let expected = mean(errors.iter().zip(&timesteps).map(|(error, &t)| importance(t) * list[t] * error));
    assert_close(report.loss, expected, 1e-5);
    let unweighted = mean(errors.iter().zip(&timesteps).map(|(error, &t)| list[t] * error));
    assert!((expected / unweighted - 1.0).abs() > 0.05, "the weights of importance change nothing");

    for (&t, error) in timesteps.iter().zip(&errors) {
        let losses = history.get_mut(&t).unwrap();
        losses.remove(0);
        losses.push(list[t] * error);
    }
    let found = trainer.state().importance.as_ref().unwrap().distribution();
    for (found, expected) in found.probabilities().iter().zip(probabilities(&history)) {
        assert_close(*found, expected, 1e-5);
    }
}

/// ⌊T·((u + i/N) mod 1)⌋ for image i of N, with one u for all (Kingma et al. 2021).
#[test]
fn low_discrepancy_covers_the_chain_evenly() {
    let (_place, config) = place(&["diffusion.timestep_sampler=low_discrepancy", "train.batch_size=8"]);
    let mut trainer = trainer(&config);
    for step in 0..3 {
        let u = Random::new(7).uniform(Stream::Timestep, 0, step);
        let report = trainer.step(&batch(&config, 8)).unwrap();
        for (i, (t, _)) in report.losses.into_iter().enumerate() {
            assert_eq!(t, (((u + i as f64 / 8.0) % 1.0) * TIMESTEPS as f64) as usize);
        }
    }
}

/// The bound is T times its term, and L_hybrid is the squared error plus T/1000 of the term (Nichol & Dhariwal 2021).
#[test]
fn the_bound_and_the_hybrid_loss_have_their_factors() {
    let step = |loss: &str| {
        let loss = format!("diffusion.loss={loss}");
        let (_place, config) = place(&["diffusion.variance=learned_range", "train.batch_size=16", &loss]);
        let (mut trainer, batch) = (trainer(&config), batch(&config, 16));
        let timesteps = trainer.noised(&batch).timesteps;
        let errors = squared_errors(&trainer, &batch.images, &timesteps);
        (trainer.step(&batch).unwrap(), errors)
    };
    let each = |report: &StepReport| report.losses.iter().map(|(_, loss)| *loss).collect::<Vec<f64>>();
    let ((bound, _), (hybrid, errors)) = (step("vlb"), step("hybrid"));
    let terms = mean(each(&bound).into_iter());
    let total = TIMESTEPS as f64;
    assert_close(bound.loss, total * terms, 1e-5);
    each(&hybrid).into_iter().zip(&errors).for_each(|(found, error)| assert_close(found, *error, 1e-5));
    let difference = hybrid.loss - mean(each(&hybrid).into_iter());
    assert!((difference - total / 1000.0 * terms).abs() < 1e-6 * hybrid.loss, "{difference} {terms}");
    assert!(total / 1000.0 * terms > 1e-3 * hybrid.loss, "too small to be seen");
}

/// The keys of `[model]`, all of them unlike diffusers' defaults, are those of diffusers' `config.json`.
#[test]
fn keys_of_the_model_reach_the_network() {
    let sets = [
        "data.labels=true",
        "data.flip=true",
        "model.block_out_channels=[12, 24]",
        "model.layers_per_block=3",
        "model.attention_resolutions=[2]",
        "model.attention_head_dim=6",
        "model.norm_num_groups=3",
        "model.norm_eps=0.125",
        "model.dropout=0.25",
        "model.downsample_padding=0",
        "model.flip_sin_to_cos=false",
        "model.freq_shift=1",
        "model.resnet_time_scale_shift=scale_shift",
        "diffusion.variance=learned_range",
        "diffusion.loss=hybrid",
        "train.label_dropout=0.5",
    ];
    let (_place, config) = place(&sets);
    let set = config.open(data::Split::Train).unwrap();
    let network: serde_json::Value = serde_json::from_str(&config.network(&set).unwrap().to_json()).unwrap();
    let expected = serde_json::json!({
        "sample_size": 4, "in_channels": 1, "out_channels": 2, "block_out_channels": [12, 24], "layers_per_block": 3,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": 6, "norm_num_groups": 3, "norm_eps": 0.125, "dropout": 0.25, "downsample_padding": 0,
        "flip_sin_to_cos": false, "freq_shift": 1.0, "resnet_time_scale_shift": "scale_shift",
        // Three classes, and the one that stands for none.
        "num_class_embeds": 4,
    });
    for (key, expected) in expected.as_object().unwrap() {
        let found = &network[key];
        let equal = found == expected || (found.is_number() && found.as_f64() == expected.as_f64());
        assert!(equal, "{key} is {found}, expected {expected}");
    }
    assert_eq!(config.preprocessing(&set).null_label, Some(3));
}
