//! The temporal transformer: one step of any slots, each at its own position (docs/spec/moshi.md
//! 3).

use std::sync::Arc;

use super::io::Layout;
use super::layer::{Layer, Spec};
use super::load::Loader;
use super::matrix::{Matrix, Then};
use super::norm::Norm;
use super::rings::{Rings, Step};
use super::tables::Tables;
use super::workspace::{Activations, Needs, Widths};
use crate::cuda::args::{Pointer, RotationArgs};
use crate::cuda::executor::{Executor, Memory};
use crate::cuda::frame::Node;
use crate::cuda::shape::Shape;
use crate::error::Result;
use crate::formats::WeightFormat;
use crate::lm::LmConfig;

/// Weights of the temporal transformer, its tables and its text head.
pub(super) struct Temporal {
    tables: Tables,
    layers: Vec<Layer>,
    out_norm: Norm,
    /// `[text_card_out, dim]`.
    text_linear: Matrix,
    /// `[classes, dim]` each.
    extra_heads: Vec<Matrix>,
    /// Angle of a step, f64 per rotated pair.
    speeds: Memory,
    pairs: usize,
}

/// Memory of its activations.
pub(super) struct TemporalWork {
    x: Memory,
    /// `[rows, dim]`: the normalised output, which the depth transformer begins with.
    pub z: Memory,
    rotation: Memory,
    /// `[rows, text_card_out]`.
    pub logits: Memory,
    /// Per extra head, `[rows, classes]`.
    pub heads: Vec<Memory>,
}

impl Temporal {
    pub(super) fn load(loader: &mut Loader<'_>, config: &LmConfig) -> Result<Self> {
        let spec = Spec {
            dim: config.dim,
            norm: config.norm,
            feed_forward: config.feed_forward,
            layer_scale: config.layer_scale,
            sets: None,
        };
        // Audio tables in order, then text (docs/spec/moshi.md 3.1).
        let mut tables = Vec::new();
        for i in 0..config.n_q {
            tables.push((loader.table(&format!("emb.{i}.weight"))?, i + 1));
        }
        tables.push((loader.table("text_emb.weight")?, 0));
        let tables = Tables::new(loader.executor(), tables)?;
        let layers = (0..config.num_layers)
            .map(|l| Layer::load(loader, &format!("transformer.layers.{l}"), &spec));
        let layers = layers.collect::<Result<_>>()?;
        let extra_heads = (0..config.extra_heads.0)
            .map(|i| loader.matrix(&format!("extra_heads.{i}.weight"), false));
        let extra_heads = extra_heads.collect::<Result<_>>()?;
        let pairs = config.head_dim() / 2;
        let speed = |i: usize| config.max_period.powf(-(i as f64) / pairs as f64);
        let speeds: Vec<u8> = (0..pairs).flat_map(|i| speed(i).to_le_bytes()).collect();
        Ok(Self {
            tables,
            layers,
            out_norm: Norm::load(loader, "out_norm", config.norm, config.dim)?,
            text_linear: loader.matrix("text_linear.weight", false)?,
            extra_heads,
            speeds: Memory::of(loader.executor(), &speeds)?,
            pairs,
        })
    }

    /// How most matrices are held.
    pub(super) fn weights(&self) -> WeightFormat {
        self.text_linear.format()
    }

    pub(super) fn widths(&self) -> Widths {
        let all = self.layers.iter().map(Layer::widths);
        all.fold(Widths::default(), Widths::or)
    }

    pub(super) fn needs(&self, rows: usize) -> Needs {
        let heads = self.extra_heads.iter().map(|head| head.needs(rows));
        let all = self.layers.iter().map(|layer| layer.needs(rows));
        all.chain(heads)
            .fold(self.text_linear.needs(rows), Needs::or)
    }

    /// Memory for up to `rows` rows.
    pub(super) fn work(
        &self,
        executor: &Arc<dyn Executor>,
        config: &LmConfig,
        rows: usize,
    ) -> Result<TemporalWork> {
        let floats = |width: usize| Memory::zeros(executor, 4 * rows * width);
        Ok(TemporalWork {
            x: floats(config.dim)?,
            z: floats(config.dim)?,
            rotation: floats(config.head_dim())?,
            logits: floats(config.text_card_out)?,
            heads: (self.extra_heads.iter())
                .map(|head| floats(head.outputs()))
                .collect::<Result<_>>()?,
        })
    }

    /// The launches of a step, up to the text logits.
    pub(super) fn nodes(
        &self,
        layout: &Layout,
        input: &Memory,
        rings: &Rings,
        (work, own): (&Activations, &TemporalWork),
        columns: usize,
        nodes: &mut Vec<Node>,
    ) -> Result<()> {
        let rows = layout.rows();
        let (x, z, rotation) = (own.x.start(), own.z.start(), own.rotation.start());
        let tokens = (layout.tokens(input), columns);
        nodes.push(self.rotation(rows, layout.positions(input), rotation));
        nodes.push(self.tables.node(rows, tokens, layout.conditions(input), x));
        let step = Step {
            slots: layout.slots(input),
            positions: layout.positions(input),
            rotation,
            qkv: work.qkv.start(),
            out: work.attended.start(),
        };
        for (l, layer) in self.layers.iter().enumerate() {
            let attend = rings.node(l, rows, &step, &work.scratch)?;
            layer.nodes(0, rows, x, work, attend, nodes);
        }
        nodes.push(self.out_norm.node(rows, x, z));
        let logits = own.logits.start();
        nodes.push(
            self.text_linear
                .node(rows, z, logits, Then::Store, &work.scratch),
        );
        for (head, to) in self.extra_heads.iter().zip(&own.heads) {
            nodes.push(head.node(rows, z, to.start(), Then::Store, &work.scratch));
        }
        Ok(())
    }

    fn rotation(&self, rows: usize, positions: Pointer, out: Pointer) -> Node {
        let args = RotationArgs {
            positions,
            speeds: self.speeds.start(),
            out,
            pairs: self.pairs as i32,
            padding: 0,
        };
        let shape = Shape {
            grid: [rows as u32, 1, 1],
            block: 64,
            shared: 0,
        };
        Node::new("kaiwa_rotation", shape, &args)
    }
}
