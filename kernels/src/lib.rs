//! The CUDA kernels of lowrank as PTX text: an index, nothing else.
//!
//! Sources are `cu/*.cu`, CUDA C++ without CUDA headers; `build.sh` compiles them to `ptx/*.ptx`, which are committed
//! with the hash of their source, so that users need a driver and no toolkit.

pub mod attention;
pub mod decode;
pub mod gemm;
pub mod hopper;
pub mod launch;
pub mod lora;

/// A file of kernels, ready for the driver.
#[derive(Clone, Copy, Debug)]
pub struct Module {
    /// As its file is called, without the ending.
    pub name: &'static str,
    /// PTX.
    pub ptx: &'static str,
}

impl Module {
    /// The file of this name.
    pub fn named(name: &str) -> Option<&'static Module> {
        ALL.iter().find(|module| module.name == name)
    }
}

macro_rules! modules {
    ($($(#[$doc:meta])* $id:ident = $name:literal;)*) => {
        $(
            $(#[$doc])*
            pub const $id: Module = Module { name: $name, ptx: include_str!(concat!("../ptx/", $name, ".ptx")) };
        )*
        /// Every file.
        pub const ALL: &[Module] = &[$($id),*];
    };
}

modules! {
    /// Attention forward and backward in f32.
    ATTENTION = "attention";
    /// What its gradients subtract: gy · y.
    ATTENTION_DELTA = "attention_delta";
    /// Attention on tensor cores with operands in bf16 and probabilities rounded to it, heads of up to 64 elements.
    ATTENTION_TC_64 = "attention_tc_64";
    /// Heads of up to 128.
    ATTENTION_TC_128 = "attention_tc_128";
    /// The same with f32 operands that are rounded, heads of up to 64 elements.
    ATTENTION_TC_F32_64 = "attention_tc_f32_64";
    /// Heads of up to 128.
    ATTENTION_TC_F32_128 = "attention_tc_f32_128";
    /// The same with operands in bf16 and nothing rounded, heads of up to 64 elements.
    ATTENTION_TC_FULL_64 = "attention_tc_full_64";
    /// Heads of up to 128.
    ATTENTION_TC_FULL_128 = "attention_tc_full_128";
    /// Operands rounded to bf16 for Hopper's kernels.
    BF16_ROWS = "bf16_rows";
    /// Strided copies and constants.
    COPY = "copy";
    /// The mask of Philox.
    DROPOUT = "dropout";
    /// Matrix products on FMA units, with a low-rank tail.
    GEMM = "gemm";
    /// Matrix products on tensor cores, with a low-rank tail: operands rounded to bf16.
    GEMM_TC_BF16 = "gemm_tc_bf16";
    /// Operands that are bf16 already.
    GEMM_TC_BF16_BF16 = "gemm_tc_bf16_bf16";
    /// Operands as the sum of two bf16.
    GEMM_TC_BF16X3 = "gemm_tc_bf16x3";
    /// Operands that are f16 already.
    GEMM_TC_F16_F16 = "gemm_tc_f16_f16";
    /// Operands rounded to tf32.
    GEMM_TC_TF32 = "gemm_tc_tf32";
    /// The rank-r sums of the low-rank linear and its gradients.
    LORA = "lora";
    /// The same on tensor cores, ranks up to 16.
    LORA_TC_16 = "lora_tc_16";
    /// Ranks up to 32.
    LORA_TC_32 = "lora_tc_32";
    /// Ranks up to 64.
    LORA_TC_64 = "lora_tc_64";
    /// Ranks up to 128.
    LORA_TC_128 = "lora_tc_128";
    /// The linear layer of a few rows.
    DECODE = "decode";
    /// The low-rank linear's forward pass for Hopper.
    LORA_FORWARD_SM90A = "lora_forward.sm90a";
    /// Its gradient by x.
    LORA_BACKWARD_SM90A = "lora_backward.sm90a";
    /// Functions of one operand, and casts.
    MAP = "map";
    /// Permutations, rows by index, and their gradients.
    MOVING = "moving";
    /// RMSNorm and LayerNorm.
    NORM = "norm";
    /// Gradient norm, AdamW and SGD over many tensors.
    OPTIM = "optim";
    /// Sums and maxima.
    REDUCE = "reduce";
    /// Rotary positions and the gated unit.
    SEQUENCE = "sequence";
    /// Softmax and cross entropy.
    SOFTMAX = "softmax";
    /// Functions of two operands, with broadcasting.
    ZIP = "zip";
}
