//! Scaled dot-product attention (Vaswani et al. 2017) of q `[n, tokens, heads·head_dim]` and k, v `[n, keys, heads·head_dim]`.
//!
//! Scores are computed for one block of queries at a time and never stored whole. The backward pass recomputes them.

use crate::activation::exp;
use crate::gemm::{blocked_len, multiply, multiply_transposed, pack, pack_transposed};
use crate::parallel::{self, SharedSlice};
use crate::profile;
use crate::scratch;
use crate::simd::{LANES, Simd, dispatch};

/// Queries per block: four tiles of rows. It is no power of two, which would map the lines of a row to the same cache
/// set. It affects the bits of the gradients of k and v, which are summed block by block.
pub(crate) const QUERIES: usize = 56;

/// The shape of an attention. Scores are scaled by 1/√`head_dim`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionShape {
    /// Number of images.
    pub n: usize,
    /// Queries (pixels) per image.
    pub tokens: usize,
    /// Keys and values per image: as many as queries in self-attention.
    pub keys: usize,
    /// Number of heads.
    pub heads: usize,
    /// Channels per head.
    pub head_dim: usize,
}

impl AttentionShape {
    pub(crate) fn channels(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Checks the lengths of slices with a row for each query, and of those with a row for each key.
    pub(crate) fn check(&self, of_queries: &[&[f32]], of_keys: &[&[f32]]) {
        for (rows, slices) in [(self.tokens, of_queries), (self.keys, of_keys)] {
            let len = self.n * rows * self.channels();
            assert!(slices.iter().all(|x| x.len() == len), "{self:?}: a slice does not have length {len}");
        }
    }

    pub(crate) fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Returns the offset of a query's channels in head `index`, where `index` = image·heads + head.
    pub(crate) fn query(&self, index: usize, query: usize) -> usize {
        self.offset(self.tokens, index, query)
    }

    /// Returns the offset of a key's channels in head `index`.
    pub(crate) fn key(&self, index: usize, key: usize) -> usize {
        self.offset(self.keys, index, key)
    }

    /// Returns the offset of row `row` of head `index` in a slice with `rows` rows for each image.
    fn offset(&self, rows: usize, index: usize, row: usize) -> usize {
        let (image, head) = (index / self.heads, index % self.heads);
        (image * rows + row) * self.channels() + head * self.head_dim
    }
}

/// Queries `[n, tokens, heads·head_dim]`, and keys and values `[n, keys, heads·head_dim]`.
#[derive(Clone, Copy, Debug)]
pub struct AttentionInputs<'a, T = f32> {
    /// Queries.
    pub q: &'a [T],
    /// Keys.
    pub k: &'a [T],
    /// Values.
    pub v: &'a [T],
}

/// The gradients of [`AttentionInputs`], which [`attention_backward`] writes.
#[derive(Debug)]
pub struct AttentionGradients<'a> {
    /// Gradient of the queries.
    pub dq: &'a mut [f32],
    /// Gradient of the keys.
    pub dk: &'a mut [f32],
    /// Gradient of the values.
    pub dv: &'a mut [f32],
}

/// Computes out = softmax(q·kᵀ/√head_dim)·v for each head. `out` is `[n, tokens, heads·head_dim]`.
///
/// # Panics
/// If the length of a slice does not match `shape`, or if there are queries but no keys.
pub fn attention(shape: &AttentionShape, inputs: AttentionInputs, out: &mut [f32]) {
    let AttentionInputs { q, k, v } = inputs;
    shape.check(&[q, out], &[k, v]);
    let heads = shape.n * shape.heads;
    if out.is_empty() {
        return;
    }
    assert!(shape.keys > 0, "{shape:?}: attention to no keys");
    let _span = profile::span(|| "attention".into(), 4 * out.len() * shape.keys, 2 * (q.len() + k.len()));
    // Every task packs all keys and values of its head, so a head is split only if threads would be idle otherwise.
    let blocks = shape.tokens.div_ceil(QUERIES);
    let splits = (2 * parallel::threads()).div_ceil(heads).clamp(1, blocks);
    let step = blocks.div_ceil(splits) * QUERIES;
    let splits = shape.tokens.div_ceil(step);
    let out = SharedSlice::new(out);
    parallel::for_each(heads * splits, |task| {
        let (head, first) = (task / splits, task % splits * step);
        forward(shape, head, first, (first + step).min(shape.tokens), [q, k, v], out);
    });
}

/// Computes the gradients of the inputs of [`attention`] from the gradient `dout` of its output.
///
/// # Panics
/// If the length of a slice does not match `shape`.
pub fn attention_backward(
    shape: &AttentionShape,
    inputs: AttentionInputs,
    dout: &[f32],
    gradients: AttentionGradients,
) {
    let operations = 10 * inputs.q.len() * shape.keys;
    backward_by_head(shape, inputs, dout, gradients, ("attention: gradients", operations, backward));
}

/// A function that computes the gradients dq, dk and dv of a head from q, k, v and dout.
type OfHead = fn(&AttentionShape, usize, [&[f32]; 4], [SharedSlice; 3]);

/// Computes the gradients of all heads. `work` is its name, the number of operations, and the function of a head.
///
/// # Panics
/// If the length of a slice does not match `shape`.
pub(crate) fn backward_by_head(
    shape: &AttentionShape,
    inputs: AttentionInputs,
    dout: &[f32],
    gradients: AttentionGradients,
    work: (&str, usize, OfHead),
) {
    let AttentionInputs { q, k, v } = inputs;
    let AttentionGradients { dq, dk, dv } = gradients;
    shape.check(&[q, dout, dq], &[k, v, dk, dv]);
    if q.is_empty() {
        dk.fill(0.0);
        dv.fill(0.0);
        return;
    }
    assert!(shape.keys > 0, "{shape:?}: attention to no keys");
    let (name, operations, of_head) = work;
    let _span = profile::span(|| name.into(), operations, 3 * q.len() + 4 * k.len());
    let gradients = [SharedSlice::new(dq), SharedSlice::new(dk), SharedSlice::new(dv)];
    parallel::for_each(shape.n * shape.heads, |head| of_head(shape, head, [q, k, v, dout], gradients));
}

dispatch! {
    fn forward(
        shape: &AttentionShape, head: usize, first: usize, end: usize, qkv: [&[f32]; 3], out: SharedSlice,
    ) = forward_kernel;
    fn backward(shape: &AttentionShape, head: usize, inputs: [&[f32]; 4], gradients: [SharedSlice; 3]) = backward_kernel;
}

/// Splits `work` into consecutive parts of the given lengths.
#[inline(always)]
pub(crate) fn split_work<const N: usize>(mut work: &mut [f32], lengths: [usize; N]) -> [&mut [f32]; N] {
    lengths.map(|len| {
        let (part, rest) = std::mem::take(&mut work).split_at_mut(len);
        work = rest;
        part
    })
}

/// Packs one head of the keys or values as the transposed matrix [head_dim, keys].
#[inline(always)]
fn pack_keys_as_columns<S: Simd>(s: S, shape: &AttentionShape, x: &[f32], out: &mut [f32]) {
    let d = shape.head_dim;
    for (block, out) in out.chunks_exact_mut(d * LANES).enumerate() {
        let token = block * LANES;
        let x = &x[token * shape.channels()..];
        pack_transposed(s, d, LANES.min(shape.keys - token), x, shape.channels(), out);
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn forward_kernel<S: Simd>(
    s: S,
    shape: &AttentionShape,
    head: usize,
    first: usize,
    end: usize,
    [q, k, v]: [&[f32]; 3],
    out: SharedSlice,
) {
    let (keys_len, d, channels) = (shape.keys, shape.head_dim, shape.channels());
    let (query, key) = (|query: usize| shape.query(head, query), shape.key(head, 0));
    let lengths = [
        blocked_len(d, keys_len),
        blocked_len(keys_len, d),
        blocked_len(QUERIES, d),
        blocked_len(QUERIES, keys_len),
        blocked_len(QUERIES, d),
    ];
    let mut work = scratch::take(lengths.iter().sum());
    let work = &mut *work;
    let [keys, values, queries, scores, sums] = split_work(work, lengths);
    pack_keys_as_columns(s, shape, &k[key..], keys);
    pack(s, keys_len, d, &v[key..], channels, values);
    for start in (first..end).step_by(QUERIES) {
        let rows = QUERIES.min(end - start);
        pack(s, rows, d, &q[query(start)..], channels, queries);
        multiply(s, rows, d, keys_len, queries, keys, scores, false);
        for r in 0..rows {
            softmax(s, rows, r, keys_len, shape.scale(), scores);
        }
        multiply(s, rows, keys_len, d, scores, values, sums, false);
        for r in 0..rows {
            // SAFETY: a task writes only the rows of its own queries.
            let to = unsafe { out.part(query(start + r), d) };
            unpack_row(s, sums, rows, r, to);
        }
    }
}

/// Replaces row `r` of the blocked [rows, keys] scores by its softmax.
#[inline(always)]
pub(crate) fn softmax<S: Simd>(s: S, rows: usize, r: usize, keys: usize, scale: f32, scores: &mut [f32]) {
    let blocks = keys.div_ceil(LANES);
    let line = |block: usize| (block * rows + r) * LANES;
    let last = &mut scores[line(blocks - 1)..][..LANES];
    let used = keys - (blocks - 1) * LANES;
    last[used..].fill(f32::NEG_INFINITY);
    let mut largest = s.splat(f32::NEG_INFINITY);
    for block in 0..blocks {
        largest = s.max(largest, s.load_up_to(&scores[line(block)..]));
    }
    let largest = s.max_lane(largest);
    let (scale_v, offset) = (s.splat(scale), s.splat(-largest * scale));
    let mut sum = s.splat(0.0);
    for block in 0..blocks {
        let line = &mut scores[line(block)..][..LANES];
        s.store_up_to(exp(s, s.fma(s.load_up_to(line), scale_v, offset)), line);
        if block + 1 == blocks {
            line[used..].fill(0.0);
        }
        sum = s.add(sum, s.load_up_to(line));
    }
    let sum = s.sum(sum);
    let inverse = s.splat(1.0 / sum);
    for block in 0..blocks {
        let line = &mut scores[line(block)..][..LANES];
        s.store_up_to(s.mul(s.load_up_to(line), inverse), line);
    }
}

/// Copies row `r` of the blocked matrix `x`, whose blocks have `rows` rows.
#[inline(always)]
pub(crate) fn unpack_row<S: Simd>(s: S, x: &[f32], rows: usize, r: usize, out: &mut [f32]) {
    for (block, out) in out.chunks_mut(LANES).enumerate() {
        s.store_up_to(s.load_up_to(&x[(block * rows + r) * LANES..]), out);
    }
}

#[inline(always)]
fn backward_kernel<S: Simd>(
    s: S,
    shape: &AttentionShape,
    head: usize,
    [q, k, v, dout]: [&[f32]; 4],
    [dq, dk, dv]: [SharedSlice; 3],
) {
    let (tokens, count, d, channels) = (shape.tokens, shape.keys, shape.head_dim, shape.channels());
    let (query, key) = (|query: usize| shape.query(head, query), |key: usize| shape.key(head, key));
    let padded = count.next_multiple_of(LANES);
    let (keys_len, query_len, score_len) =
        (padded * d.next_multiple_of(LANES), blocked_len(QUERIES, d), blocked_len(QUERIES, count));
    let lengths =
        [keys_len, keys_len, keys_len, keys_len, keys_len, query_len, query_len, query_len, score_len, score_len];
    let mut work = scratch::take(lengths.iter().sum());
    let work = &mut *work;
    let [keys_t, values_t, keys, dk_sums, dv_sums, queries, dout_rows, sums, p, ds] = split_work(work, lengths);
    pack_keys_as_columns(s, shape, &k[key(0)..], &mut keys_t[..blocked_len(d, count)]);
    pack_keys_as_columns(s, shape, &v[key(0)..], &mut values_t[..blocked_len(d, count)]);
    pack(s, count, d, &k[key(0)..], channels, keys);
    dk_sums.fill(0.0);
    dv_sums.fill(0.0);
    for start in (0..tokens).step_by(QUERIES) {
        let rows = QUERIES.min(tokens - start);
        pack(s, rows, d, &q[query(start)..], channels, queries);
        pack(s, rows, d, &dout[query(start)..], channels, dout_rows);
        multiply(s, rows, d, count, queries, keys_t, p, false);
        multiply(s, rows, d, count, dout_rows, values_t, ds, false);
        for r in 0..rows {
            softmax(s, rows, r, count, shape.scale(), p);
            score_gradient(s, rows, r, count, shape.scale(), p, ds);
        }
        multiply(s, rows, count, d, ds, keys, sums, false);
        for r in 0..rows {
            // SAFETY: a task writes only the gradients of its own head.
            unpack_row(s, sums, rows, r, unsafe { dq.part(query(start + r), d) });
        }
        multiply_transposed(s, padded, rows, d, ds, queries, dk_sums, padded);
        multiply_transposed(s, padded, rows, d, p, dout_rows, dv_sums, padded);
    }
    for row in 0..count {
        // SAFETY: as above.
        let (dk, dv) = unsafe { (dk.part(key(row), d), dv.part(key(row), d)) };
        unpack_row(s, dk_sums, padded, row, dk);
        unpack_row(s, dv_sums, padded, row, dv);
    }
}

/// Computes ds ← p·(ds − Σ ds·p)·scale in row `r`, and zeros beyond the last key.
///
/// Σ ds·p equals dout·out, which is cheaper to compute. But the equality holds only up to rounding, so the result would
/// not sum to zero over keys, and a component common to all keys, such as a bias, would amplify the difference.
#[inline(always)]
pub(crate) fn score_gradient<S: Simd>(s: S, rows: usize, r: usize, keys: usize, scale: f32, p: &[f32], ds: &mut [f32]) {
    let line = |block: usize| (block * rows + r) * LANES;
    let blocks = keys.div_ceil(LANES);
    // The product may leave anything, even NaN, beyond the last key.
    ds[line(blocks - 1)..][..LANES][keys - (blocks - 1) * LANES..].fill(0.0);
    let mut shared = s.splat(0.0);
    for block in 0..blocks {
        shared = s.fma(s.load_up_to(&p[line(block)..]), s.load_up_to(&ds[line(block)..]), shared);
    }
    let shared = s.splat(s.sum(shared));
    for block in 0..blocks {
        let ds = &mut ds[line(block)..][..LANES];
        let centered = s.sub(s.load_up_to(ds), shared);
        s.store_up_to(s.mul(s.mul(s.load_up_to(&p[line(block)..]), centered), s.splat(scale)), ds);
    }
}
