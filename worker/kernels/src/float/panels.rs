//! Weights in the order in which products read them.

use half::{bf16, f16};

use crate::dequantize::dequantize;
use crate::format::Format;
use crate::matrix::Source;
use crate::memory::Memory;
use crate::pool::Pool;
use crate::rows::Shared;

/// Outputs that lie side by side: for each input, the weights of these outputs follow each other.
pub const PANEL: usize = 32;

/// What a packed weight is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    F32,
    F16,
    Bf16,
    /// `bf16` weights of two inputs side by side, for dot products of pairs.
    Pairs,
}

impl Layout {
    /// Bytes of a panel over so many inputs.
    pub fn panel_bytes(self, inputs: usize) -> usize {
        match self {
            Self::F32 => inputs * PANEL * 4,
            Self::F16 | Self::Bf16 => inputs * PANEL * 2,
            Self::Pairs => inputs.div_ceil(2) * PANEL * 4,
        }
    }
}

/// Packed weights. The last panel is filled up with zeros.
pub struct Panels {
    pub layout: Layout,
    memory: Memory,
    panel_bytes: usize,
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Panels({:?}, {} bytes)", self.layout, self.bytes())
    }
}

impl Panels {
    /// Packs stacked weights of `inputs` columns, whose sizes have been checked.
    pub fn pack(pool: &Pool, layout: Layout, inputs: usize, sources: &[Source<'_>]) -> Self {
        let outputs: usize = sources.iter().map(|source| source.outputs).sum();
        let panel_bytes = layout.panel_bytes(inputs);
        let count = outputs.div_ceil(PANEL);
        let mut memory = Memory::new(count * panel_bytes);
        let start = Shared(memory.as_mut_ptr());
        pool.run(count, |index| {
            // SAFETY: each panel lies within the memory, and no other task has the same one.
            let panel =
                unsafe { std::slice::from_raw_parts_mut(start.get().add(index * panel_bytes), panel_bytes) };
            let mut weights = vec![0.0; inputs];
            for lane in 0..PANEL.min(outputs - index * PANEL) {
                read_row(sources, inputs, index * PANEL + lane, &mut weights);
                write_lane(layout, &weights, lane, panel);
            }
        });
        Self { layout, memory, panel_bytes }
    }

    /// The bytes of a panel.
    pub fn panel(&self, index: usize) -> &[u8] {
        &self.memory[index * self.panel_bytes..][..self.panel_bytes]
    }

    /// The panel's weights as plain numbers; of pairs, each half is a number.
    pub fn read(&self, index: usize, out: &mut Vec<f32>) {
        let bytes = self.panel(index);
        out.clear();
        match self.layout {
            Layout::F32 => out.extend(bytes.as_chunks().0.iter().map(|bytes| f32::from_ne_bytes(*bytes))),
            Layout::F16 => {
                out.extend(bytes.as_chunks().0.iter().map(|bytes| f16::from_ne_bytes(*bytes).to_f32()));
            }
            Layout::Bf16 | Layout::Pairs => {
                out.extend(bytes.as_chunks().0.iter().map(|bytes| bf16::from_ne_bytes(*bytes).to_f32()));
            }
        }
    }

    /// Memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }
}

/// Row `output` of the stacked sources.
fn read_row(sources: &[Source<'_>], inputs: usize, output: usize, weights: &mut [f32]) {
    let mut first = 0;
    for source in sources {
        if output < first + source.outputs {
            let row_bytes = source.bytes.len() / source.outputs;
            dequantize(source.format, &source.bytes[(output - first) * row_bytes..][..row_bytes], weights);
            return;
        }
        first += source.outputs;
    }
    debug_assert!(false, "output {output} of {first} rows of {inputs}");
}

fn write_lane(layout: Layout, weights: &[f32], lane: usize, panel: &mut [u8]) {
    for (input, weight) in weights.iter().enumerate() {
        match layout {
            Layout::F32 => write(panel, input * PANEL + lane, weight.to_ne_bytes()),
            Layout::F16 => write(panel, input * PANEL + lane, f16::from_f32(*weight).to_ne_bytes()),
            Layout::Bf16 => write(panel, input * PANEL + lane, bf16::from_f32(*weight).to_ne_bytes()),
            Layout::Pairs => {
                let place = (input / 2 * PANEL + lane) * 2 + input % 2;
                write(panel, place, bf16::from_f32(*weight).to_ne_bytes());
            }
        }
    }
}

fn write<const BYTES: usize>(panel: &mut [u8], place: usize, bytes: [u8; BYTES]) {
    panel[place * BYTES..][..BYTES].copy_from_slice(&bytes);
}

/// The layout that keeps stored weights as they are; what is quantised becomes `f32`.
pub fn lossless(sources: &[Source<'_>]) -> Layout {
    let all = |format| sources.iter().all(|source| source.format == format);
    if all(Format::F16) {
        Layout::F16
    } else if all(Format::Bf16) {
        Layout::Bf16
    } else {
        Layout::F32
    }
}
