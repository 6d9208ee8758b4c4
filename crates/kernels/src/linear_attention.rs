//! Linear attention (Shen et al. 2021, "Efficient attention") of the same shapes as attention: softmax(q)·(softmax(k)ᵀ·v)/√d in each
//! head of d channels. The softmax of q is over its channels, that of k over the keys, so the cost grows linearly with their number.
//!
//! A head is a task: its context, softmax(k)ᵀ·v/√d, is a matrix of d rows that stays in the cache. The backward pass recomputes it.

use crate::activation::exp;
use crate::attention::{
    AttentionGradients, AttentionInputs, AttentionShape, QUERIES, backward_by_head, score_gradient, softmax,
    split_work, unpack_row,
};
use crate::gemm::{blocked_len, multiply, multiply_transposed, pack};
use crate::parallel::{self, SharedSlice};
use crate::profile;
use crate::scratch;
use crate::simd::{LANES, Simd, dispatch};

/// Keys that are summed in one chain; the sums of the chains are then summed.
const CHAIN: usize = 64;

/// Computes out = softmax(q)·(softmax(k)ᵀ·v)/√head_dim for each head. `out` is `[n, tokens, heads·head_dim]`.
///
/// # Panics
/// If the length of a slice does not match `shape`, or if there are queries but no keys.
pub fn linear_attention(shape: &AttentionShape, inputs: AttentionInputs, out: &mut [f32]) {
    let AttentionInputs { q, k, v } = inputs;
    shape.check(&[q, out], &[k, v]);
    if out.is_empty() {
        return;
    }
    assert!(shape.keys > 0, "{shape:?}: attention to no keys");
    let operations = 2 * (q.len() + k.len()) * shape.head_dim;
    let _span = profile::span(|| "linear attention".into(), operations, 2 * (q.len() + k.len()));
    let out = SharedSlice::new(out);
    parallel::for_each(shape.n * shape.heads, |head| forward(shape, head, [q, k, v], out));
}

/// Computes the gradients of the inputs of [`linear_attention`] from the gradient `dout` of its output.
///
/// # Panics
/// If the length of a slice does not match `shape`.
pub fn linear_attention_backward(
    shape: &AttentionShape,
    inputs: AttentionInputs,
    dout: &[f32],
    gradients: AttentionGradients,
) {
    let operations = (4 * inputs.q.len() + 6 * inputs.k.len()) * shape.head_dim;
    backward_by_head(shape, inputs, dout, gradients, ("linear attention: gradients", operations, backward));
}

dispatch! {
    fn forward(shape: &AttentionShape, head: usize, qkv: [&[f32]; 3], out: SharedSlice) = forward_kernel;
    fn backward(shape: &AttentionShape, head: usize, inputs: [&[f32]; 4], gradients: [SharedSlice; 3]) = backward_kernel;
}

/// Packs one head of the keys, `[keys, d]`, and replaces each channel by its softmax over the keys. Lanes beyond the last channel
/// become zero.
#[inline(always)]
fn pack_keys<S: Simd>(s: S, shape: &AttentionShape, k: &[f32], out: &mut [f32]) {
    let (keys, d) = (shape.keys, shape.head_dim);
    pack(s, keys, d, k, shape.channels(), out);
    for (block, lines) in out.chunks_exact_mut(keys * LANES).enumerate() {
        let mut largest = s.splat(f32::NEG_INFINITY);
        for line in lines.chunks_exact(LANES) {
            largest = s.max(largest, s.load_up_to(line));
        }
        let mut sum = s.splat(0.0);
        for chain in lines.chunks_mut(CHAIN * LANES) {
            let mut part = s.splat(0.0);
            for line in chain.chunks_exact_mut(LANES) {
                let weight = exp(s, s.sub(s.load_up_to(line), largest));
                s.store_up_to(weight, line);
                part = s.add(part, weight);
            }
            sum = s.add(sum, part);
        }
        let inverse = used_lanes(s, s.div(s.splat(1.0), sum), d - block * LANES);
        for line in lines.chunks_exact_mut(LANES) {
            s.store_up_to(s.mul(s.load_up_to(line), inverse), line);
        }
    }
}

/// Sets all but the first `used` lanes to zero.
#[inline(always)]
fn used_lanes<S: Simd>(s: S, x: S::V, used: usize) -> S::V {
    let mut lanes = [0.0; LANES];
    s.store_up_to(x, &mut lanes);
    lanes[used.min(LANES)..].fill(0.0);
    s.load_up_to(&lanes)
}

/// Computes the context softmax(k)ᵀ·v/√d, blocked, with as many rows as whole vectors of channels.
#[inline(always)]
fn context<S: Simd>(s: S, shape: &AttentionShape, keys: &[f32], values: &[f32], out: &mut [f32]) {
    let rows = shape.head_dim.next_multiple_of(LANES);
    out.fill(0.0);
    multiply_transposed(s, rows, shape.keys, shape.head_dim, keys, values, out, rows);
    scale(s, out, shape.scale());
}

#[inline(always)]
fn scale<S: Simd>(s: S, x: &mut [f32], by: f32) {
    for line in x.chunks_exact_mut(LANES) {
        s.store_up_to(s.mul(s.load_up_to(line), s.splat(by)), line);
    }
}

/// Packs the queries of a block, and replaces each by its softmax.
#[inline(always)]
fn pack_queries<S: Simd>(s: S, shape: &AttentionShape, rows: usize, q: &[f32], out: &mut [f32]) {
    pack(s, rows, shape.head_dim, q, shape.channels(), out);
    for r in 0..rows {
        softmax(s, rows, r, shape.head_dim, 1.0, out);
    }
}

#[inline(always)]
fn forward_kernel<S: Simd>(s: S, shape: &AttentionShape, head: usize, [q, k, v]: [&[f32]; 3], out: SharedSlice) {
    let (count, d, channels) = (shape.keys, shape.head_dim, shape.channels());
    let whole = d.next_multiple_of(LANES);
    let (query, key) = (|query: usize| shape.query(head, query), shape.key(head, 0));
    let lengths =
        [blocked_len(count, d), blocked_len(count, d), whole * whole, blocked_len(QUERIES, d), blocked_len(QUERIES, d)];
    let mut work = scratch::take(lengths.iter().sum());
    let [keys, values, of_head, queries, sums] = split_work(&mut work, lengths);
    pack_keys(s, shape, &k[key..], keys);
    pack(s, count, d, &v[key..], channels, values);
    context(s, shape, keys, values, of_head);
    for start in (0..shape.tokens).step_by(QUERIES) {
        let rows = QUERIES.min(shape.tokens - start);
        pack_queries(s, shape, rows, &q[query(start)..], queries);
        multiply(s, rows, whole, d, queries, of_head, sums, false);
        for r in 0..rows {
            // SAFETY: a task writes only the rows of its own head.
            unpack_row(s, sums, rows, r, unsafe { out.part(query(start + r), d) });
        }
    }
}

/// Transposes a blocked square matrix of `side` rows, a multiple of 16.
#[inline(always)]
fn transpose<S: Simd>(s: S, side: usize, x: &[f32], out: &mut [f32]) {
    for i in 0..side / LANES {
        for j in 0..side / LANES {
            let mut square = [s.splat(0.0); LANES];
            for (r, row) in square.iter_mut().enumerate() {
                *row = s.load_up_to(&x[(j * side + i * LANES + r) * LANES..]);
            }
            for (r, row) in s.transpose(square).into_iter().enumerate() {
                s.store_up_to(row, &mut out[(i * side + j * LANES + r) * LANES..][..LANES]);
            }
        }
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
    let whole = d.next_multiple_of(LANES);
    let (query, key) = (|query: usize| shape.query(head, query), |key: usize| shape.key(head, key));
    let (of_keys, square, of_queries) = (blocked_len(count, d), whole * whole, blocked_len(QUERIES, d));
    let lengths = [of_keys, of_keys, of_keys, square, square, square, of_queries, of_queries, of_queries];
    let mut work = scratch::take(lengths.iter().sum());
    let [keys, values, of_key, of_head, turned, of_context, queries, dout_rows, ds] = split_work(&mut work, lengths);
    pack_keys(s, shape, &k[key(0)..], keys);
    pack(s, count, d, &v[key(0)..], channels, values);
    context(s, shape, keys, values, of_head);
    transpose(s, whole, of_head, turned);
    // The gradient of the context, and those of the queries.
    of_context.fill(0.0);
    for start in (0..tokens).step_by(QUERIES) {
        let rows = QUERIES.min(tokens - start);
        pack_queries(s, shape, rows, &q[query(start)..], queries);
        pack(s, rows, d, &dout[query(start)..], channels, dout_rows);
        multiply_transposed(s, whole, rows, d, queries, dout_rows, of_context, whole);
        multiply(s, rows, whole, d, dout_rows, turned, ds, false);
        for r in 0..rows {
            score_gradient(s, rows, r, d, 1.0, queries, ds);
            // SAFETY: a task writes only the gradients of its own head.
            unpack_row(s, ds, rows, r, unsafe { dq.part(query(start + r), d) });
        }
    }
    scale(s, of_context, shape.scale());
    transpose(s, whole, of_context, turned);
    multiply(s, count, whole, d, values, turned, of_key, false);
    for (weights, gradient) in keys.chunks_exact(count * LANES).zip(of_key.chunks_exact_mut(count * LANES)) {
        key_gradient(s, weights, gradient);
    }
    for row in 0..count {
        // SAFETY: as above.
        unpack_row(s, of_key, count, row, unsafe { dk.part(key(row), d) });
    }
    multiply(s, count, whole, d, keys, of_context, of_key, false);
    for row in 0..count {
        // SAFETY: as above.
        unpack_row(s, of_key, count, row, unsafe { dv.part(key(row), d) });
    }
}

/// Computes dk ← p·(dk − Σ p·dk) for sixteen channels, where the sum is over the keys.
#[inline(always)]
fn key_gradient<S: Simd>(s: S, p: &[f32], dk: &mut [f32]) {
    let mut shared = s.splat(0.0);
    for (p, dk) in p.chunks(CHAIN * LANES).zip(dk.chunks(CHAIN * LANES)) {
        let mut part = s.splat(0.0);
        for (p, dk) in p.chunks_exact(LANES).zip(dk.chunks_exact(LANES)) {
            part = s.fma(s.load_up_to(p), s.load_up_to(dk), part);
        }
        shared = s.add(shared, part);
    }
    for (p, dk) in p.chunks_exact(LANES).zip(dk.chunks_exact_mut(LANES)) {
        s.store_up_to(s.mul(s.load_up_to(p), s.sub(s.load_up_to(dk), shared)), dk);
    }
}
