//! Transforms between the tensors of a family and those of diffusers.

use crate::Tensor;
use crate::shown::shown_sizes;
use crate::tensor::elements;

/// A transform of a tensor. Weights in diffusers are `[out, in]` or `[out, in, height, width]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Transform {
    /// Move the last two dimensions to the front and swap them: from TensorFlow's `[height, width, in, out]` or `[in,
    /// out]`.
    FromTensorFlow,
    /// Drop or add trailing dimensions of size 1, so that this many remain.
    Dimensions(usize),
    /// Select the rows of q (`part` 0), k (1) or v (2). Rows are `[heads, 3, head]` with the channels of a `head`, as
    /// in OpenAI's first order, and `[3, channels]` without.
    Part { part: usize, head: Option<usize> },
    /// Move columns 0, 2, 4, … before 1, 3, 5, …: alternating sines and cosines become sines, then cosines.
    Deinterleave,
}

/// Applies `transforms` in order. A tensor without values is an error: no parameter is empty, and its other sizes can be
/// any number.
pub(super) fn apply(tensor: &Tensor, transforms: &[Transform]) -> Result<Tensor, String> {
    if tensor.data.is_empty() {
        return Err(format!("has shape {}, which is empty", shown_sizes(&tensor.shape)));
    }
    let mut tensor = tensor.clone();
    for transform in transforms {
        tensor = apply_one(tensor, *transform)?;
    }
    Ok(tensor)
}

fn apply_one(tensor: Tensor, transform: Transform) -> Result<Tensor, String> {
    let Tensor { mut shape, data } = tensor;
    match transform {
        Transform::FromTensorFlow => {
            let [window @ .., i, o] = &shape[..] else {
                return Ok(Tensor { shape, data });
            };
            let (i, o) = (*i, *o);
            let window: usize = window.iter().product();
            let mut transposed = Vec::with_capacity(data.len());
            for output in 0..o {
                for input in 0..i {
                    transposed.extend((0..window).map(|w| data[(w * i + input) * o + output]));
                }
            }
            shape.rotate_right(2);
            shape.swap(0, 1);
            Ok(Tensor { shape, data: transposed })
        }
        Transform::Dimensions(count) => {
            while shape.len() > count && shape.last() == Some(&1) {
                shape.pop();
            }
            while shape.len() < count {
                shape.push(1);
            }
            match shape.len() == count {
                true => Ok(Tensor { shape, data }),
                false => Err(format!("has shape {}; expected {count} dimensions", shown_sizes(&shape))),
            }
        }
        Transform::Part { part, head } => {
            let rows = shape.first().copied().unwrap_or(0);
            let head = head.unwrap_or(rows / 3);
            if head == 0 || rows % (3 * head) != 0 {
                let shape = shown_sizes(&shape);
                return Err(format!(
                    "has shape {shape}, whose rows cannot be divided into q, k and v with heads of {head} channels"
                ));
            }
            let heads = rows / 3 / head;
            let size = head * elements(&shape[1..]).unwrap_or(0);
            let of_head = |head: usize| &data[(3 * head + part) * size..][..size];
            let data = (0..heads).flat_map(of_head).copied().collect();
            shape[0] = rows / 3;
            Ok(Tensor { shape, data })
        }
        Transform::Deinterleave => {
            let columns = shape.last().copied().unwrap_or(1).max(1);
            let order = (0..columns).step_by(2).chain((1..columns).step_by(2));
            let data = data.chunks(columns).flat_map(|row| order.clone().map(|column| row[column])).collect();
            Ok(Tensor { shape, data })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(shape: &[usize]) -> Tensor {
        Tensor { shape: shape.to_vec(), data: (0..elements(shape).unwrap()).map(|i| i as f32).collect() }
    }

    /// `numpy.arange(24).reshape(2, 1, 3, 4).transpose(3, 2, 0, 1)`
    #[test]
    fn from_tensorflow() {
        let tensor = apply_one(counted(&[2, 1, 3, 4]), Transform::FromTensorFlow).unwrap();
        assert_eq!(tensor.shape, [4, 3, 2, 1]);
        assert_eq!(tensor.data[..8], [0.0, 12.0, 4.0, 16.0, 8.0, 20.0, 1.0, 13.0]);
        assert_eq!(
            apply_one(counted(&[2, 3]), Transform::FromTensorFlow).unwrap().data,
            [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]
        );
        assert_eq!(apply_one(counted(&[3]), Transform::FromTensorFlow).unwrap(), counted(&[3]));
    }

    /// Its sizes can be any numbers, so that a loop over them would not end.
    #[test]
    fn empty_tensors_are_errors() {
        let empty = Tensor { shape: vec![0, 1 << 40, 1 << 40], data: Vec::new() };
        let error = apply(&empty, &[Transform::FromTensorFlow]).unwrap_err();
        assert_eq!(error, "has shape [0, 1099511627776, 1099511627776], which is empty");
        let empty = Tensor { shape: vec![3 << 60, 0], data: Vec::new() };
        assert!(apply(&empty, &[Transform::Part { part: 0, head: Some(64) }]).is_err());
    }

    /// `numpy.arange(12).reshape(heads, 3, 2, 1)[:, part]` and `numpy.arange(12).reshape(3, 4, 1)[part]`
    #[test]
    fn part() {
        let part = |head| apply_one(counted(&[12, 1]), Transform::Part { part: 1, head }).unwrap();
        assert_eq!(part(Some(2)).data, [2.0, 3.0, 8.0, 9.0]);
        assert_eq!(part(None).data, [4.0, 5.0, 6.0, 7.0]);
        assert!(apply_one(counted(&[8, 1]), Transform::Part { part: 1, head: None }).is_err());
    }

    #[test]
    fn deinterleave() {
        let tensor = apply_one(counted(&[2, 4]), Transform::Deinterleave).unwrap();
        assert_eq!(tensor.data, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
    }
}
