//! The convolutional encoder and decoder (docs/spec/mimi.md 2.3 to 2.5).

use candle_core::Tensor;

use super::conv::{Conv, ConvShape, ConvTranspose};
use super::state::{DirectionState, Masks};
use super::weights::Loader;
use crate::codec::config::SeanetConfig;
use crate::error::Result;

/// One step of either chain. Activations have no state and no tensors.
enum Layer {
    Elu,
    Conv(Conv),
    Transpose(ConvTranspose),
    Residual(Residual),
}

/// `skip(x) + conv(elu(conv(elu(x))))`.
struct Residual {
    first: Conv,
    second: Conv,
    /// `None` for the identity.
    shortcut: Option<Conv>,
}

/// Either chain of layers. Positions in it are the indices of the tensors' names.
pub(super) struct Seanet(Vec<Layer>);

impl Seanet {
    /// Waveform `[slots, 1, samples]` to latents `[slots, dimension, samples / hop]`.
    pub(super) fn encoder(loader: &mut Loader<'_>, config: &SeanetConfig) -> Result<Self> {
        let mut chain = Chain {
            side: "encoder",
            loader,
            config,
            layers: Vec::new(),
        };
        let mut width = config.n_filters;
        chain.conv(1, width, config.kernel_size, 1)?;
        for stride in config.ratios.iter().rev() {
            chain.residual(width)?;
            chain.layers.push(Layer::Elu);
            chain.conv(width, 2 * width, 2 * stride, *stride)?;
            width *= 2;
        }
        chain.layers.push(Layer::Elu);
        chain.conv(width, config.dimension, config.last_kernel_size, 1)?;
        Ok(Self(chain.layers))
    }

    /// Latents `[slots, dimension, steps]` to waveform `[slots, 1, steps * hop]`.
    pub(super) fn decoder(loader: &mut Loader<'_>, config: &SeanetConfig) -> Result<Self> {
        let mut chain = Chain {
            side: "decoder",
            loader,
            config,
            layers: Vec::new(),
        };
        let mut width = config.n_filters << config.ratios.len();
        chain.conv(config.dimension, width, config.kernel_size, 1)?;
        for stride in &config.ratios {
            chain.layers.push(Layer::Elu);
            chain.transpose(width, width / 2, *stride)?;
            width /= 2;
            chain.residual(width)?;
        }
        chain.layers.push(Layer::Elu);
        chain.conv(width, 1, config.last_kernel_size, 1)?;
        Ok(Self(chain.layers))
    }

    /// Runs the chain over one piece of signal.
    pub(super) fn run(
        &self,
        x: Tensor,
        state: &mut DirectionState,
        masks: &Masks,
    ) -> Result<Tensor> {
        let mut x = x;
        for layer in &self.0 {
            x = match layer {
                Layer::Elu => x.elu(1.0)?,
                Layer::Conv(conv) => conv.run(&x, state, masks)?,
                Layer::Transpose(conv) => conv.run(&x, state, masks)?,
                Layer::Residual(block) => {
                    let inner = block.first.run(&x.elu(1.0)?, state, masks)?;
                    let inner = block.second.run(&inner.elu(1.0)?, state, masks)?;
                    match &block.shortcut {
                        None => (x + inner)?,
                        Some(shortcut) => (shortcut.run(&x, state, masks)? + inner)?,
                    }
                }
            };
        }
        Ok(x)
    }
}

/// A chain being loaded.
struct Chain<'a, 'b> {
    side: &'static str,
    loader: &'a mut Loader<'b>,
    config: &'a SeanetConfig,
    layers: Vec<Layer>,
}

impl Chain<'_, '_> {
    /// Name of the layer that comes next.
    fn name(&self) -> String {
        format!("{}.model.{}", self.side, self.layers.len())
    }

    fn shape(&self, inputs: usize, outputs: usize, kernel: usize) -> ConvShape {
        let replicate = self.config.replicate_pad;
        ConvShape {
            inputs,
            outputs,
            kernel,
            stride: 1,
            dilation: 1,
            bias: true,
            replicate,
        }
    }

    fn conv(&mut self, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Result<()> {
        let name = format!("{}.conv.conv", self.name());
        let shape = ConvShape {
            stride,
            ..self.shape(inputs, outputs, kernel)
        };
        self.layers
            .push(Layer::Conv(Conv::load(self.loader, &name, shape)?));
        Ok(())
    }

    fn transpose(&mut self, inputs: usize, outputs: usize, stride: usize) -> Result<()> {
        let name = format!("{}.convtr.convtr", self.name());
        let conv = ConvTranspose::load(self.loader, &name, inputs, outputs, stride)?;
        self.layers.push(Layer::Transpose(conv));
        Ok(())
    }

    /// The residual blocks of one stage, with growing dilation.
    fn residual(&mut self, width: usize) -> Result<()> {
        let hidden = width / self.config.compress;
        let mut dilation = 1;
        for _ in 0..self.config.n_residual_layers {
            let name = self.name();
            let kernel = self.config.residual_kernel_size;
            let shape = ConvShape {
                dilation,
                ..self.shape(width, hidden, kernel)
            };
            let first = Conv::load(self.loader, &format!("{name}.block.1.conv.conv"), shape)?;
            let shape = self.shape(hidden, width, 1);
            let second = Conv::load(self.loader, &format!("{name}.block.3.conv.conv"), shape)?;
            let shortcut = if self.config.true_skip {
                None
            } else {
                let shape = self.shape(width, width, 1);
                let name = format!("{name}.shortcut.conv.conv");
                Some(Conv::load(self.loader, &name, shape)?)
            };
            self.layers.push(Layer::Residual(Residual {
                first,
                second,
                shortcut,
            }));
            dilation *= self.config.dilation_base;
        }
        Ok(())
    }
}
