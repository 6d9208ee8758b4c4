//! Subsets of timesteps: well-known lists, and properties for every T and K. Long lists of the reference
//! implementations are in goldens.rs.

use ddpm_diffusion::{
    Error, TimestepSpacing,
    timesteps::{all, explicit, space_timesteps},
};
use proptest::prelude::*;

#[test]
fn fifty_of_a_thousand() {
    let of = |spacing: TimestepSpacing| spacing.timesteps(1000, 50, 0).unwrap();
    assert_eq!(of(TimestepSpacing::Leading), (0..50).rev().map(|i| 20 * i).collect::<Vec<_>>());
    assert_eq!(of(TimestepSpacing::Trailing), (1..=50).rev().map(|i| 20 * i - 1).collect::<Vec<_>>());
    let linspace = of(TimestepSpacing::Linspace);
    assert_eq!((&linspace[..4], &linspace[48..]), (&[999, 979, 958, 938][..], &[20, 0][..]));
    let openai = space_timesteps(1000, "50").unwrap();
    assert_eq!((&openai[..2], &openai[46..]), (&[999, 979][..], &[61, 41, 20, 0][..]));
    assert_eq!(space_timesteps(1000, "ddim50").unwrap(), of(TimestepSpacing::Leading));
    let quadratic = TimestepSpacing::Quadratic.timesteps(1000, 10, 0).unwrap();
    assert_eq!(quadratic, [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]);
}

#[test]
fn one_step_and_every_step() {
    let steps = |spacing: TimestepSpacing, k| spacing.timesteps(1000, k, 0).unwrap();
    assert_eq!(steps(TimestepSpacing::Leading, 1), [0]);
    assert_eq!(steps(TimestepSpacing::Trailing, 1), [999]);
    assert_eq!(steps(TimestepSpacing::Linspace, 1), [0]);
    assert_eq!(space_timesteps(1000, "1").unwrap(), [0]);
    for spacing in [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace] {
        assert_eq!(steps(spacing, 1000), all(1000));
    }
    assert_eq!(space_timesteps(1000, "1000").unwrap(), all(1000));
}

#[test]
fn sections_offsets_and_lists() {
    let sections = space_timesteps(300, "10,15,20").unwrap();
    assert_eq!(sections.len(), 45);
    assert_eq!((sections.iter().filter(|&&t| t < 100).count(), sections[0], sections[20]), (10, 299, 199));
    assert_eq!(TimestepSpacing::Leading.timesteps(1000, 5, 1).unwrap(), [801, 601, 401, 201, 1]);
    assert_eq!(TimestepSpacing::Trailing.timesteps(1000, 5, 1).unwrap(), [999, 799, 599, 399, 199]);
    assert_eq!(explicit(1000, &[3, 999, 40]).unwrap(), [999, 40, 3]);
}

#[test]
fn invalid_spacings_are_errors() {
    for steps in [0, 1001, usize::MAX] {
        assert!(matches!(TimestepSpacing::Leading.timesteps(1000, steps, 0), Err(Error::Steps { .. })));
    }
    assert!(matches!(
        TimestepSpacing::Leading.timesteps(1000, 1000, 1),
        Err(Error::Timestep { index: 0, timestep: 1000, .. })
    ));
    assert!(TimestepSpacing::Leading.timesteps(1000, 10, usize::MAX).is_err());
    for word in ["", "fifty", "10,", "ddim", "ddimx", "-3", "1.5"] {
        assert_eq!(space_timesteps(1000, word), Err(Error::Respacing(word.to_owned())));
    }
    for word in ["1001", "ddim999", "ddim0", "600,1"] {
        assert!(matches!(space_timesteps(1000, word), Err(Error::Steps { .. })), "{word}");
    }
    assert_eq!(space_timesteps(1000, "0"), Err(Error::NoTimesteps));
    assert!(space_timesteps(0, "1").is_err());
    assert!(explicit(10, &[]).is_err() && explicit(10, &[10]).is_err() && explicit(10, &[4, 4]).is_err());
}

proptest! {
    #[test]
    fn descending_and_within((total, steps) in (1_usize..4000).prop_flat_map(|total| (Just(total), 1..=total))) {
        for (_, spacing) in TimestepSpacing::NAMES {
            let timesteps = spacing.timesteps(total, steps, 0).unwrap();
            prop_assert!(timesteps.is_sorted_by(|a, b| a > b) && timesteps[0] < total);
            if spacing != TimestepSpacing::Quadratic {
                prop_assert_eq!(timesteps.len(), steps);
            }
            // The ends that each spacing includes.
            let (ends_at_data, starts_at_noise) = (timesteps[timesteps.len() - 1] == 0, timesteps[0] == total - 1);
            prop_assert!(spacing == TimestepSpacing::Trailing || ends_at_data);
            prop_assert!(spacing != TimestepSpacing::Trailing || starts_at_noise);
            prop_assert!(spacing != TimestepSpacing::Linspace || steps == 1 || starts_at_noise);
        }
        let openai = space_timesteps(total, &steps.to_string()).unwrap();
        prop_assert_eq!(openai.len(), steps);
        prop_assert!(steps == 1 || openai[0] == total - 1 && openai[steps - 1] == 0);
    }
}
