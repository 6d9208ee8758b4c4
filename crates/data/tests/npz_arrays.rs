//! Arrays of floating-point numbers as NumPy writes them.

use crate::common::*;
use ddpm_data::{NpzArray, read_npz_array};
use tempfile::tempdir;

#[test]
fn both_sizes_and_byte_orders_are_read() {
    let folder = tempdir().unwrap();
    let values = [0.5, -1.75, 1024.0, 3.0e-5f32, 0.0, -0.1];
    let bytes = |write: fn(f32) -> Vec<u8>| values.iter().flat_map(|&x| write(x)).collect::<Vec<u8>>();
    let files = [
        ("<f4", bytes(|x| x.to_le_bytes().to_vec())),
        (">f4", bytes(|x| x.to_be_bytes().to_vec())),
        ("<f8", bytes(|x| f64::from(x).to_le_bytes().to_vec())),
        (">f8", bytes(|x| f64::from(x).to_be_bytes().to_vec())),
    ];
    for (dtype, bytes) in files {
        for compress in [false, true] {
            let path = put(&folder.path().join("a.npz"), &npz_of("mu", dtype, "(2, 3)", false, &bytes, compress));
            let expected = NpzArray { shape: vec![2, 3], values: values.map(f64::from).to_vec() };
            assert_eq!(read_npz_array(&path, "mu").unwrap(), Some(expected), "{dtype}");
        }
    }
}
