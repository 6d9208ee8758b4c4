use super::*;

fn preset(name: &str) -> TrainingConfig {
    TrainingConfig::preset(name).unwrap()
}

fn set_error(assignment: &str) -> String {
    preset("fashion-ho").set(assignment).unwrap_err().to_string()
}

/// Returns the error of the default preset with these assignments.
fn invalid(assignments: &[&str]) -> String {
    let mut config = preset("fashion-ho");
    for assignment in assignments {
        config.set(assignment).unwrap();
    }
    config.validate().unwrap_err().to_string()
}

#[test]
fn every_preset_is_complete_and_valid_and_survives_a_round_trip() {
    for (name, text) in PRESETS {
        let config = preset(name);
        config.validate().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(TrainingConfig::from_toml(&config.to_toml().unwrap()).unwrap(), config, "{name}");
        assert!(text.starts_with('#'), "{name} says what it is");
        // `preset` reads this text alone, so a missing key would have been an error.
        assert_eq!(TrainingConfig::from_toml(&format!("preset = \"{name}\"")).unwrap(), config, "{name}");
    }
}

#[test]
fn the_papers_presets_have_the_papers_numbers() {
    // Ho et al. 2020, appendix B, and their code.
    let cifar = preset("cifar10");
    assert_eq!(cifar.model.unet().unwrap().block_out_channels, [128, 256, 256, 256]);
    assert_eq!((cifar.train.batch_size, cifar.train.learning_rate, cifar.train.steps), (128, 2e-4, 800_000));
    assert_eq!((cifar.model.dropout(), cifar.diffusion.variance), (0.1, Variance::FixedLarge));
    for (name, steps, flip) in [
        ("celebahq256", 500_000, true),
        ("lsun-bedroom", 2_400_000, true),
        ("lsun-church", 1_200_000, true),
        ("lsun-cat", 1_800_000, false),
    ] {
        let large = preset(name);
        assert_eq!(large.model.unet().unwrap().block_out_channels, [128, 128, 256, 256, 512, 512], "{name}");
        assert_eq!((large.train.batch_size, large.train.learning_rate, large.train.steps), (64, 2e-5, steps), "{name}");
        assert_eq!((large.model.dropout(), large.diffusion.variance), (0.0, Variance::FixedSmall), "{name}");
        assert_eq!(large.data.flip, flip, "{name}");
        // Everything else is as for CIFAR-10.
        let mut same = cifar.clone();
        same.data = large.data.clone();
        same.model = Model::Unet2d(UnetKeys {
            block_out_channels: large.model.unet().unwrap().block_out_channels.clone(),
            dropout: 0.0,
            ..cifar.model.unet().unwrap().clone()
        });
        same.diffusion.variance = Variance::FixedSmall;
        same.train = Train { batch_size: 64, learning_rate: 2e-5, steps, samples: large.train.samples, ..same.train };
        same.sample.batch_size = large.sample.batch_size;
        assert_eq!(large, same, "{name}");
    }
    let (d, t) = (&cifar.diffusion, &cifar.train);
    assert_eq!((d.timesteps, d.schedule, d.beta_start, d.beta_end), (1000, Schedule::Linear, 1e-4, 0.02));
    assert_eq!((t.warmup_steps, t.ema_decay, t.ema_warmup, t.grad_clip), (5000, 0.9999, false, 1.0));
    let m = cifar.model.unet().unwrap();
    assert_eq!((m.norm_num_groups, m.norm_eps, m.downsample_padding, m.layers_per_block), (32, 1e-6, 0, 2));
    assert_eq!((m.flip_sin_to_cos, m.freq_shift, &m.attention_resolutions[..]), (false, 1.0, &[16][..]));
}

#[test]
fn a_crop_is_four_numbers_and_is_not_written_without() {
    let mut config = preset("fashion-ho");
    assert!(!config.to_toml().unwrap().contains("crop ="), "{}", config.to_toml().unwrap());
    config.set("data.crop=[4, 2, 20, 24]").unwrap();
    config.validate().unwrap();
    assert_eq!(config.data.crop, Some(CropBox { left: 4, top: 2, width: 20, height: 24 }));
    assert_eq!(config.read_options(data::Split::Test).crop, config.data.crop);
    assert_eq!(TrainingConfig::from_toml(&config.to_toml().unwrap()).unwrap(), config);
    let changes = preset("fashion-ho").changes(&config).unwrap();
    assert_eq!(changes[0].to_string(), "data.crop none → [4, 2, 20, 24]");
    config.set("data.crop=[4, 2, 0, 24]").unwrap();
    let error = config.validate().unwrap_err().to_string();
    assert!(error.contains("data.crop") && error.contains("[left, top, width, height]"), "{error}");
    for wrong in ["[4, 2, 20]", "[4, 2, -1, 24]", "20", "center", "[1, 2, 3, 4, 5]"] {
        let error = config.set(&format!("data.crop={wrong}")).unwrap_err().to_string();
        assert!(error.contains("data.crop"), "{error}");
    }
}

#[test]
fn names_of_the_papers_and_of_diffusers_are_both_accepted() {
    let mut config = preset("fashion-ho");
    for (word, schedule) in [
        ("quad", Schedule::ScaledLinear),
        ("scaled_linear", Schedule::ScaledLinear),
        ("cosine", Schedule::SquaredcosCapV2),
        ("squaredcos_cap_v2", Schedule::SquaredcosCapV2),
        ("warmup10", Schedule::Warmup10),
        ("warmup50", Schedule::Warmup50),
        ("const", Schedule::Const),
        ("jsd", Schedule::Jsd),
    ] {
        config.set(&format!("diffusion.schedule={word}")).unwrap();
        assert_eq!(config.diffusion.schedule, schedule);
    }
    assert!(config.to_toml().unwrap().contains("schedule = \"jsd\""));
}

#[test]
fn assignments_accept_toml_values_and_bare_words() {
    let mut config = preset("fashion-ho");
    for assignment in [
        "model.block_out_channels=[64,128]",
        " train.steps = 1_000 ",
        "train.learning_rate=1",
        "data.resolution=[16, 32]",
        "data.path=/tmp/my photos=1",
        "diffusion.variance=learned_range",
        "diffusion.loss='hybrid'",
        "model.attention_head_dim=8",
        "sample.steps=",
    ] {
        config.set(assignment).unwrap_or_else(|e| panic!("{assignment}: {e}"));
    }
    assert_eq!(config.model.unet().unwrap().block_out_channels, [64, 128]);
    assert_eq!((config.train.steps, config.train.learning_rate), (1000, 1.0));
    assert_eq!(config.data.resolution, SampleSize { height: 16, width: 32 });
    assert_eq!(config.data.path.as_deref(), Some(Path::new("/tmp/my photos=1")));
    assert_eq!((config.diffusion.variance, config.diffusion.loss), (Variance::LearnedRange, Loss::Hybrid));
    assert_eq!((config.model.unet().unwrap().attention_head_dim, config.sample.steps), (Some(8), None));
    config.validate().unwrap();
    assert_eq!(TrainingConfig::from_toml(&config.to_toml().unwrap()).unwrap(), config);

    let odd = "a \"quoted\"\nname 'of' a = [folder] #1\\";
    config.data.path = Some(odd.into());
    assert_eq!(TrainingConfig::from_toml(&config.to_toml().unwrap()).unwrap(), config);

    config.set("data.path=2024").unwrap();
    assert_eq!(config.data.path.as_deref(), Some(Path::new("2024")));
    let before = config.clone();
    config.set("train.steps=many").unwrap_err();
    assert_eq!(config, before);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_one() {
    for (given, near) in [
        ("train.batchsize", "train.batch_size"),
        ("trian.batch_size", "train.batch_size"),
        ("data.batch_size", "train.batch_size"),
        ("batch_size", "train.batch_size"),
        ("model.attention_resolution", "model.attention_resolutions"),
        ("model.groups", "model.norm_num_groups"),
        ("diffusion.steps", "train.steps"),
        ("smaple.steps", "sample.steps"),
        ("train.lr", "train.learning_rate"),
        ("train.step", "train.steps"),
        ("lr", "train.learning_rate"),
        ("diffusion.beta_schedule", "diffusion.schedule"),
        ("model.ch_mult", "model.block_out_channels"),
        ("diffusion.T", "diffusion.timesteps"),
    ] {
        let expected = format!("unknown key `{given}`: did you mean `{near}`?");
        assert_eq!(set_error(&format!("{given}=1")), expected);
    }
    assert!(set_error("train.qqq=1").contains("[train] has steps, batch_size, "), "{}", set_error("train.qqq=1"));
    assert!(set_error("zebra.qqq=1").contains("the sections are data, model, diffusion, train, sample"));
    assert!(set_error("train.steps").contains("section.key=value"));
}

#[test]
fn a_wrong_type_names_the_key_what_was_given_and_what_is_expected() {
    for (assignment, expected) in [
        ("train.batch_size=many", "`train.batch_size`: got \"many\", expected a whole number, 0 or more"),
        ("train.batch_size=1.5", "`train.batch_size`: got 1.5, expected a whole number, 0 or more"),
        ("train.batch_size=-1", "`train.batch_size`: got -1, expected a whole number, 0 or more"),
        ("train.ema_warmup=1", "`train.ema_warmup`: got 1, expected true or false"),
        ("train.learning_rate=true", "`train.learning_rate`: got true, expected a number"),
        ("model.block_out_channels=64", "`model.block_out_channels`: got 64, expected a list"),
        ("model.block_out_channels=[64, 'x']", "`model.block_out_channels[1]`: got \"x\", expected a whole number"),
        ("data.resolution=big", "`data.resolution`: got \"big\", expected a whole number, or [height, width]"),
        ("data.resolution=[1, 2, 3]", "`data.resolution`: "),
        ("data.resolution=-32", "`data.resolution`: got -32, expected a whole number"),
        ("sample.sampler=ddmi", "`sample.sampler`: got \"ddmi\", expected one of `ddpm`, `ddim`, `edm-sde`"),
        ("sample.sampler=ddmi", "did you mean `ddim`?"),
        ("diffusion.variance=fixedlarge", "did you mean `fixed_large`?"),
        ("diffusion.variance=3", "`diffusion.variance`: got 3, expected a word"),
        ("train.steps=", "`train.steps`: needs a value after `=`"),
    ] {
        assert!(set_error(assignment).contains(expected), "{assignment}: {}", set_error(assignment));
    }
}

#[test]
fn an_unknown_preset_lists_the_known_ones() {
    let error = TrainingConfig::preset("cifar").unwrap_err().to_string();
    assert!(
        error.starts_with("unknown preset `cifar`: did you mean `cifar10`? There are fashion, fashion-ho, "),
        "{error}"
    );
    assert!(
        TrainingConfig::preset("zebra")
            .unwrap_err()
            .to_string()
            .starts_with("unknown preset `zebra`: there are fashion")
    );
}

#[test]
fn a_file_replaces_keys_of_its_preset() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    fs::write(&path, "preset = \"cifar10\"\n[train]\nsteps = 5\n[diffusion]\nbetas = [0.1, 0.2]\ntimesteps = 2\n")
        .unwrap();
    let config = TrainingConfig::from_file(&path).unwrap();
    let mut expected = preset("cifar10");
    expected.train.steps = 5;
    expected.diffusion.timesteps = 2;
    expected.diffusion.betas = Some(vec![0.1, 0.2]);
    assert_eq!(config, expected);
    config.validate().unwrap();
    assert_eq!(TrainingConfig::from_toml("").unwrap(), preset(DEFAULT_PRESET));
}

#[test]
fn errors_in_a_file_name_the_file_and_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.toml");
    for (text, expected) in [
        (
            "\n[train]\nsteps = 5\nbatchsize = 3\n",
            ":4: unknown key `train.batchsize`: did you mean `train.batch_size`?",
        ),
        ("# a comment\n\n[trian]\nsteps = 5\n", ":4: unknown key `trian.steps`: did you mean `train.steps`?"),
        ("[zebra]\n", ":1: unknown key `zebra`: the sections are "),
        ("[train]\n\n\nsteps = \"many\"\n", ":4: `train.steps`: got \"many\", expected a whole number"),
        ("train.steps = 5\nmodel.block_out_channels = [\n 1,\n true]\n", ":2: `model.block_out_channels[1]`: got true"),
        ("steps = 3\n", ":1: unknown key `steps`: did you mean `train.steps`?"),
        ("\ntrain = 3\n", ":2: `train`: expected a section, [train], got 3"),
        ("[train]\nsteps = \n", ":2: "),
        ("[train]\nsteps = 1\nsteps = 2\n", ":3: duplicate key"),
        ("\npreset = 'cifra10'\n", ":2: unknown preset `cifra10`: did you mean `cifar10`?"),
        ("preset = 3\n", ":1: `preset`: expected a name, got 3"),
    ] {
        fs::write(&path, text).unwrap();
        let error = TrainingConfig::from_file(&path).unwrap_err().to_string();
        let start = format!("{}{expected}", path.display());
        assert!(error.starts_with(&start) && !error.contains('\n'), "{text:?} gives {error:?}");
    }
    let missing = dir.path().join("none.toml");
    let error = TrainingConfig::from_file(&missing).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot read {}: ", missing.display())), "{error}");
}

#[test]
fn values_out_of_range_are_named_with_what_they_may_be() {
    for (assignments, expected) in [
        (&["diffusion.timesteps=0"][..], "`diffusion.timesteps`: got 0, expected 1 to 1000000"),
        (&["train.batch_size=0"], "`train.batch_size`: got 0, expected 1 to"),
        (&["train.keep_checkpoints=0"], "`train.keep_checkpoints`: got 0, expected 1 or more"),
        (&["train.learning_rate=nan"], "`train.learning_rate`: got NaN, expected a number greater than 0"),
        (&["train.grad_clip=inf"], "`train.grad_clip`: got inf"),
        (&["train.ema_decay=1"], "`train.ema_decay`: got 1, expected a number from 0 to less than 1"),
        (&["train.label_dropout=0.1"], "set `data.labels = true`"),
        (&["train.evaluate_samples=1"], "`train.evaluate_samples`: got 1, expected 2 or more"),
        (
            &["train.evaluate_reference=\"stats.npz\""],
            "these statistics are of features: set `train.evaluate_features`",
        ),
        (&["sample.guidance=2"], "set `train.label_dropout`"),
        (&["data.channels=2"], "`data.channels`: got 2, expected 1 (grey), 3 (RGB) or 4 (RGBA)"),
        (&["data.resolution=0"], "`data.resolution`: 0×0 is not a size"),
        (&["data.resolution=30"], "`data.resolution`: 30×30 cannot be halved 2 times for the 3 levels"),
        (&["data.resolution=[32, 30]"], "both sides must be multiples of 4"),
        (&["model.norm_num_groups=24"], "`model.norm_num_groups`: 24 groups do not divide the 32 channels"),
        (&["model.norm_num_groups=0"], "`model.norm_num_groups`: got 0"),
        (&["model.block_out_channels=[]"], "`model.block_out_channels`: got 0 levels"),
        (&["model.block_out_channels=[32, 0]"], "`model.block_out_channels`: got 0"),
        (
            &["model.block_out_channels=[3]", "model.norm_num_groups=1", "model.attention_resolutions=[]"],
            "half sines, half cosines; got 3",
        ),
        (&["model.attention_resolutions=[8, 4]"], "no level is 4 pixels high; the levels are 32, 16, 8"),
        (&["model.attention_head_dim=24"], "heads of 24 channels do not divide the 64 channels of level 2"),
        (&["model.num_class_embeds=10"], "class embeddings need labels"),
        (&["model.freq_shift=16"], "`model.freq_shift`: got 16"),
        (&["model.dropout=1"], "`model.dropout`: got 1"),
        (&["diffusion.beta_end=1"], "`diffusion.beta_end`: got 1, expected a number between 0 and 1"),
        (&["diffusion.betas=[0.1]"], "`diffusion.betas`: has 1 numbers, but `diffusion.timesteps` is 1000"),
        (&["diffusion.timesteps=2", "diffusion.betas=[0.1, 1.5]"], "`diffusion.betas`: got 1.5 at index 1"),
        (&["diffusion.variance=learned"], "`diffusion.loss`: does not train a learned variance"),
        (&["diffusion.loss=hybrid"], "with a fixed one it is `l_simple`"),
        (&["diffusion.loss=min_snr", "diffusion.prediction=previous_mean"], "not defined for the prediction"),
        (&["diffusion.loss=weights"], "`diffusion.loss_weights`: the loss `weights` needs a list of 1000 numbers"),
        (&["diffusion.loss_weights=[1.0]"], "needs `diffusion.loss = \"weights\"`"),
        (&["sample.steps=2000"], "`sample.steps`: got 2000, expected 1 to `diffusion.timesteps`, which is 1000"),
        (&["sample.eta=-1"], "`sample.eta`: got -1"),
    ] {
        let error = invalid(assignments);
        assert!(error.contains(expected), "{assignments:?}: {error}");
    }
    let mut config = preset("fashion-ho");
    config.train.seed = u64::MAX;
    assert!(config.validate().unwrap_err().to_string().starts_with("`train.seed`: got 18446744073709551615"));
    assert!(config.to_toml().is_err());
}
