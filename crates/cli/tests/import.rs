//! `ddpm import` and `ddpm export`, as a user calls them.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use predicates::str::contains;

fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../unet/tests/goldens/families").join(name)
}

/// What other programs saved becomes a folder to sample from, and says what was found.
#[test]
fn checkpoints_of_others_become_models() {
    let place = Place::new();
    for (file, words, more) in [
        ("ho/model.ckpt-790000.index", "hojonathanho/diffusion", &[][..]),
        ("w86763777.pt", "averaged (EMA)", &[]),
        ("w86763777.pt", "w86763777/pytorch-ddpm", &["--raw"]),
        ("guided.pt", "guided-diffusion", &["--heads", "2", "--timesteps", "50", "--schedule", "cosine"]),
    ] {
        let path = family(file);
        let mut import = place.ddpm(&["import", path.to_str().unwrap(), "-o", "model"]);
        import.args(more).assert().success().stdout(contains(words));
        place.ddpm(&["sample", "model", "-n", "1", "--steps", "2", "--size", "8", "-o", "s.png"]).assert().success();
        place.ddpm(&["export", "model", "-o", "again"]).assert().success();
        let weights = "unet/diffusion_pytorch_model.safetensors";
        let bytes = |folder: &str| std::fs::read(place.path(folder).join(weights)).unwrap();
        assert_eq!(bytes("model"), bytes("again"));
        std::fs::remove_dir_all(place.path("model")).unwrap();
        std::fs::remove_dir_all(place.path("again")).unwrap();
    }
}

#[test]
fn what_cannot_be_imported_is_named_and_leaves_nothing() {
    let place = Place::new();
    // os.system("echo pwned > pwned"), as a pickle of protocol 0.
    std::fs::write(place.path("evil.pt"), b"cposix\nsystem\n(S'echo pwned > pwned'\ntR.").unwrap();
    place.ddpm(&["import", "evil.pt", "-o", "m"]).assert().failure().code(1).stderr(contains("posix.system"));
    assert!(!place.path("pwned").exists() && !place.path("m").exists());
    std::fs::write(place.path("torn.pt"), &std::fs::read(family("pesser.pt")).unwrap()[..5000]).unwrap();
    place.ddpm(&["import", "torn.pt", "-o", "m"]).assert().failure().code(1).stderr(contains("torn.pt"));
    place.ddpm(&["import", "nothing.pt", "-o", "m"]).assert().failure().code(1).stderr(contains("nothing.pt"));
    let pesser = family("pesser.pt");
    place.ddpm(&["sample", pesser.to_str().unwrap()]).assert().failure().code(1).stderr(contains("ddpm import"));
    std::fs::create_dir(place.path("m")).unwrap();
    let there = place.ddpm(&["import", pesser.to_str().unwrap(), "-o", "m"]).assert().failure().code(2);
    there.stderr(contains("there already"));
}
