//! Golden values. They are part of the file format and never change.

use ddpm_random::{Random, Stream};

const SEED: u64 = 0x0123_4567_89ab_cdef;
const INDEX: u64 = 0x89ab_0000_0005;
const STEP: u64 = 1_234_567;

// An independent Python implementation of the crate's documentation computed the expected values below.

#[test]
fn words_match() {
    let expected = [0x58d7b84d, 0x445085cd, 0x8c9270ea, 0x5c0aa3d5, 0xf6834ae4, 0xcd7ecadc, 0x77df6b02, 0x62ff18e0];
    let mut bits = [0; 8];
    Random::new(SEED).bits(Stream::Noise, INDEX, STEP, &mut bits);
    assert_eq!(bits, expected);
}

#[test]
fn uniforms_match() {
    let random = Random::new(SEED);
    let mut uniforms = [0.0; 4];
    random.uniforms(Stream::Noise, INDEX, STEP, &mut uniforms);
    assert_eq!(uniforms.map(|u| u * 16_777_216.0), [5822392.0, 4477061.0, 9212528.0, 6032035.0]);

    assert_eq!(random.uniform(Stream::Noise, INDEX, STEP), 0.266853678353839);
    let mut doubles = [0.0; 3];
    random.uniforms_f64(Stream::Noise, INDEX, STEP, &mut doubles);
    assert_eq!(doubles[0], 0.266853678353839);

    assert_eq!(random.below(Stream::Noise, INDEX, STEP, 1000), 266);
    assert_eq!(random.below(Stream::Noise, INDEX, STEP, 1), 0);
    assert_eq!(random.below(Stream::Noise, INDEX, STEP, 0), 0);
}

#[test]
fn normals_match() {
    let expected = [
        -0.15377443833810286,
        1.4467116234173985,
        -0.695491764813247,
        0.845698506232372,
        0.0893719943444135,
        -0.2598830472327226,
        -0.932710155584898,
        0.8047021301490719,
    ];
    let mut normals = [0.0; 8];
    Random::new(SEED).normals(Stream::Noise, INDEX, STEP, &mut normals);
    for (n, e) in normals.into_iter().zip(expected) {
        assert!((f64::from(n) - e).abs() < 2e-7, "found {n}; expected {e}");
    }
}

/// Compares every bit of many normals, so that a change by a compiler, an option or an instruction set is noticed. This
/// crate computed the hash; it is the same in debug and release builds, for plain x86-64 and for AVX-512.
#[test]
fn normals_match_to_the_bit() {
    let mut normals = vec![0.0; 100_001];
    Random::new(SEED).normals(Stream::InitialNoise, 0, 0, &mut normals);
    let hash = normals.iter().fold(0u64, |h, n| (h ^ u64::from(n.to_bits())).wrapping_mul(0x0000_0100_0000_01b3));
    assert_eq!(hash, 4_370_904_421_396_225_669);
}

#[test]
fn permutations_match() {
    let random = Random::new(SEED);
    let ten: Vec<u64> = (0..10).map(|i| random.shuffled(3, 10, i)).collect();
    assert_eq!(ten, [7, 9, 5, 8, 2, 3, 0, 6, 1, 4]);
    let some: Vec<u64> = (0..4).map(|i| random.shuffled(3, 50_000, i)).collect();
    assert_eq!(some, [14285, 39663, 6258, 41877]);
}

#[test]
fn dropout_matches() {
    let mut x = [1.0; 16];
    Random::new(SEED).dropout(Stream::Dropout, INDEX, STEP, 0.5).apply(7, &mut x);
    let kept = [1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0];
    assert_eq!(x, kept.map(|k| 2.0 * k as f32));
}

/// The numeric values of the streams are part of the format.
#[test]
fn stream_numbers_match() {
    use Stream::*;
    let all = [
        Parameters,
        Shuffle,
        Flip,
        Timestep,
        Noise,
        Dropout,
        LabelDropout,
        InitialNoise,
        SamplerNoise,
        Evaluate,
        Crop,
        Subset,
        Label,
        Inpaint,
        Dequantize,
        Trace,
    ];
    for (number, stream) in all.into_iter().enumerate() {
        assert_eq!(stream as usize, number + 1, "{stream:?}");
    }
}
