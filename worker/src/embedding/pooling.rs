//! From the vectors of a text's tokens to one of the text, as modules.json says.

use std::path::Path;

use kernels::float::norm::unit_length;
use serde::Deserialize;
use serde_json::Value;

use super::head::mean;
use super::model::read_json;
use crate::error::LoadError;

/// How token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Pooling {
    Mean,
    First,
    Last,
    Max,
    /// The sum over the square root of the number of tokens.
    MeanOfRoots,
    /// The mean, the nth token counting n times.
    WeightedMean,
}

/// What is made of token vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pooler {
    /// How they become one.
    pub pooling: Pooling,
    /// Whether that one is given length 1.
    pub normalizes: bool,
}

#[derive(Deserialize)]
struct Module {
    #[serde(default)]
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

impl Pooler {
    /// Reads modules.json and what it leads to. Without one, vectors are the mean, as they are.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let mut pooler = Self { pooling: Pooling::Mean, normalizes: false };
        let modules = folder.join("modules.json");
        if !modules.is_file() {
            return Ok(pooler);
        }
        let modules: Vec<Module> = read_json(&modules)?;
        for module in modules {
            match module.kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => {}
                "Pooling" => pooler.pooling = read_pooling(folder, &module.path)?,
                "Normalize" => pooler.normalizes = true,
                other => {
                    return Err(LoadError::Unsupported(format!(
                        "modules.json has a module {other}; Transformer, Pooling and Normalize are supported"
                    )));
                }
            }
        }
        Ok(pooler)
    }

    /// The vector of a text, given its tokens' vectors; cut to `dimensions` if there are any.
    pub fn pool(self, hidden: &[f32], width: usize, dimensions: Option<usize>) -> Vec<f32> {
        let mut pooled = self.pooling.apply(hidden, width);
        let kept = dimensions.unwrap_or(width).min(width);
        pooled.truncate(kept);
        // A cut vector has lost its length.
        if self.normalizes || kept < width {
            unit_length(&mut pooled);
        }
        pooled
    }
}

fn read_pooling(folder: &Path, path: &str) -> Result<Pooling, LoadError> {
    if Path::new(path).components().count() != 1 || path.contains("..") {
        return Err(LoadError::Corrupted(format!("modules.json has the path '{path}' for pooling")));
    }
    let config: Value = read_json(&folder.join(path).join("config.json"))?;
    if let Some(mode) = config.get("pooling_mode").and_then(Value::as_str) {
        return Pooling::named(mode)
            .ok_or_else(|| LoadError::Unsupported(format!("the pooling mode '{mode}' is not supported")));
    }
    let is_on = |name: &&str| config.get(format!("pooling_mode_{name}")) == Some(&Value::Bool(true));
    let modes: Vec<&str> = Pooling::FLAGS.into_iter().filter(is_on).collect();
    let [mode] = modes[..] else {
        return Err(LoadError::Unsupported(format!(
            "{path}/config.json turns {} pooling modes on ({}); one is supported",
            modes.len(),
            modes.join(", ")
        )));
    };
    Pooling::named(mode)
        .ok_or_else(|| LoadError::Unsupported(format!("the pooling mode '{mode}' is not supported")))
}

impl Pooling {
    /// How the flags of a pooling module end.
    const FLAGS: [&'static str; 6] = [
        "cls_token",
        "mean_tokens",
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    ];

    fn named(name: &str) -> Option<Self> {
        match name {
            "mean" | "mean_tokens" => Some(Self::Mean),
            "cls" | "cls_token" => Some(Self::First),
            "lasttoken" => Some(Self::Last),
            "max" | "max_tokens" => Some(Self::Max),
            "mean_sqrt_len_tokens" => Some(Self::MeanOfRoots),
            "weightedmean" | "weightedmean_tokens" => Some(Self::WeightedMean),
            _ => None,
        }
    }

    fn apply(self, hidden: &[f32], width: usize) -> Vec<f32> {
        let count = (hidden.len() / width) as f32;
        match self {
            Self::Mean => mean(hidden, width),
            Self::First => hidden[..width].to_vec(),
            Self::Last => hidden[hidden.len() - width..].to_vec(),
            Self::Max => {
                hidden[width..].chunks_exact(width).fold(hidden[..width].to_vec(), |mut most, row| {
                    most.iter_mut().zip(row).for_each(|(most, number)| *most = most.max(*number));
                    most
                })
            }
            Self::MeanOfRoots => mean(hidden, width).into_iter().map(|mean| mean * count.sqrt()).collect(),
            Self::WeightedMean => {
                let mut sums = vec![0.0; width];
                for (place, row) in hidden.chunks_exact(width).enumerate() {
                    let weight = (place + 1) as f32;
                    sums.iter_mut().zip(row).for_each(|(sum, number)| *sum += weight * number);
                }
                let total = count * (count + 1.0) / 2.0;
                sums.into_iter().map(|sum| sum / total).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pooling_makes_its_own_vector() {
        let hidden = [1.0, 8.0, 4.0, -2.0];
        for (name, expected) in [
            ("mean_tokens", [2.5, 3.0]),
            ("cls_token", [1.0, 8.0]),
            ("lasttoken", [4.0, -2.0]),
            ("max_tokens", [4.0, 8.0]),
            ("mean_sqrt_len_tokens", [2.5 * 2f32.sqrt(), 3.0 * 2f32.sqrt()]),
            ("weightedmean_tokens", [3.0, 4.0 / 3.0]),
        ] {
            let pooler = Pooler { pooling: Pooling::named(name).unwrap(), normalizes: false };
            assert_eq!(pooler.pool(&hidden, 2, None), expected, "{name}");
        }
        assert!(Pooling::FLAGS.iter().all(|flag| Pooling::named(flag).is_some()));
    }

    #[test]
    fn cut_vectors_have_length_one() {
        let pooler = Pooler { pooling: Pooling::First, normalizes: false };
        assert_eq!(pooler.pool(&[3.0, 4.0, 5.0], 3, Some(2)), [0.6, 0.8]);
        assert_eq!(pooler.pool(&[3.0, 4.0, 5.0], 3, Some(3)), [3.0, 4.0, 5.0]);
    }

    #[test]
    fn a_folder_says_how_and_what_is_not_known_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let read = || Pooler::read(folder.path());
        assert_eq!(read().unwrap(), Pooler { pooling: Pooling::Mean, normalizes: false });
        write(
            "1_Pooling/config.json",
            r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#,
        );
        write(
            "modules.json",
            r#"[{"type": "sentence_transformers.models.Transformer", "path": ""},
                {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
                {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"}]"#,
        );
        assert_eq!(read().unwrap(), Pooler { pooling: Pooling::First, normalizes: true });
        write(
            "1_Pooling/config.json",
            r#"{"pooling_mode_cls_token": true, "pooling_mode_max_tokens": true}"#,
        );
        assert!(read().unwrap_err().to_string().contains("2 pooling modes"));
        write("modules.json", r#"[{"type": "sentence_transformers.models.Pooling", "path": "../x"}]"#);
        assert!(read().unwrap_err().to_string().contains("../x"));
        write("modules.json", r#"[{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]"#);
        assert!(read().unwrap_err().to_string().contains("Dense"));
    }
}
