"""What PEFT leaves of an adapter whose init splits the base, and what it computes.

usage: make_residual.py MODEL_DIR OUT_DIR [INIT]      (INIT: pissa, olora, corda-ipm, corda-kpm, lora_ga)
needs: torch transformers peft safetensors  (CPU is enough)

OUT_DIR gets
  trained/  the adapter over the residual base, A and B moved away from their start
  start/    the adapter before that, saved as PEFT's documentation does for path_initial_model_for_weight_conversion
  golden.safetensors   input_ids [1,8] i64 · logits [1,8,V] of the residual base with the trained adapter
All in f32. corda and lora_ga look at 4 windows of 32 random tokens first. loftq is not here: PEFT needs bitsandbytes for it, and its
residual base is a quantised one, which no low-rank adapter makes up for: converting it is refused by name.
"""
import sys
import torch, transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

src, out = sys.argv[1:3]
init = sys.argv[3] if len(sys.argv) > 3 else "pissa"
torch.manual_seed(0)
model = transformers.AutoModelForCausalLM.from_pretrained(src, dtype=torch.float32)
name, _, variant = init.partition("-")
config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], init_lora_weights=name, task_type="CAUSAL_LM")
if name == "corda":
    from peft.tuners.lora.config import CordaConfig
    from peft.tuners.lora.corda import preprocess_corda
    config.corda_config = CordaConfig(corda_method=variant)
    windows = torch.randint(3, 900, (4, 32))
    preprocess_corda(model, config, run_model=lambda: [model(input_ids=w[None]) for w in windows])
if name == "lora_ga":
    from peft.tuners.lora.config import LoraGAConfig
    from peft.tuners.lora.loraga import preprocess_loraga
    config.lora_ga_config = LoraGAConfig()
    windows = torch.randint(3, 900, (4, 32))
    preprocess_loraga(model, config, lambda: [model(input_ids=w[None], labels=w[None]).loss.backward() for w in windows])
model = get_peft_model(model, config)
saved = model.peft_config["default"]
saved.base_model_name_or_path = None
saved.init_lora_weights = True
model.save_pretrained(f"{out}/start")
saved.init_lora_weights = name
with torch.no_grad():
    for parameter, p in model.named_parameters():
        if "lora_" in parameter:
            p.add_(0.02 * torch.randn_like(p))
model.save_pretrained(f"{out}/trained")
ids = torch.randint(3, 900, (1, 8))
logits = model(input_ids=ids).logits.detach()
save_file({"input_ids": ids, "logits": logits.contiguous()}, f"{out}/golden.safetensors")
