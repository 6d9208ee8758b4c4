//! A part of an image made anew so that it fits the rest: at every step the known part is put in its place, with the noise of
//! that step, and steps are gone back and made again until both agree (RePaint: Lugmayr et al. 2022, arXiv 2201.09865).

use burn::tensor::Tensor;
use diffusion::{Prediction, SolverTable};
use random::Stream;
use unet::Unet;

use crate::Error;
use crate::output::Images;
use crate::walk::{Batch, History, Progress, Request, Step, walk_by};

/// What is known of the images to be made.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// One image, H,W,C.
    pub image: &'a Images,
    /// For each pixel whether it is to be made anew, H,W.
    pub unknown: &'a [bool],
    /// How often each step is made: 1 is replacement alone, 10 what RePaint uses.
    pub resample: usize,
}

/// Makes the unknown part of an image, once for each noise of the request. `progress` is called after every row.
///
/// # Errors
/// If sizes do not fit, or the table looks back on earlier predictions, which going back would make false; and as
/// [`walk`](crate::walk()).
pub fn inpaint(
    unet: &Unet,
    table: &SolverTable,
    prediction: Prediction,
    request: &Request,
    known: Known,
    progress: impl FnMut(&Step) -> bool,
) -> Result<Images, Error> {
    let Images { n, height, width, channels, .. } = *known.image;
    if n != 1 || [height, width, channels] != request.noise.shape()[1..] || known.unknown.len() != height * width {
        return Err(Error::Request("image, mask and noise are not of one size".into()));
    }
    if known.resample == 0 {
        return Err(Error::Request("each step is to be made at least once".into()));
    }
    if table.history() > 1 {
        return Err(Error::Request(format!("{} remembers earlier steps; inpaint with ddpm or ddim", table.name)));
    }
    walk_by(unet, table, prediction, request, progress, |batch, x, progress| fill(batch, x, known, progress))
}

fn fill(batch: &Batch, mut x: Tensor<4>, known: Known, progress: &mut Progress) -> Result<Tensor<4>, Error> {
    let [n, height, width, channels] = batch.dims;
    let image = batch.tensor(known.image.pixels.repeat(n));
    let mask: Vec<f32> =
        (0..height * width * channels).map(|i| f32::from(u8::from(known.unknown[i / channels]))).collect();
    let mask = batch.tensor(mask.repeat(n));
    let kept = mask.clone().neg().add_scalar(1.0);
    let rows = &batch.table.rows;
    for (index, row) in rows.iter().enumerate() {
        let alpha_t = row.alpha_cumprod;
        let alpha_s = rows.get(index + 1).map_or(1.0, |next| next.alpha_cumprod);
        let mut history = History::default();
        for turn in 0..known.resample {
            let number = (index * known.resample + turn) as u64;
            let made = batch.step(index, number, x, &mut history)?;
            let mut place = image.clone().mul_scalar(alpha_s.sqrt());
            if alpha_s < 1.0 {
                place = place + batch.normals(Stream::Inpaint, 2 * number).mul_scalar((1.0 - alpha_s).sqrt());
            }
            x = made * mask.clone() + place * kept.clone();
            if turn + 1 < known.resample && alpha_s < 1.0 {
                // q(x_t | x_s), the forward chain.
                let alpha = alpha_t / alpha_s;
                let z = batch.normals(Stream::Inpaint, 2 * number + 1);
                x = x.mul_scalar(alpha.sqrt()) + z.mul_scalar((1.0 - alpha).sqrt());
            } else if alpha_s >= 1.0 {
                break;
            }
        }
        if !progress(index, &x, &history.samples[0]) {
            return Err(Error::Stopped);
        }
    }
    Ok(x)
}
