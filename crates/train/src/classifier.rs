//! Training of a small classifier for its features ([`evaluate::network::Classifier`]).

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData, activation};
use data::ImageSet;
use evaluate::network::{Classifier, ClassifierInfo};
use model::Images;
use mpi::{Communicator, Division, tree};
use random::Random;
use unet::Parameters;
use unet::ops::AdamStep;

use crate::Error;
use crate::data_loader::DataLoader;
use crate::optimizer::{Optimizer, global_norm};
use crate::reduction::{Gradients, add, sum_over_processes};

/// The options of a classifier's training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClassifierOptions {
    /// Steps of Adam.
    pub steps: usize,
    /// Images of a step.
    pub batch_size: usize,
    /// Passes of a step, which must divide its images. Processes divide them; the number of processes changes no number, but
    /// that of passes does in the last bits.
    pub passes: usize,
    /// Adam's maximum learning rate. It rises linearly over the first twentieth of the steps and falls to 0 over the rest.
    pub learning_rate: f64,
    /// Whether to mirror half of the images.
    pub flip: bool,
    /// Seed of parameters and order.
    pub seed: u64,
}

impl Default for ClassifierOptions {
    fn default() -> Self {
        Self { steps: 4000, batch_size: 64, passes: 1, learning_rate: 2e-3, flip: false, seed: 0 }
    }
}

/// The images that a classifier is trained and tested on, and the processes that divide them.
#[derive(Clone, Copy)]
pub struct ClassifierData<'a> {
    /// Labelled training images.
    pub training: &'a Arc<ImageSet>,
    /// Labelled images that are half of each step, such as samples of a model. Their classes are those of `training`.
    pub extra: Option<&'a Arc<ImageSet>>,
    /// Labelled held-out images, if there are any.
    pub held_out: Option<&'a ImageSet>,
    /// The processes that divide the passes and the held-out images.
    pub communicator: &'a Arc<dyn Communicator>,
}

/// The maximum norm of the gradient; longer gradients are scaled down to it.
const GRAD_CLIP: f64 = 1.0;
/// Images that are classified at once.
const BATCH: usize = 256;

/// Trains a classifier by cross entropy, and computes its accuracy on held-out images. Its parameters are averages over the
/// last steps. Processes divide the passes, and all get the classifier; one that fails or cancels must end the others.
/// `progress(steps done, loss)` is called after each step; return `false` to cancel.
///
/// # Errors
/// If the images are not square, not grey or RGB, or of fewer than two classes; if one cannot be read; if the loss is not
/// finite; or if `progress` returned `false` ([`evaluate::Error::Stopped`]).
pub fn train_classifier(
    data: ClassifierData,
    options: ClassifierOptions,
    device: &Device,
    mut progress: impl FnMut(usize, f64) -> bool,
) -> Result<(Classifier, ClassifierInfo), Error> {
    let ClassifierData { training: set, extra, held_out, communicator } = data;
    let [side, width, channels] = set.shape();
    let classes = set.class_names().to_vec();
    let labelled = |labels: &[u32]| labels.iter().all(|&label| (label as usize) < classes.len());
    for set in std::iter::once(set).chain(extra) {
        if !set.labels().is_some_and(labelled) || classes.len() < 2 {
            return Err(Error::Run(format!("{} has no classes to distinguish", set.name())));
        }
    }
    if side != width || ![1, 3].contains(&channels) {
        let name = set.name();
        let message = format!("{name}: a classifier needs square images, grey or RGB, not {side}x{width}x{channels}");
        return Err(Error::Run(message));
    }
    let (passes, size) = (options.passes.max(1), communicator.size());
    if !options.batch_size.is_multiple_of(passes) || size > passes {
        return Err(Error::Run(format!(
            "{size} processes divide {passes} passes of {} images; the passes must divide the images, and there must be as \
             many as processes or more",
            options.batch_size
        )));
    }
    let (own, of_pass) = (tree::share(passes, communicator.rank(), size), options.batch_size / passes);
    let device = device.clone().autodiff();
    let mut classifier = Classifier::new(channels, classes.len(), options.seed, &device);
    let mut optimizer = Optimizer::new(&classifier.flat_parameters());
    let of_extra = if extra.is_some() { of_pass / 2 } else { 0 };
    // Each pass has images of both sets.
    let stream = |set: &Arc<ImageSet>, of_pass: usize| {
        let loader = DataLoader::new(set.clone(), Random::new(options.seed), passes * of_pass);
        let range = own.start * of_pass..own.end * of_pass;
        (DataLoader { flip: options.flip, labels: true, range, ..loader }.stream(0), of_pass)
    };
    let mut streams = vec![stream(set, of_pass - of_extra)];
    streams.extend(extra.filter(|_| of_extra > 0).map(|extra| stream(extra, of_extra)));
    for step in 0..options.steps {
        let parts = streams.iter_mut().map(|(batches, size)| Ok((batches.next()?.images, *size)));
        let parts = parts.collect::<Result<Vec<_>, Error>>()?;
        let mut losses = Vec::new();
        let mut leaf = |pass: usize| -> Result<Gradients, Error> {
            let mut images = Images::default();
            parts.iter().for_each(|(part, size)| images.append(part.slice((pass - own.start) * size, *size)));
            let x = images.tensor(&device);
            let targets = one_hot(images.labels.as_deref().unwrap_or_default(), classes.len(), &device);
            let log_likelihoods = activation::log_softmax(classifier.logits(classifier.features(x)), 1);
            let loss = (log_likelihoods * targets).sum().neg() / options.batch_size as f32;
            let gradients = classifier.take_gradients(&mut loss.backward());
            losses.push(f64::from(loss.into_scalar::<f32>()));
            Ok(gradients)
        };
        let subtrees = tree::subtrees(passes, &own).into_iter();
        let sums = subtrees.map(|node| tree::reduce(node, &mut leaf, &mut add)).collect::<Result<Vec<_>, _>>()?;
        let gradients = sum_over_processes(communicator, passes, sums)?;
        let (loss, norm) = (communicator.all_gather_f64(&losses)?.iter().sum::<f64>(), global_norm(&gradients));
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
            gradient_scale: (GRAD_CLIP / (norm + 1e-6)).min(1.0),
            ema_decay: ((1.0 + n) / (10.0 + n)).min(0.99),
            weight_decay: 0.0,
        };
        classifier = classifier.map_parameters(optimizer.update(gradients, step_of));
        if !progress(step + 1, loss) {
            return Err(evaluate::Error::Stopped.into());
        }
    }
    let mut averages = optimizer.averages();
    let classifier = classifier.valid().map_parameters(|_, old| averages.next().unwrap_or(old));
    let division = communicator.clone().into();
    let accuracy = held_out.map(|held_out| accuracy(&classifier, held_out, &division)).transpose()?;
    let about = ClassifierInfo { set: set.name().to_owned(), side, channels, classes, accuracy };
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

/// Computes the share of a labelled set's images that are classified correctly.
fn accuracy(classifier: &Classifier, set: &ImageSet, division: &Division) -> Result<f64, Error> {
    let device = classifier.device();
    let (n, mut correct) = (set.labels().unwrap_or_default().len(), 0);
    let count = |batch: usize| {
        let range = batch * BATCH..n.min((batch + 1) * BATCH);
        let images = Images::read(set, &range.collect::<Vec<_>>())?;
        let logits = classifier.logits(classifier.features(images.tensor(&device)));
        let classes = logits.argmax(1).into_data().iter::<i64>().collect::<Vec<_>>();
        let labels = images.labels.unwrap_or_default();
        let count = classes.iter().zip(labels).filter(|&(&class, label)| class == i64::from(label)).count();
        Ok::<_, Error>(Some(count))
    };
    division.run(
        || "accuracy".into(),
        n.div_ceil(BATCH),
        count,
        |_, count: usize| {
            correct += count;
            Ok(true)
        },
    )?;
    Ok(correct as f64 / n.max(1) as f64)
}
