//! Training of a small classifier, for the features that it has in the end ([`evaluate::network::Classifier`]).

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use data::ImageSet;
use evaluate::network::{About, Classifier};
use random::Random;
use unet::Parameters;
use unet::ops::AdamStep;

use crate::Error;
use crate::batches::Plan;
use crate::optimizer::{Optimizer, global_norm};

/// How a classifier is trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierOptions {
    /// Steps of Adam.
    pub steps: usize,
    /// Images of a step.
    pub batch_size: usize,
    /// Adam's step size, which rises over the first twentieth of the steps and falls to 0 over the others.
    pub learning_rate: f64,
    /// Mirror half of the images.
    pub flip: bool,
    /// Seed of parameters and order.
    pub seed: u64,
}

impl Default for ClassifierOptions {
    fn default() -> Self {
        Self { steps: 4000, batch_size: 64, learning_rate: 2e-3, flip: false, seed: 0 }
    }
}

/// Norm to which a longer gradient is shortened.
const LONGEST_GRADIENT: f64 = 1.0;
/// Images whose classes are told at once.
const BATCH: usize = 256;

/// Trains a classifier of a set's labels by cross entropy, and counts how many of the held-out images it gets right. Its
/// parameters are averages over the last steps. `progress` is told the steps done and the last loss, and stops by
/// returning false.
///
/// # Errors
/// If the images are not square, grey or RGB, and of two classes or more; if one cannot be read; if the loss is not finite;
/// or [`evaluate::Error::Stopped`].
pub fn train_classifier(
    set: &Arc<ImageSet>,
    held_out: Option<&ImageSet>,
    options: ClassifierOptions,
    device: &Device,
    mut progress: impl FnMut(usize, f64) -> bool,
) -> Result<(Classifier, About), Error> {
    let [side, width, channels] = set.shape();
    let classes = set.class_names().to_vec();
    let labelled = |labels: &[u32]| labels.iter().all(|&label| (label as usize) < classes.len());
    if !set.labels().is_some_and(labelled) || classes.len() < 2 {
        return Err(Error::Run(format!("{} has no classes to tell apart", set.name())));
    }
    if side != width || ![1, 3].contains(&channels) {
        let name = set.name();
        let message = format!("{name}: a classifier wants square images, grey or RGB, not {side}x{width}x{channels}");
        return Err(Error::Run(message));
    }
    let device = device.clone().autodiff();
    let mut classifier = Classifier::new(channels, classes.len(), options.seed, &device);
    let mut optimizer = Optimizer::new(&classifier);
    let plan = Plan {
        random: Random::new(options.seed),
        images: options.batch_size,
        flip: options.flip,
        labels: true,
        label_dropout: 0.0,
        null_label: 0,
    };
    for (step, batch) in (0..options.steps).zip(plan.stream(set.clone(), 0)) {
        let batch = batch?;
        let x = Tensor::<4>::from_data(TensorData::new(batch.x0, [options.batch_size, side, side, channels]), &device);
        let targets = one_hot(batch.labels.as_deref().unwrap_or_default(), classes.len(), &device);
        let log_likelihoods = activation::log_softmax(classifier.logits(classifier.features(x)), 1);
        let loss = (log_likelihoods * targets).sum().neg() / options.batch_size as f32;
        let gradients = classifier.take_gradients(&mut loss.backward());
        let (loss, norm) = (f64::from(loss.into_scalar::<f32>()), global_norm(&gradients));
        if !loss.is_finite() || !norm.is_finite() {
            return Err(Error::Run(format!("step {}: the classifier's loss is not finite", step + 1)));
        }
        let done = step as f64 / options.steps as f64;
        let n = step as f64;
        let step_of = AdamStep {
            learning_rate: options.learning_rate * (20.0 * done).min(1.0).min(1.0 - done),
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            step: step as u64 + 1,
            gradient_scale: (LONGEST_GRADIENT / (norm + 1e-6)).min(1.0),
            ema_decay: ((1.0 + n) / (10.0 + n)).min(0.99),
        };
        classifier = optimizer.step(classifier, gradients, step_of);
        if !progress(step + 1, loss) {
            return Err(evaluate::Error::Stopped.into());
        }
    }
    let mut averages = optimizer.averages();
    let classifier = classifier.valid().map_parameters(|_, old| averages.next().unwrap_or(old));
    let accuracy = held_out.map(|held_out| accuracy(&classifier, held_out)).transpose()?;
    let about = About { set: set.name().to_owned(), side, channels, classes, accuracy };
    Ok((classifier, about))
}

/// `[N,classes]`: 1 at each label, 0 elsewhere.
fn one_hot(labels: &[u32], classes: usize, device: &Device) -> Tensor<2> {
    let mut values = vec![0f32; labels.len() * classes];
    for (row, &label) in values.chunks_exact_mut(classes).zip(labels) {
        row[label as usize] = 1.0;
    }
    Tensor::from_data(TensorData::new(values, [labels.len(), classes]), device)
}

/// Share of a labelled set's images whose class a classifier tells.
fn accuracy(classifier: &Classifier, set: &ImageSet) -> Result<f64, Error> {
    let (labels, device) = (set.labels().unwrap_or_default(), classifier.device());
    let [height, width, channels] = set.shape();
    let mut right = 0;
    for (batch, labels) in labels.chunks(BATCH).enumerate() {
        let bytes = set.read(batch * BATCH..batch * BATCH + labels.len())?;
        let data = TensorData::new(sample::output::from_u8(&bytes), [labels.len(), height, width, channels]);
        let logits = classifier.logits(classifier.features(Tensor::from_data(data, &device)));
        let told = logits.argmax(1).into_data().iter::<i64>().collect::<Vec<_>>();
        right += told.iter().zip(labels).filter(|&(&told, &label)| told == i64::from(label)).count();
    }
    Ok(right as f64 / labels.len().max(1) as f64)
}
