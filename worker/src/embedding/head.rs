//! Classification heads: one number, or a few, for a text or a pair.

use kernels::float::activation::Activation;
use kernels::float::norm::layer_norm;
use kernels::float::{FloatMatrix, Operands, Store};

use super::architecture::{Architecture, HeadKind};
use super::weights::{Norm, Packing, Weights};
use crate::error::LoadError;

/// A head's weights.
#[derive(Debug)]
pub struct Head {
    kind: HeadKind,
    dense: FloatMatrix,
    norm: Option<Norm>,
    epsilon: f32,
    classifier: FloatMatrix,
}

impl Head {
    /// Reads the head. It is small, so its products are exact.
    pub fn read(
        kind: HeadKind,
        architecture: &Architecture,
        weights: &mut Weights,
        packing: Packing<'_>,
    ) -> Result<Self, LoadError> {
        let packing = Packing { operands: Operands::F32, ..packing };
        let hidden = architecture.hidden;
        let pooler = format!("{}pooler.dense", weights.prefix());
        let (dense, classifier) = match kind {
            HeadKind::Pooler => (pooler.as_str(), "classifier"),
            HeadKind::Dense => ("classifier.dense", "classifier.out_proj"),
            HeadKind::Normed { .. } => ("head.dense", "classifier"),
        };
        Ok(Self {
            kind,
            dense: weights.head_matrix(packing, dense, hidden, Some(hidden))?,
            norm: match kind {
                HeadKind::Normed { .. } => Some(weights.head_norm("head.norm", hidden)?),
                HeadKind::Pooler | HeadKind::Dense => None,
            },
            epsilon: architecture.epsilon,
            classifier: weights.head_matrix(packing, classifier, hidden, None)?,
        })
    }

    /// How many numbers a text gets.
    pub fn labels(&self) -> usize {
        self.classifier.outputs()
    }

    /// The numbers that a text gets, given its tokens' vectors.
    pub fn classify(&self, hidden: &[f32]) -> Vec<f32> {
        let width = self.dense.inputs();
        let input = match self.kind {
            HeadKind::Normed { of_mean: true } => mean(hidden, width),
            _ => hidden[..width].to_vec(),
        };
        let mut dense = vec![0.0; width];
        self.dense.multiply(&input, &mut dense, Store::Set);
        match &self.norm {
            Some(Norm { weight, bias }) => {
                Activation::Gelu.apply(&mut dense);
                layer_norm(&mut dense, weight, bias.as_deref(), self.epsilon);
            }
            None => dense.iter_mut().for_each(|number| *number = number.tanh()),
        }
        let mut labels = vec![0.0; self.labels()];
        self.classifier.multiply(&dense, &mut labels, Store::Set);
        labels
    }
}

/// The mean of rows.
pub fn mean(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sums = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, number)| *sum += number);
    }
    let count = (rows.len() / width).max(1) as f32;
    for sum in &mut sums {
        *sum /= count;
    }
    sums
}
