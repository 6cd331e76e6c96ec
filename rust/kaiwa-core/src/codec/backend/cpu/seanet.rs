//! SEANet: the convolutional encoder and decoder (docs/spec/mimi.md 2.3 to 2.5).
//!
//! ELUs have no pass of their own: whatever produces a layer's input stores it activated, with
//! room for the next layer's history in front, and stores the plain values beside it only where a
//! skip connection wants them.

use super::Loader;
use super::conv::{Conv, ConvShape, ConvTranspose, Padded};
use super::state::SlotState;
use crate::codec::config::SeanetConfig;
use crate::cpu::{Activation, Out, Residual, Rows};
use crate::error::Result;

/// Buffers of a step, shared by encoder and decoder.
#[derive(Default)]
pub(super) struct SeanetWork {
    /// Activated input of the next layer.
    current: Padded,
    /// Activated output of the layer at work.
    next: Padded,
    /// Plain values for the skip connection.
    skip: Vec<f32>,
    /// Skip values through a `shortcut` convolution.
    shortcut: Vec<f32>,
    /// Inside of a residual block.
    inner: Padded,
}

fn grow(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// `y = skip(x) + conv1x1(ELU(conv(ELU(x))))`.
struct Block {
    conv: Conv,
    project: Conv,
    shortcut: Option<Conv>,
}

impl Block {
    fn load(
        loader: &mut Loader<'_>,
        name: &str,
        config: &SeanetConfig,
        channels: usize,
        index: usize,
    ) -> Result<Self> {
        let hidden = channels / config.compress;
        let shape = |inputs, outputs, kernel, dilation| ConvShape {
            inputs,
            outputs,
            kernel,
            stride: 1,
            dilation,
            bias: true,
            replicate: config.replicate_pad,
        };
        let dilation = config.dilation_base.pow(index as u32);
        let kernel = config.residual_kernel_size;
        Ok(Self {
            conv: Conv::load(
                loader,
                &format!("{name}.block.1.conv.conv"),
                shape(channels, hidden, kernel, dilation),
            )?,
            project: Conv::load(
                loader,
                &format!("{name}.block.3.conv.conv"),
                shape(hidden, channels, 1, 1),
            )?,
            shortcut: match config.true_skip {
                true => None,
                false => Some(Conv::load(
                    loader,
                    &format!("{name}.shortcut.conv.conv"),
                    shape(channels, channels, 1, 1),
                )?),
            },
        })
    }

    /// From `work.current` and `work.skip` to `work.current` (activated, with `pad` columns of
    /// room) and, if `keep` is set, `work.skip`.
    fn run(
        &self,
        work: &mut SeanetWork,
        slots: &mut [&mut SlotState],
        columns: usize,
        pad: usize,
        keep: bool,
    ) {
        let (count, channels) = (slots.len(), self.project.outputs());
        let plain = Rows::packed(columns, channels);
        let SeanetWork {
            current,
            next,
            skip,
            shortcut,
            inner,
        } = work;
        self.conv.history(current, slots);
        inner.shape(count, 0, columns, self.conv.outputs());
        let (hidden, rows) = inner.target(1);
        self.conv.run(
            current,
            count,
            Out::activated(Activation::Elu, hidden, rows),
        );

        let (residual, raw) = match (&self.shortcut, keep) {
            (Some(conv), _) => {
                // The shortcut reads plain values; give them the padded shape it expects.
                next.shape(count, 0, columns, channels);
                next.fill(skip);
                let out = grow(shortcut, count * columns * channels);
                conv.run(next, count, Out::raw(out, plain));
                (
                    Residual::Add(shortcut, plain),
                    keep.then_some((&mut skip[..], plain)),
                )
            }
            (None, true) => (Residual::InPlace, Some((&mut skip[..], plain))),
            (None, false) => (Residual::Add(skip, plain), None),
        };
        next.shape(count, pad, columns, channels);
        self.project.run(
            inner,
            count,
            Out {
                scale: None,
                residual,
                raw,
                activation: Activation::Elu,
                activated: Some(next.target(1)),
            },
        );
        std::mem::swap(current, next);
    }
}

/// Residual blocks at one resolution.
struct Blocks(Vec<Block>);

impl Blocks {
    fn load(
        loader: &mut Loader<'_>,
        side: &str,
        index: &mut usize,
        config: &SeanetConfig,
        channels: usize,
    ) -> Result<Self> {
        let mut blocks = Vec::new();
        for j in 0..config.n_residual_layers {
            blocks.push(Block::load(
                loader,
                &format!("{side}.model.{index}"),
                config,
                channels,
                j,
            )?);
            *index += 1;
        }
        Ok(Self(blocks))
    }

    /// History columns the first layer wants, given what follows the blocks.
    fn pad(&self, after: usize) -> usize {
        self.0.first().map_or(after, |b| b.conv.pad())
    }

    fn run(
        &self,
        work: &mut SeanetWork,
        slots: &mut [&mut SlotState],
        columns: usize,
        after: usize,
    ) {
        for (j, block) in self.0.iter().enumerate() {
            let following = self.0.get(j + 1);
            let pad = following.map_or(after, |b| b.conv.pad());
            block.run(work, slots, columns, pad, following.is_some());
        }
    }
}

fn end_conv(
    loader: &mut Loader<'_>,
    name: &str,
    config: &SeanetConfig,
    (inputs, outputs, kernel, stride): (usize, usize, usize, usize),
) -> Result<Conv> {
    let replicate = config.replicate_pad;
    Conv::load(
        loader,
        &format!("{name}.conv.conv"),
        ConvShape {
            inputs,
            outputs,
            kernel,
            stride,
            dilation: 1,
            bias: true,
            replicate,
        },
    )
}

/// From the waveform to latent steps.
pub(super) struct SeanetEncoder {
    first: Conv,
    stages: Vec<(Blocks, Conv)>,
    last: Conv,
}

impl SeanetEncoder {
    pub(super) fn load(loader: &mut Loader<'_>, config: &SeanetConfig) -> Result<Self> {
        let mut channels = config.n_filters;
        let first = end_conv(
            loader,
            "encoder.model.0",
            config,
            (1, channels, config.kernel_size, 1),
        )?;
        let (mut stages, mut index) = (Vec::new(), 1);
        for &ratio in config.ratios.iter().rev() {
            let blocks = Blocks::load(loader, "encoder", &mut index, config, channels)?;
            index += 1; // the ELU
            let name = format!("encoder.model.{index}");
            let down = end_conv(
                loader,
                &name,
                config,
                (channels, 2 * channels, 2 * ratio, ratio),
            )?;
            stages.push((blocks, down));
            channels *= 2;
            index += 1;
        }
        let name = format!("encoder.model.{}", index + 1);
        let shape = (channels, config.dimension, config.last_kernel_size, 1);
        let last = end_conv(loader, &name, config, shape)?;
        Ok(Self {
            first,
            stages,
            last,
        })
    }

    /// `pcm` is `[slots, samples]`; `out` becomes `[slots, steps, dimension]`.
    pub(super) fn run(
        &self,
        work: &mut SeanetWork,
        slots: &mut [&mut SlotState],
        pcm: &[f32],
        samples: usize,
        out: &mut Vec<f32>,
    ) {
        let count = slots.len();
        work.current.shape(count, self.first.pad(), samples, 1);
        work.current.fill(pcm);
        let mut columns = samples;
        let mut conv = &self.first;
        for (blocks, down) in &self.stages {
            let pad = blocks.pad(down.pad());
            columns = step_down(conv, work, slots, columns, pad, !blocks.0.is_empty());
            blocks.run(work, slots, columns, down.pad());
            conv = down;
        }
        columns = step_down(conv, work, slots, columns, self.last.pad(), false);
        self.last.history(&mut work.current, slots);
        let width = self.last.outputs();
        let out = grow(out, count * columns * width);
        self.last.run(
            &work.current,
            count,
            Out::raw(out, Rows::packed(columns, width)),
        );
    }
}

/// A convolution from `work.current` to `work.current`, activated and with room for `pad` columns;
/// plain values to `work.skip` if `keep` is set. Returns the number of new columns.
fn step_down(
    conv: &Conv,
    work: &mut SeanetWork,
    slots: &mut [&mut SlotState],
    columns: usize,
    pad: usize,
    keep: bool,
) -> usize {
    let (count, width) = (slots.len(), conv.outputs());
    let columns = columns / conv.stride();
    conv.history(&mut work.current, slots);
    work.next.shape(count, pad, columns, width);
    let raw = keep.then(|| grow(&mut work.skip, count * columns * width));
    conv.run(
        &work.current,
        count,
        Out {
            scale: None,
            residual: Residual::None,
            raw: raw.map(|r| (r, Rows::packed(columns, width))),
            activation: Activation::Elu,
            activated: Some(work.next.target(1)),
        },
    );
    std::mem::swap(&mut work.current, &mut work.next);
    columns
}

/// From latent steps to the waveform.
pub(super) struct SeanetDecoder {
    latent: usize,
    first: Conv,
    stages: Vec<(ConvTranspose, Blocks)>,
    last: Conv,
}

impl SeanetDecoder {
    pub(super) fn load(loader: &mut Loader<'_>, config: &SeanetConfig) -> Result<Self> {
        let mut channels = config.n_filters << config.ratios.len();
        let shape = (config.dimension, channels, config.kernel_size, 1);
        let first = end_conv(loader, "decoder.model.0", config, shape)?;
        let (mut stages, mut index) = (Vec::new(), 1);
        for &ratio in &config.ratios {
            index += 1; // the ELU
            let name = format!("decoder.model.{index}.convtr.convtr");
            let up = ConvTranspose::load(loader, &name, channels, channels / 2, ratio)?;
            index += 1;
            channels /= 2;
            stages.push((
                up,
                Blocks::load(loader, "decoder", &mut index, config, channels)?,
            ));
        }
        let name = format!("decoder.model.{}", index + 1);
        let last = end_conv(
            loader,
            &name,
            config,
            (channels, 1, config.last_kernel_size, 1),
        )?;
        Ok(Self {
            latent: config.dimension,
            first,
            stages,
            last,
        })
    }

    /// `x` is `[slots, steps, dimension]` and becomes `[slots, samples]`.
    pub(super) fn run(
        &self,
        work: &mut SeanetWork,
        slots: &mut [&mut SlotState],
        x: &mut Vec<f32>,
        steps: usize,
    ) {
        let (count, width) = (slots.len(), self.latent);
        work.current.shape(count, self.first.pad(), steps, width);
        work.current.fill(x);
        // Every transposed convolution wants one column of history.
        let mut columns = step_down(&self.first, work, slots, steps, 1, false);
        for (i, (up, blocks)) in self.stages.iter().enumerate() {
            let after = if i + 1 < self.stages.len() {
                1
            } else {
                self.last.pad()
            };
            up.history(&mut work.current, slots);
            let (stride, width) = (up.stride(), up.outputs());
            work.next
                .shape(count, blocks.pad(after), columns * stride, width);
            let keep = !blocks.0.is_empty();
            let raw = keep.then(|| grow(&mut work.skip, count * columns * stride * width));
            up.run(
                &work.current,
                count,
                Out {
                    scale: None,
                    residual: Residual::None,
                    raw: raw.map(|r| (r, Rows::packed(columns, stride * width))),
                    activation: Activation::Elu,
                    activated: Some(work.next.target(stride)),
                },
            );
            std::mem::swap(&mut work.current, &mut work.next);
            columns *= stride;
            blocks.run(work, slots, columns, after);
        }
        self.last.history(&mut work.current, slots);
        let out = grow(x, count * columns);
        self.last.run(
            &work.current,
            count,
            Out::raw(out, Rows::packed(columns, 1)),
        );
    }
}
