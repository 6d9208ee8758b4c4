//! Samples by the thousand, as the bytes that a file would hold.

use diffusion::{SchedulerConfig, SolverTable};
use unet::Unet;

use crate::walk::{Guidance, Request, initial_noise, walk};
use crate::{Error, output};

/// What to draw.
#[derive(Clone, Debug)]
pub struct Draw<'a> {
    /// The seed of all noise.
    pub seed: u64,
    /// How many images.
    pub count: usize,
    /// H, W, C.
    pub shape: [usize; 3],
    /// Classes that the images have in turn, if the network has classes.
    pub classes: Option<&'a [u32]>,
    /// Guidance towards them.
    pub guidance: Option<Guidance>,
    /// Images that go through the network at once; never changes an image.
    pub batch_size: usize,
}

/// Images as bytes N,H,W,C: those that [`walk`] makes of the same seed, in no more memory than that and a batch.
/// `progress` is told after every row how many rows of how many are done, and stops by returning false.
///
/// # Errors
/// Those of [`walk`].
pub fn draw(
    unet: &Unet,
    table: &SolverTable,
    scheduler: &SchedulerConfig,
    draw: &Draw,
    mut progress: impl FnMut(usize, usize) -> bool,
) -> Result<Vec<u8>, Error> {
    let &Draw { seed, count, shape, classes, guidance, batch_size } = draw;
    let rows = table.rows.len() * count.div_ceil(batch_size);
    let mut bytes = Vec::new();
    for (batch, first) in (0..count).step_by(batch_size).enumerate() {
        let some = batch_size.min(count - first);
        let noise = initial_noise(seed, first as u64, some, shape);
        let class = |i: usize| classes.filter(|classes| !classes.is_empty()).map(|classes| classes[i % classes.len()]);
        let labels: Option<Vec<u32>> = (first..first + some).map(class).collect();
        let request = Request {
            seed,
            first_image: first as u64,
            noise: &noise,
            labels: labels.as_deref(),
            batch_size,
            share_until: None,
            guidance,
        };
        let images = walk(unet, table, scheduler, &request, |step| progress(batch * step.rows + step.row + 1, rows))?;
        bytes.extend(output::to_u8(&images.pixels));
    }
    Ok(bytes)
}
