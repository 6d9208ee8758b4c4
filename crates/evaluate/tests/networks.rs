//! The feature networks compared with pytorch-fid's, torch-fidelity's and efficientnet-lite-pytorch's, which ran in float64.
//! All weights are functions of their names. `tools/goldens_quality.py` made the file.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use ddpm_evaluate::ImageSource;
use ddpm_evaluate::network::{Classifier, ClassifierInfo, Extracted, FeatureNetwork, Resize};
use weights::{Metadata, Tensor, Tensors, read_safetensors};

fn golden() -> Tensors {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    read_safetensors(folder.join("networks.safetensors")).unwrap().0
}

/// Computes each value from the tensor's name and the value's index: FNV-1a of the name seeds splitmix64, and 24 bits make
/// a number in [-1, 1).
fn formula(name: &str, shape: &[usize]) -> Tensor {
    let seed =
        name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let fan_in: usize = shape.iter().skip(1).product();
    let scale = (6.0 / fan_in as f64).sqrt() as f32;
    let value = |i: u64| {
        let mut z = seed.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let u = ((z ^ (z >> 31)) >> 40) as f32 / 8_388_608.0 - 1.0;
        match shape.len() {
            1 if name.ends_with(".bias") || name.ends_with(".running_mean") => u / 8.0,
            1 => 1.0 + u / 4.0,
            _ => scale * u,
        }
    };
    Tensor { shape: shape.to_vec(), data: (0..shape.iter().product::<usize>() as u64).map(value).collect() }
}

/// Builds a network from a file of tensor names and shapes.
fn with_formula_weights(name: &str) -> FeatureNetwork {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/{name}.json"));
    let shapes: BTreeMap<String, Vec<usize>> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let tensors = shapes.iter().map(|(name, shape)| (name.clone(), formula(name, shape))).collect();
    FeatureNetwork::new(name, &tensors, &Metadata::new(), &Device::flex()).unwrap()
}

fn extract(network: FeatureNetwork, images: &Tensor, batch_size: usize) -> (FeatureNetwork, Extracted) {
    let [_, h, w, c] = images.shape[..] else { panic!("images are N,H,W,C") };
    let images = ImageSource::from_bytes(images.data.iter().map(|&v| v as u8).collect(), [h, w, c]);
    let network = network.with_batch_size(batch_size);
    let extracted = network.extract(&images, |_, _| true).unwrap();
    (network, extracted)
}

#[track_caller]
fn close(what: &str, got: &ddpm_evaluate::quality::Features, expected: &Tensor) {
    assert_eq!([got.count(), got.width()], expected.shape[..]);
    let greatest = expected.data.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = got.values().iter().zip(&expected.data).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    println!("{what}: {:.1e}", worst / greatest);
    assert!(worst <= 1e-5 * greatest, "{what}: off by {:e}", worst / greatest);
}

#[test]
fn inception_is_pytorch_fids_and_torch_fidelitys() {
    let golden = golden();
    let network = with_formula_weights("inception");
    assert!(network.is_inception());
    let (network, got) = extract(network, &golden["images"], 2);
    close("pytorch-fid, pooled", &got.pooled, &golden["pytorch_fid.pooled"]);
    close("pytorch-fid, spatial", got.spatial.as_ref().unwrap(), &golden["pytorch_fid.spatial"]);
    let (network, again) = extract(network, &golden["images"], 3);
    assert_eq!(got.pooled, again.pooled, "no batch size changes a number");
    let (_, got) = extract(network.with_resize(Resize::TensorFlow1), &golden["images"], 3);
    close("torch-fidelity, pooled", &got.pooled, &golden["torch_fidelity.pooled"]);
    close("torch-fidelity, logits", got.logits.as_ref().unwrap(), &golden["torch_fidelity.logits"]);
}

#[test]
fn efficientnet_is_its_packages() {
    let golden = golden();
    let network = with_formula_weights("efficientnet");
    let (network, got) = extract(network, &golden["images"], 2);
    close("efficientnet-lite-pytorch", &got.pooled, &golden["efficientnet"]);
    assert!(got.spatial.is_none() && got.logits.is_none() && !network.is_inception());
}

#[test]
fn other_files_are_errors_that_name_them() {
    let device = Device::flex();
    let error = |tensors: &[(&str, &[usize])]| {
        let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), formula(name, shape))).collect();
        FeatureNetwork::new("file", &tensors, &Metadata::new(), &device).unwrap_err().to_string()
    };
    assert!(error(&[("conv1.weight", &[3])]).contains("Inception-v3"));
    let torchvision = [("Mixed_7c.branch1x1.conv.weight", &[320, 2048, 1, 1][..])];
    assert!(error(&torchvision).contains("Conv2d_1a_3x3.conv.weight` is missing"));
    let path = std::path::Path::new("pt_inception.pth");
    assert!(FeatureNetwork::read(path, &device).unwrap_err().to_string().contains("pt_inception.pth"));
}

/// The features of a file's classifier are those of the classifier itself, and grey is the same as equal colours.
#[test]
fn a_classifier_survives_its_file() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("classifier.safetensors");
    let classes = ["cat".to_owned(), "dog".to_owned()];
    let info =
        ClassifierInfo { set: "pets".into(), side: 8, channels: 1, classes: classes.to_vec(), accuracy: Some(0.5) };
    let classifier = Classifier::new(1, 2, 3, &device);
    classifier.write(&path, &info).unwrap();
    let network = FeatureNetwork::read(&path, &device).unwrap();
    assert_eq!(network.name(), "classifier of pets");
    assert_eq!(network.distance_name(), "FD (classifier of pets)");
    let bytes: Vec<u8> = (0..3 * 64).map(|i| (i * 37 % 251) as u8).collect();
    let grey = ImageSource::from_bytes(bytes.clone(), [8, 8, 1]);
    let network = network.with_batch_size(2);
    let got = network.extract(&grey, |_, _| true).unwrap().pooled;
    let scaled: Vec<f32> = bytes.iter().map(|&byte| (f32::from(byte) - 127.5) / 127.5).collect();
    let x = burn::tensor::Tensor::from_data(burn::tensor::TensorData::new(scaled, [3, 8, 8, 1]), &device);
    let expected: Vec<f32> = classifier.features(x).into_data().iter::<f32>().collect();
    assert_eq!(got.width(), 128);
    let worst = got.values().iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst < 1e-5, "{worst}");
    let rgb = ImageSource::from_bytes(bytes.iter().flat_map(|&byte| [byte; 3]).collect(), [8, 8, 3]);
    assert_eq!(network.extract(&rgb, |_, _| true).unwrap().pooled, got);
    assert!(matches!(network.extract(&grey, |_, _| false), Err(ddpm_evaluate::Error::Stopped)));
    let nothing = ImageSource::from_bytes(Vec::new(), [8, 8, 1]);
    assert!(network.extract(&nothing, |_, _| true).unwrap_err().to_string().contains("no images"));

    let (tensors, mut metadata) = read_safetensors(&path).unwrap();
    let error = |metadata: &Metadata| FeatureNetwork::new("file", &tensors, metadata, &device).unwrap_err().to_string();
    assert!(error(&Metadata::new()).contains("ddpm classifier"), "without its metadata it is not a classifier");
    for (from, to) in
        [("\"side\":8", "\"side\":0"), ("\"dog\"", "\"dog\",\"cow\""), ("\"channels\":1", "\"channels\":3")]
    {
        let (key, info) = metadata.iter().next().map(|(key, info)| (key.clone(), info.clone())).unwrap();
        assert!(info.contains(from), "{info}");
        let changed = Metadata::from([(key, info.replace(from, to))]);
        assert!(error(&changed).contains("damaged classifier"), "{to}");
    }
    // Damaged weights: one is infinite, all are zero.
    let with = |change: &dyn Fn(&mut Tensor)| {
        let mut tensors = tensors.clone();
        tensors.values_mut().for_each(change);
        FeatureNetwork::new("file", &tensors, &metadata, &device)
    };
    let infinite = with(&|tensor| tensor.data[0] = f32::INFINITY).unwrap_err().to_string();
    assert!(infinite.contains("file: the weights") && infinite.contains("not finite"), "{infinite}");
    let zero = with(&|tensor| tensor.data.fill(0.0)).unwrap();
    let same = zero.extract(&grey, |_, _| true).unwrap_err().to_string();
    assert!(same.contains("3 images that differ all have the same features"), "{same}");
    let copies = ImageSource::from_bytes(bytes[..64].repeat(3), [8, 8, 1]);
    assert!(zero.extract(&copies, |_, _| true).is_ok());
    metadata.values_mut().for_each(|info| info.truncate(20));
    assert!(error(&metadata).contains("damaged classifier"));
}
