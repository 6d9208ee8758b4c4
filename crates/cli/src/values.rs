//! Parsers of values. Those of a fixed set list it in errors, help and completions.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use ddpm::data::Fit;
use ddpm::diffusion::{BetaSchedule, Churn, Clip, FactorSchedule, Prediction, TimestepGrid, TimestepSpacing, Variance};
use ddpm::sample::Sampler;

/// A value by its name.
type Names<T> = &'static [(&'static str, T)];

/// Parses a name of a table. `aliases` are accepted too, but not listed.
fn one_of<T: Copy + Send + Sync + 'static>(names: Names<T>, aliases: Names<T>) -> impl TypedValueParser<Value = T> {
    let listed = names.iter().map(|(name, _)| PossibleValue::new(*name));
    let hidden = aliases.iter().map(|(name, _)| PossibleValue::new(*name).hide(true));
    PossibleValuesParser::new(listed.chain(hidden)).try_map(move |name| {
        let found = names.iter().chain(aliases).find(|(known, _)| *known == name);
        found.map(|&(_, value)| value).ok_or("unknown name")
    })
}

/// `--sampler`.
pub fn sampler() -> impl TypedValueParser<Value = Sampler> {
    PossibleValuesParser::new(Sampler::names()).try_map(|name| name.parse::<Sampler>())
}

/// `--factor`.
pub fn factor() -> impl TypedValueParser<Value = FactorSchedule> {
    one_of(&FactorSchedule::NAMES, &[])
}

/// `--grid`.
pub fn grid() -> impl TypedValueParser<Value = TimestepGrid> {
    one_of(&TimestepGrid::NAMES, &[])
}

/// `--spacing`.
pub fn spacing() -> impl TypedValueParser<Value = TimestepSpacing> {
    one_of(&TimestepSpacing::NAMES, &TimestepSpacing::ALIASES)
}

/// `--variance`.
pub fn variance() -> impl TypedValueParser<Value = Variance> {
    one_of(&Variance::NAMES, &Variance::ALIASES)
}

/// `--beta-schedule`.
pub fn beta_schedule() -> impl TypedValueParser<Value = BetaSchedule> {
    one_of(&BetaSchedule::NAMES, &BetaSchedule::ALIASES)
}

/// `--prediction`.
pub fn prediction() -> impl TypedValueParser<Value = Prediction> {
    one_of(&Prediction::NAMES, &[])
}

/// `--fit`.
pub fn fit() -> impl TypedValueParser<Value = Fit> {
    one_of(&[("crop", Fit::Crop), ("pad", Fit::Pad)], &[])
}

/// Parses the path of a file that is written as PNG, whatever its name: another extension would be wrong.
pub fn png(text: &str) -> Result<PathBuf, String> {
    written_as(text, "png")
}

/// Parses the path of a file that is written as safetensors.
pub fn safetensors(text: &str) -> Result<PathBuf, String> {
    written_as(text, "safetensors")
}

fn written_as(text: &str, format: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(other) if !other.eq_ignore_ascii_case(format) => {
            Err(format!("the file is written as {format}; give it a name that ends in .{format}"))
        }
        _ => Ok(path),
    }
}

/// Parses a number that is at least 1.
pub fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a whole number of at least 1".into()),
    }
}

/// Parses a number that is at least 2.
pub fn two_or_more(text: &str) -> Result<usize, String> {
    positive(text).and_then(|number| if number < 2 { Err("expected at least 2".into()) } else { Ok(number) })
}

/// Parses a number of at least 0.
pub fn non_negative(text: &str) -> Result<f64, String> {
    finite(text).ok().filter(|&t| t >= 0.0).ok_or_else(|| "expected a timestep, 0 or more".into())
}

/// Parses a number of 0 to 1.
pub fn share(text: &str) -> Result<f64, String> {
    finite(text).ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| "expected 0 to 1".into())
}

/// Parses a number of threads. Far more than there are cores would only take memory.
pub fn threads(text: &str) -> Result<usize, String> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let most = (4 * cores).max(256);
    match positive(text)? {
        number if number > most => Err(format!("this machine has {cores} cores; expected at most {most}")),
        number => Ok(number),
    }
}

/// Parses an amount of memory in bytes: `4G`, `500M`, `1.5GiB`, `2GB`.
pub fn memory(text: &str) -> Result<u64, String> {
    const LEAST: f64 = 64e6;
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return Err("expected a number and a unit: 4G, 500M, 1.5GiB or 2GB".into()),
    };
    let bytes = unit * number.parse::<f64>().map_err(|_| "expected a number and a unit: 4G, 500M, 1.5GiB or 2GB")?;
    if bytes < LEAST {
        return Err("the program itself needs more; expected 64M or more".into());
    }
    Ok(bytes as u64)
}

/// Parses a number that is finite.
pub fn finite(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "expected a number".into())
}

/// Parses a timestep.
pub fn timestep(text: &str) -> Result<usize, String> {
    text.trim().parse().map_err(|_| "expected whole timesteps, such as 999,500,0".into())
}

/// Parses the noise of edm-sde: `S`, or `S,MIN,MAX,NOISE`. A step of each scheduler adds at most √2 − 1 times its noise, which
/// 1000 is enough for.
pub fn churn(text: &str) -> Result<Churn, String> {
    let numbers: Result<Vec<f64>, _> = text.split(',').map(finite).collect();
    let churn = match numbers.as_deref() {
        Ok(&[s_churn]) => Churn { s_churn, ..Churn::default() },
        Ok(&[s_churn, s_tmin, s_tmax, s_noise]) => Churn { s_churn, s_tmin, s_tmax, s_noise },
        _ => return Err("expected a number, 0 to 1000, or four as S,MIN,MAX,NOISE".into()),
    };
    let Churn { s_churn, s_tmin, s_tmax, s_noise } = churn;
    if !(0.0..=1000.0).contains(&s_churn) {
        return Err("expected a number, 0 to 1000".into());
    }
    if !(0.0 <= s_tmin && s_tmin <= s_tmax && (0.0..=10.0).contains(&s_noise)) {
        return Err("expected 0 ≤ MIN ≤ MAX, and NOISE from 0 to 10".into());
    }
    Ok(churn)
}

/// Parses `32`, or `32x48` for height and width.
pub fn size(text: &str) -> Result<[usize; 2], String> {
    let sides: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
    match sides.as_deref() {
        Ok(&[side]) => Ok([side, side]),
        Ok(&[height, width]) => Ok([height, width]),
        _ => Err("expected a number, or HEIGHTxWIDTH".into()),
    }
}

/// Parses two timesteps, `200,800`.
pub fn interval(text: &str) -> Result<(f64, f64), String> {
    pair(text).filter(|(from, to)| from <= to).ok_or_else(|| "expected two timesteps, the lower first: 200,800".into())
}

/// Parses the quantile and the maximum of dynamic thresholding, `0.995,1.5`.
pub fn threshold(text: &str) -> Result<(f64, f64), String> {
    pair(text)
        .filter(|&(ratio, max)| Clip::Dynamic { ratio, max }.is_valid())
        .ok_or_else(|| "expected two numbers, a share of 0 to 1 and one above 0: 0.995,1.5".into())
}

/// Parses the range of an array's numbers, `-1,1`.
pub fn range(text: &str) -> Result<[f64; 2], String> {
    let (low, high) = pair(text).ok_or("expected two numbers, black and white: -1,1")?;
    if low.is_finite() && high.is_finite() && low < high {
        Ok([low, high])
    } else {
        Err("expected the lower number first: -1,1".into())
    }
}

fn pair(text: &str) -> Option<(f64, f64)> {
    let (a, b) = text.split_once(',')?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_one_number_or_two() {
        assert_eq!(size("32"), Ok([32, 32]));
        assert_eq!(size("32x48"), Ok([32, 48]));
        assert!(size("32x48x3").is_err() && size("x").is_err() && size("").is_err());
    }

    #[test]
    fn pairs_are_two_numbers() {
        assert_eq!(interval("200,800"), Ok((200.0, 800.0)));
        assert!(interval("800,200").is_err() && interval("5").is_err() && interval("1,2,3").is_err());
        assert_eq!(threshold("0.995,1.5"), Ok((0.995, 1.5)));
        assert!(threshold("2,1").is_err() && threshold("0.5,0").is_err());
    }

    #[test]
    fn memory_has_a_unit() {
        assert_eq!(memory("4G"), Ok(4 << 30));
        assert_eq!(memory("1.5GiB"), Ok(3 << 29));
        assert_eq!(
            (memory("500 M"), memory("2GB"), memory("100000000")),
            (Ok(500 << 20), Ok(2_000_000_000), Ok(100_000_000))
        );
        assert!(memory("1M").unwrap_err().contains("64M") && memory("1").unwrap_err().contains("64M"));
        assert!(memory("G").is_err() && memory("4X").is_err() && memory("-4G").is_err() && memory("").is_err());
    }

    #[test]
    fn counts_are_positive() {
        assert_eq!(positive("3"), Ok(3));
        assert!(positive("0").unwrap_err().contains("at least 1"));
        assert!(
            churn("-1").is_err() && churn("1e300").is_err() && churn("30").is_ok_and(|churn| churn.s_churn == 30.0)
        );
        assert!(timestep("abc").unwrap_err().contains("999,500,0") && timestep(" 7") == Ok(7));
        assert!(positive("x").is_err() && finite("nan").is_err() && finite("-1.5") == Ok(-1.5));
    }
}
