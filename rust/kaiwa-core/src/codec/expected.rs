//! The complete list of tensors a configuration implies, under Kyutai's released names
//! (docs/spec/mimi.md 2.4, 2.5, 6.1).

use super::MimiConfig;
use crate::error::Result;

/// One tensor the model needs.
pub(super) struct Expected {
    /// Released name.
    pub name: String,
    /// Shape under that name.
    pub shape: Vec<usize>,
}

/// Every tensor of the model in a fixed order. `config` must have passed `validate`.
pub(super) fn expected_tensors(config: &MimiConfig) -> Vec<Expected> {
    let mut list = List(Vec::new());
    list.seanet_encoder(config);
    list.seanet_decoder(config);
    for side in ["encoder", "decoder"] {
        list.transformer(side, config);
    }
    let (width, stride) = (config.seanet.dimension, config.steps_per_frame());
    list.push(
        "downsample.conv.conv.conv.weight",
        &[width, width, 2 * stride],
    );
    list.push(
        "upsample.convtr.convtr.convtr.weight",
        &[width, 1, 2 * stride],
    );
    list.quantizer(config);
    list.0
}

impl MimiConfig {
    /// Names (as released, docs/spec/mimi.md 6.1) and shapes of all tensors that a weight file for
    /// this configuration must hold, for programs that make such files.
    ///
    /// # Errors
    /// Those of [`Self::validate`].
    pub fn tensors(&self) -> Result<Vec<(String, Vec<usize>)>> {
        self.validate()?;
        let pair = |t: Expected| (t.name, t.shape);
        Ok(expected_tensors(self).into_iter().map(pair).collect())
    }
}

struct List(Vec<Expected>);

impl List {
    fn push(&mut self, name: impl Into<String>, shape: &[usize]) {
        self.0.push(Expected {
            name: name.into(),
            shape: shape.to_vec(),
        });
    }

    /// A convolution with bias; `name` ends in `conv.conv`.
    fn conv(&mut self, name: String, input: usize, output: usize, kernel: usize) {
        self.push(format!("{name}.weight"), &[output, input, kernel]);
        self.push(format!("{name}.bias"), &[output]);
    }

    /// The residual blocks of one stage; gives the next index in `model`. Indices count the
    /// activations too, which own no tensors.
    fn residual(&mut self, side: &str, first: usize, width: usize, config: &MimiConfig) -> usize {
        let seanet = &config.seanet;
        let hidden = width / seanet.compress;
        for n in first..first + seanet.n_residual_layers {
            let block = format!("{side}.model.{n}");
            let kernel = seanet.residual_kernel_size;
            self.conv(format!("{block}.block.1.conv.conv"), width, hidden, kernel);
            self.conv(format!("{block}.block.3.conv.conv"), hidden, width, 1);
            if !seanet.true_skip {
                self.conv(format!("{block}.shortcut.conv.conv"), width, width, 1);
            }
        }
        first + seanet.n_residual_layers
    }

    fn seanet_encoder(&mut self, config: &MimiConfig) {
        let seanet = &config.seanet;
        let mut width = seanet.n_filters;
        self.conv(
            "encoder.model.0.conv.conv".into(),
            1,
            width,
            seanet.kernel_size,
        );
        let mut n = 1;
        for stride in seanet.ratios.iter().rev() {
            n = self.residual("encoder", n, width, config);
            let name = format!("encoder.model.{}.conv.conv", n + 1);
            self.conv(name, width, 2 * width, 2 * stride);
            width *= 2;
            n += 2;
        }
        let name = format!("encoder.model.{}.conv.conv", n + 1);
        self.conv(name, width, seanet.dimension, seanet.last_kernel_size);
    }

    fn seanet_decoder(&mut self, config: &MimiConfig) {
        let seanet = &config.seanet;
        let mut width = seanet.n_filters << seanet.ratios.len();
        let name = "decoder.model.0.conv.conv".into();
        self.conv(name, seanet.dimension, width, seanet.kernel_size);
        let mut n = 1;
        for stride in &seanet.ratios {
            let name = format!("decoder.model.{}.convtr.convtr", n + 1);
            self.push(format!("{name}.weight"), &[width, width / 2, 2 * stride]);
            self.push(format!("{name}.bias"), &[width / 2]);
            width /= 2;
            n = self.residual("decoder", n + 2, width, config);
        }
        let name = format!("decoder.model.{}.conv.conv", n + 1);
        self.conv(name, width, 1, seanet.last_kernel_size);
    }

    fn transformer(&mut self, side: &str, config: &MimiConfig) {
        let t = &config.transformer;
        let (d, hidden) = (t.d_model, t.dim_feedforward);
        if t.has_io_proj() {
            let prefix = format!("{side}_transformer");
            self.push(format!("{prefix}.input_proj.weight"), &[d, t.io_dimension]);
            self.push(
                format!("{prefix}.output_projs.0.weight"),
                &[t.io_dimension, d],
            );
        }
        for l in 0..t.num_layers {
            let layer = format!("{side}_transformer.transformer.layers.{l}");
            for norm in ["norm1", "norm2"] {
                self.push(format!("{layer}.{norm}.weight"), &[d]);
                self.push(format!("{layer}.{norm}.bias"), &[d]);
            }
            self.push(format!("{layer}.self_attn.in_proj_weight"), &[3 * d, d]);
            self.push(format!("{layer}.self_attn.out_proj.weight"), &[d, d]);
            self.push(format!("{layer}.linear1.weight"), &[hidden, d]);
            self.push(format!("{layer}.linear2.weight"), &[d, hidden]);
            if t.layer_scale {
                self.push(format!("{layer}.layer_scale_1.scale"), &[d]);
                self.push(format!("{layer}.layer_scale_2.scale"), &[d]);
            }
        }
    }

    fn quantizer(&mut self, config: &MimiConfig) {
        let q = &config.quantizer;
        let width = config.seanet.dimension;
        for (group, count) in [("rvq_first", 1), ("rvq_rest", q.n_q - 1)] {
            // The projections of the second group exist even if it has no codebooks.
            let group = format!("quantizer.{group}");
            self.push(
                format!("{group}.input_proj.weight"),
                &[q.dimension, width, 1],
            );
            self.push(
                format!("{group}.output_proj.weight"),
                &[width, q.dimension, 1],
            );
            for n in 0..count {
                let book = format!("{group}.vq.layers.{n}._codebook");
                self.push(format!("{book}.cluster_usage"), &[q.bins]);
                self.push(format!("{book}.embedding_sum"), &[q.bins, q.dimension]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_released_model_has_the_published_size() {
        let list = expected_tensors(&MimiConfig::default());
        // 318 tensors of 96,151,393 elements with the 32 training flags of one element each.
        assert_eq!(list.len(), 318 - 32);
        let elements: usize = list.iter().map(|t| t.shape.iter().product::<usize>()).sum();
        assert_eq!(elements, 96_151_393 - 32);
    }
}
