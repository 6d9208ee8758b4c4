//! Generations: defaults, labels and guidance, and continuing after an interruption to the same bytes.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use ddpm_sample::{Error, Generation, SaveOptions};
use model::Pipeline;

fn pipeline() -> Pipeline {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/pipeline");
    Pipeline::load(folder, &Device::flex()).unwrap()
}

fn generation(pipeline: &Pipeline) -> Generation<'_> {
    Generation::new(pipeline, 7).sampler("ddim").steps(4).seed(5).batch_size(2)
}

/// The files under a path, by name.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    if path.is_file() {
        return vec![(PathBuf::new(), fs::read(path).unwrap())];
    }
    let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| (file.file_name().unwrap().into(), fs::read(&file).unwrap())).collect()
}

#[test]
fn images_do_not_depend_on_where_they_are_made() {
    let pipeline = pipeline();
    let images = generation(&pipeline).run().unwrap();
    assert_eq!(images.shape(), [7, 16, 16, 3]);
    let last = Generation::new(&pipeline, 2).sampler("ddim").steps(4).seed(5).with(|options| options.first = 5);
    assert_eq!(last.run().unwrap().pixels, images.slice(5, 2).pixels);
    let error = Generation::new(&pipeline, 1).sampler("ddin").run().unwrap_err().to_string();
    assert!(error.contains("ddin") && error.contains("ddim"), "{error}");
    assert!(matches!(generation(&pipeline).on_progress(|_| false).run(), Err(Error::Stopped)));
}

/// Interrupted after some evaluations and repeated, every kind of output has the bytes of an undisturbed run.
#[test]
fn an_interrupted_generation_continues_to_the_same_bytes() {
    let (pipeline, place) = (pipeline(), tempfile::tempdir().unwrap());
    let options = SaveOptions { animate: false, ..SaveOptions::default() };
    for name in ["a.png", "a.npz", "a.safetensors", "a.gif", "folder"] {
        let (undisturbed, path) = (place.path().join(format!("whole-{name}")), place.path().join(name));
        generation(&pipeline).save_with(&undisturbed, &options).unwrap();
        for stop_after in [3, 9] {
            let mut evaluations = 0;
            let stopped = generation(&pipeline).on_progress(|_| {
                evaluations += 1;
                evaluations < stop_after
            });
            assert!(matches!(stopped.save_with(&path, &options), Err(Error::Stopped)), "{name}");
            assert!(!path.is_file(), "{name} is there before it is complete");
        }
        let saved = generation(&pipeline).save_with(&path, &options).unwrap();
        // The second interruption continued after the images of the first.
        assert!(saved.existing >= 4 && saved.existing < 7, "{name}: {}", saved.existing);
        assert_eq!(contents(&path), contents(&undisturbed), "{name}");
        assert!(!place.path().join(format!("{name}.partial")).exists());
    }
}

#[test]
fn images_of_another_request_are_not_mixed_in() {
    let (pipeline, place) = (pipeline(), tempfile::tempdir().unwrap());
    let folder = place.path().join("folder");
    generation(&pipeline).save(&folder).unwrap();
    // The same request has nothing to do, more images of it are added.
    assert_eq!(generation(&pipeline).save(&folder).unwrap().existing, 7);
    let more = generation(&pipeline).with(|options| options.n = 9).save(&folder).unwrap();
    assert_eq!((more.existing, contents(&folder).len()), (7, 9));
    for other in [generation(&pipeline).seed(6), generation(&pipeline).steps(5), generation(&pipeline).sampler("heun")]
    {
        let error = other.save(&folder).unwrap_err().to_string();
        assert!(error.contains("000000.png") && error.contains("another model, seed or sampler"), "{error}");
    }
    fs::write(folder.join("cat.png"), "").unwrap();
    let error = generation(&pipeline).save(&folder).unwrap_err().to_string();
    assert!(error.contains("cat.png") && error.contains("from elsewhere"), "{error}");

    // A spool of another request is kept.
    let path = place.path().join("a.npz");
    let mut evaluations = 0;
    let stopped = generation(&pipeline).on_progress(|_| {
        evaluations += 1;
        evaluations < 6
    });
    assert!(stopped.save(&path).is_err());
    let error = generation(&pipeline).seed(6).save(&path).unwrap_err().to_string();
    assert!(error.contains("a.npz.partial") && error.contains("remove this folder"), "{error}");
    assert!(generation(&pipeline).save(&path).unwrap().existing >= 2);
}
