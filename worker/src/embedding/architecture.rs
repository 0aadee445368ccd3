//! What config.json says of an encoder: one description for all families, and the names of their tensors.

use std::ops::Range;

use kernels::float::activation::Activation;
use serde_json::Value;

use crate::error::LoadError;

/// An encoder's shape.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Architecture {
    pub family: Family,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub feed_forward: usize,
    pub vocabulary: usize,
    /// Tokens that a text may have.
    pub context: usize,
    /// Rows of the token types' table; 0 if there is none.
    pub token_types: usize,
    pub position: Position,
    pub activation: Activation,
    /// Whether the feed-forward block multiplies its activation by a second product.
    pub gated: bool,
    pub norm: NormPlace,
    pub epsilon: f32,
    /// What each layer's tokens see.
    pub attention: Vec<LayerAttention>,
    /// What the model tells of a text, besides its vectors.
    pub head: Option<HeadKind>,
}

/// Models that share tensor names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the models' own")]
pub enum Family {
    Bert,
    Roberta,
    DistilBert,
    Nomic,
    ModernBert,
    JinaBert,
}

/// How a model knows where a token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// By a row of a table; the first token has this row.
    Learned {
        /// The first token's row.
        first: usize,
        /// Rows in all.
        rows: usize,
    },
    /// By turning queries and keys, each layer by its own base.
    Rotary,
    /// By scores that fall with distance.
    Slopes,
}

/// Where a layer normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormPlace {
    /// The sum of what went into a block and what came out of it.
    After,
    /// What goes into a block; and once more what comes out of the last layer.
    Before,
}

/// What a layer's tokens see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerAttention {
    /// Tokens on each side; all, if there is no window.
    pub window: Option<usize>,
    /// The base of the angles, where positions are turned.
    pub rope_base: f32,
}

/// A classification head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadKind {
    /// The first token, a dense layer with tanh ("pooler"), a classifier.
    Pooler,
    /// The first token, a dense layer with tanh, a projection.
    Dense,
    /// The first token or the mean, a dense layer with GELU and a norm, a classifier.
    Normed {
        /// Whether it is the mean of all tokens.
        of_mean: bool,
    },
}

/// Reads numbers by the names that different files give them.
struct Config<'a>(&'a Value);

impl Config<'_> {
    fn find(&self, names: &[&str]) -> Option<&Value> {
        names.iter().filter_map(|name| self.0.get(*name)).find(|value| !value.is_null())
    }

    fn count(&self, names: &[&str], range: Range<usize>) -> Result<usize, LoadError> {
        self.optional_count(names, range)?
            .ok_or_else(|| LoadError::Corrupted(format!("config.json lacks {}", names.join(" or "))))
    }

    fn optional_count(&self, names: &[&str], range: Range<usize>) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.find(names) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| usize::try_from(count).ok());
        count.filter(|count| range.contains(count)).map(Some).ok_or_else(|| {
            let (low, high) = (range.start, range.end - 1);
            LoadError::Corrupted(format!(
                "config.json has {} = {value}; {low} to {high} is possible",
                names[0]
            ))
        })
    }

    fn number(&self, names: &[&str], default: f32) -> Result<f32, LoadError> {
        let Some(value) = self.find(names) else { return Ok(default) };
        let number = value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        number.map(|number| number as f32).ok_or_else(|| {
            LoadError::Corrupted(format!(
                "config.json has {} = {value}; a number above 0 is possible",
                names[0]
            ))
        })
    }

    fn text(&self, names: &[&str]) -> Option<&str> {
        self.find(names).and_then(Value::as_str)
    }

    /// Refuses settings that would change the result and are not computed here.
    fn require(&self, name: &str, allowed: &[Value]) -> Result<(), LoadError> {
        match self.find(&[name]) {
            Some(value) if !allowed.contains(value) => Err(LoadError::Unsupported(format!(
                "config.json has {name} = {value}, which is not supported"
            ))),
            _ => Ok(()),
        }
    }

    fn activation(&self, names: &[&str], default: &str) -> Result<Activation, LoadError> {
        match self.text(names).unwrap_or(default) {
            "gelu" | "geglu" => Ok(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(Activation::GeluTanh),
            "silu" | "swish" | "swiglu" => Ok(Activation::Silu),
            "relu" => Ok(Activation::Relu),
            other => Err(LoadError::Unsupported(format!(
                "config.json has the activation '{other}'; gelu, gelu_new, gelu_pytorch_tanh, silu and relu are supported"
            ))),
        }
    }
}

/// Sizes beyond these are taken for a broken file.
const WIDTHS: Range<usize> = 1..65_537;
const COUNTS: Range<usize> = 1..1_025;
const TOKENS: Range<usize> = 1..(1 << 24);

const HIDDEN: &[&str] = &["hidden_size", "n_embd", "dim"];
const HEADS: &[&str] = &["num_attention_heads", "n_head", "n_heads"];
const LAYERS: &[&str] = &["num_hidden_layers", "n_layer", "n_layers"];
const CONTEXT: &[&str] = &["max_position_embeddings", "n_positions"];
const EPSILON: &[&str] = &["layer_norm_eps", "layer_norm_epsilon", "norm_eps"];

impl Architecture {
    /// Reads a parsed config.json.
    pub fn read(json: &Value) -> Result<Self, LoadError> {
        let config = Config(json);
        let kind = config.text(&["model_type"]).unwrap_or_default();
        let uses_slopes = config.text(&["position_embedding_type"]) == Some("alibi");
        let mut found = match kind {
            "bert" if uses_slopes => Self::jina_bert(&config),
            "bert" => Self::bert(&config),
            "roberta" | "xlm-roberta" | "camembert" => Self::roberta(&config),
            "distilbert" => Self::distilbert(&config),
            "nomic_bert" => Self::nomic(&config),
            "modernbert" => Self::modernbert(&config),
            "" => Err(LoadError::Corrupted("config.json lacks model_type".to_owned())),
            other => Err(LoadError::Unsupported(format!(
                "config.json has model_type '{other}'; bert, roberta, xlm-roberta, camembert, distilbert, nomic_bert and \
                 modernbert are supported"
            ))),
        }?;
        if !found.hidden.is_multiple_of(found.heads) {
            let (hidden, heads) = (found.hidden, found.heads);
            return Err(LoadError::Corrupted(format!("{hidden} numbers cannot be shared by {heads} heads")));
        }
        found.head = found.head_kind(&config)?;
        Ok(found)
    }

    fn base(config: &Config<'_>, family: Family) -> Result<Self, LoadError> {
        let layers = config.count(LAYERS, COUNTS)?;
        let hidden = config.count(HIDDEN, WIDTHS)?;
        Ok(Self {
            family,
            hidden,
            layers,
            heads: config.count(HEADS, COUNTS)?,
            feed_forward: config
                .optional_count(&["intermediate_size", "n_inner", "hidden_dim"], 1..WIDTHS.end * 8)?
                .unwrap_or(4 * hidden),
            vocabulary: config.count(&["vocab_size"], TOKENS)?,
            context: config.count(CONTEXT, TOKENS)?,
            token_types: config.optional_count(&["type_vocab_size"], 0..COUNTS.end)?.unwrap_or(0),
            position: Position::Rotary,
            activation: config.activation(&["hidden_act", "activation", "hidden_activation"], "gelu")?,
            gated: false,
            norm: NormPlace::After,
            epsilon: config.number(EPSILON, 1e-12)?,
            attention: vec![LayerAttention { window: None, rope_base: 10_000.0 }; layers],
            head: None,
        })
    }

    fn bert(config: &Config<'_>) -> Result<Self, LoadError> {
        config.require("position_embedding_type", &["absolute".into()])?;
        let base = Self::base(config, Family::Bert)?;
        Ok(Self { position: Position::Learned { first: 0, rows: base.context }, ..base })
    }

    fn roberta(config: &Config<'_>) -> Result<Self, LoadError> {
        config.require("position_embedding_type", &["absolute".into()])?;
        let base = Self::base(config, Family::Roberta)?;
        // The padding token has a row, and so have those before it.
        let first = config.optional_count(&["pad_token_id"], 0..base.vocabulary)?.unwrap_or(1) + 1;
        let rows = base.context;
        let Some(context) = rows.checked_sub(first).filter(|context| *context > 0) else {
            return Err(LoadError::Corrupted(format!("{rows} positions, of which text begins at {first}")));
        };
        Ok(Self { position: Position::Learned { first, rows }, context, ..base })
    }

    fn distilbert(config: &Config<'_>) -> Result<Self, LoadError> {
        let base = Self::base(config, Family::DistilBert)?;
        Ok(Self { position: Position::Learned { first: 0, rows: base.context }, token_types: 0, ..base })
    }

    fn jina_bert(config: &Config<'_>) -> Result<Self, LoadError> {
        let kind = config.text(&["feed_forward_type"]).unwrap_or("original");
        if !matches!(kind, "geglu" | "original") {
            return Err(LoadError::Unsupported(format!("config.json has feed_forward_type '{kind}'")));
        }
        let base = Self::base(config, Family::JinaBert)?;
        Ok(Self { position: Position::Slopes, gated: kind == "geglu", ..base })
    }

    fn nomic(config: &Config<'_>) -> Result<Self, LoadError> {
        config.require("prenorm", &[false.into()])?;
        config.require("rotary_emb_fraction", &[1.0.into(), 1.into()])?;
        config.require("rotary_emb_interleaved", &[false.into()])?;
        config.require("rotary_emb_scale_base", &[])?;
        config.require("use_rms_norm", &[false.into()])?;
        let base = Self::base(config, Family::Nomic)?;
        let rope = config.find(&["rope_parameters"]).unwrap_or(&Value::Null);
        let rope_base = match Config(rope).find(&["rope_theta"]) {
            Some(_) => Config(rope).number(&["rope_theta"], 1000.0)?,
            None => config.number(&["rotary_emb_base"], 1000.0)?,
        };
        Ok(Self {
            activation: config.activation(&["activation_function", "hidden_act"], "swiglu")?,
            gated: true,
            attention: vec![LayerAttention { window: None, rope_base }; base.layers],
            ..base
        })
    }

    fn modernbert(config: &Config<'_>) -> Result<Self, LoadError> {
        let base = Self::base(config, Family::ModernBert)?;
        let every = config.optional_count(&["global_attn_every_n_layers"], COUNTS)?.unwrap_or(3);
        let window = config.optional_count(&["local_attention"], 2..TOKENS.end)?.unwrap_or(128) / 2;
        let rope = config.find(&["rope_parameters"]).unwrap_or(&Value::Null);
        let base_of = |kind: &str, name: &str, default: f32| {
            let own = rope.get(kind).unwrap_or(&Value::Null);
            match Config(own).find(&["rope_theta"]) {
                Some(_) => Config(own).number(&["rope_theta"], default),
                None => config.number(&[name], default),
            }
        };
        let global = base_of("full_attention", "global_rope_theta", 160_000.0)?;
        let local = base_of("sliding_attention", "local_rope_theta", 10_000.0)?;
        let is_local = |layer: usize| match config.find(&["layer_types"]).and_then(|types| types.get(layer)) {
            Some(kind) => kind == "sliding_attention",
            None => !layer.is_multiple_of(every),
        };
        let attention = (0..base.layers).map(|layer| {
            if is_local(layer) {
                LayerAttention { window: Some(window), rope_base: local }
            } else {
                LayerAttention { window: None, rope_base: global }
            }
        });
        Ok(Self {
            gated: true,
            norm: NormPlace::Before,
            attention: attention.collect(),
            token_types: 0,
            epsilon: config.number(EPSILON, 1e-5)?,
            ..base
        })
    }

    fn head_kind(&self, config: &Config<'_>) -> Result<Option<HeadKind>, LoadError> {
        let names = config.find(&["architectures"]).and_then(Value::as_array);
        let name = names.and_then(|names| names.first()).and_then(Value::as_str).unwrap_or_default();
        if !name.ends_with("ForSequenceClassification") {
            return Ok(None);
        }
        match self.family {
            Family::Bert | Family::JinaBert => Ok(Some(HeadKind::Pooler)),
            Family::Roberta => Ok(Some(HeadKind::Dense)),
            Family::ModernBert => {
                let of_mean = config.text(&["classifier_pooling"]) == Some("mean");
                Ok(Some(HeadKind::Normed { of_mean }))
            }
            Family::DistilBert | Family::Nomic => {
                Err(LoadError::Unsupported(format!("the head of {name} is not supported")))
            }
        }
    }

    /// Numbers of a head.
    pub fn head_width(&self) -> usize {
        self.hidden / self.heads
    }

    /// What each head's scores lose for each token of distance.
    pub fn slopes(&self) -> Vec<f32> {
        if self.position != Position::Slopes {
            return Vec::new();
        }
        // A geometric row for the greatest power of two below the number of heads; the rest lie between its members.
        let row = |heads: usize| (1..=heads).map(move |head| (-8.0 * head as f32 / heads as f32).exp2());
        let whole = 1 << self.heads.ilog2();
        row(whole).chain(row(2 * whole).step_by(2)).take(self.heads).collect()
    }
}

/// The names of one layer's tensors, without their endings.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct LayerNames {
    /// Queries, keys and values; one tensor or three.
    pub attention_in: Vec<String>,
    pub attention_out: String,
    pub attention_norm: String,
    /// One tensor, or gate and factor.
    pub feed_forward_in: Vec<String>,
    pub feed_forward_out: String,
    pub feed_forward_norm: String,
}

/// The names of the tensors outside the layers, without their endings.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TableNames {
    pub words: &'static str,
    pub positions: &'static str,
    pub token_types: &'static str,
    pub norm: &'static str,
}

impl Family {
    /// What may stand before all names; the first that fits is taken.
    pub const PREFIXES: [&'static str; 6] = ["", "bert.", "roberta.", "distilbert.", "model.", "nomic_bert."];

    /// The tables' names.
    pub fn tables(self) -> TableNames {
        TableNames {
            words: match self {
                Self::ModernBert => "embeddings.tok_embeddings",
                _ => "embeddings.word_embeddings",
            },
            positions: "embeddings.position_embeddings",
            token_types: "embeddings.token_type_embeddings",
            norm: match self {
                Self::ModernBert => "embeddings.norm",
                Self::Nomic => "emb_ln",
                _ => "embeddings.LayerNorm",
            },
        }
    }

    /// A layer's names.
    pub fn layer(self, layer: usize, gated: bool) -> LayerNames {
        match self {
            Self::JinaBert if gated => {
                let at = format!("encoder.layer.{layer}.");
                LayerNames {
                    feed_forward_in: vec![format!("{at}mlp.gated_layers")],
                    feed_forward_out: format!("{at}mlp.wo"),
                    feed_forward_norm: format!("{at}mlp.layernorm"),
                    ..bert_names(&at)
                }
            }
            Self::Bert | Self::Roberta | Self::JinaBert => bert_names(&format!("encoder.layer.{layer}.")),
            Self::DistilBert => {
                let at = format!("transformer.layer.{layer}.");
                LayerNames {
                    attention_in: ["q", "k", "v"].map(|part| format!("{at}attention.{part}_lin")).into(),
                    attention_out: format!("{at}attention.out_lin"),
                    attention_norm: format!("{at}sa_layer_norm"),
                    feed_forward_in: vec![format!("{at}ffn.lin1")],
                    feed_forward_out: format!("{at}ffn.lin2"),
                    feed_forward_norm: format!("{at}output_layer_norm"),
                }
            }
            Self::Nomic => {
                let at = format!("encoder.layers.{layer}.");
                LayerNames {
                    attention_in: vec![format!("{at}attn.Wqkv")],
                    attention_out: format!("{at}attn.out_proj"),
                    attention_norm: format!("{at}norm1"),
                    feed_forward_in: ["fc12", "fc11"].map(|part| format!("{at}mlp.{part}")).into(),
                    feed_forward_out: format!("{at}mlp.fc2"),
                    feed_forward_norm: format!("{at}norm2"),
                }
            }
            Self::ModernBert => {
                let at = format!("layers.{layer}.");
                LayerNames {
                    attention_in: vec![format!("{at}attn.Wqkv")],
                    attention_out: format!("{at}attn.Wo"),
                    attention_norm: format!("{at}attn_norm"),
                    feed_forward_in: vec![format!("{at}mlp.Wi")],
                    feed_forward_out: format!("{at}mlp.Wo"),
                    feed_forward_norm: format!("{at}mlp_norm"),
                }
            }
        }
    }
}

fn bert_names(at: &str) -> LayerNames {
    LayerNames {
        attention_in: ["query", "key", "value"].map(|part| format!("{at}attention.self.{part}")).into(),
        attention_out: format!("{at}attention.output.dense"),
        attention_norm: format!("{at}attention.output.LayerNorm"),
        feed_forward_in: vec![format!("{at}intermediate.dense")],
        feed_forward_out: format!("{at}output.dense"),
        feed_forward_norm: format!("{at}output.LayerNorm"),
    }
}
