"""Golden values from PEFT on tiny random models of other architectures and with other adapter options.

usage: make_tiny.py OUT_DIR        needs: torch transformers peft safetensors (CPU is enough)

For each case below OUT_DIR/<case>/ gets config.json and model.safetensors (the base, as transformers saves it), adapter_config.json
and adapter_model.safetensors (as PEFT saves it; everything trainable is random, not zero), and golden.safetensors with input_ids
[2,24], logits, loss [1], grad.<parameter> for everything trainable, merged_logits, losses [6] and after.<parameter> of five AdamW
steps (lr 1e-3, betas .9/.999, eps 1e-8, weight decay .01). All in f32.
"""
import os, shutil, sys
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2)
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
CASES = {
    "qwen2-bias-all": (Qwen2Config(**SIZES, tie_word_embeddings=False),
        dict(r=5, lora_alpha=7, target_modules="all-linear", bias="all", exclude_modules=["o_proj"])),
    "llama3-head-saved-norm": (LlamaConfig(**SIZES, rope_parameters=LLAMA3, tie_word_embeddings=False),
        dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "lm_head"], modules_to_save=["norm"],
             layers_to_transform=None)),
    "mistral-regex-layers": (MistralConfig(**SIZES, head_dim=16, sliding_window=None, tie_word_embeddings=False),
        dict(r=4, lora_alpha=8, target_modules=["k_proj", "gate_proj", "down_proj"], layers_to_transform=[0, 2],
             layers_pattern="layers", rank_pattern={"layers.0.mlp.gate_proj": 9}, alpha_pattern={"down_proj": 3})),
    "llama-bias-lora-only": (LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
        dict(r=40, lora_alpha=16, target_modules=r".*\.[12]\.self_attn\.(q|o)_proj", bias="lora_only")),
    "embedding-saved": (LlamaConfig(**SIZES, tie_word_embeddings=False),
        dict(r=4, lora_alpha=8, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"])),
}


def make(out, config, lora):
    torch.manual_seed(0)
    torch.set_num_threads(2)
    shutil.rmtree(out, ignore_errors=True)
    os.makedirs(out)
    base = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():  # larger than the usual init, so that logits differ visibly; norms and biases not trivial
        for n, p in base.named_parameters():
            p.copy_(1 + 0.2 * torch.randn_like(p) if "norm" in n else torch.randn_like(p) * (0.1 if p.dim() == 1 else 0.2))
    base.save_pretrained(out)
    ids = torch.randint(3, config.vocab_size, (2, 24))
    model = get_peft_model(base, LoraConfig(**lora))
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.05) if "lora_" not in n else p.copy_(torch.randn_like(p) * 0.2)
    model.train()
    model.save_pretrained(out)

    def loss_of():
        logits = model(input_ids=ids).logits
        return logits, torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))

    logits, loss = loss_of()
    loss.backward()
    named = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    gold = {"input_ids": ids, "logits": logits.detach(), "loss": loss.detach().reshape(1)}
    gold |= {f"grad.{n}": p.grad.clone() for n, p in named.items()}
    opt = torch.optim.AdamW(list(named.values()), lr=1e-3, weight_decay=0.01)
    losses = []
    for _ in range(5):
        opt.zero_grad()
        _, l = loss_of()
        losses.append(l.item())
        l.backward()
        opt.step()
    gold["losses"] = torch.tensor(losses + [loss_of()[1].item()])
    gold |= {f"after.{n}": p.detach().clone() for n, p in named.items()}
    with torch.no_grad():
        merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(out).float(), out).merge_and_unload()
        gold["merged_logits"] = merged(input_ids=ids).logits
    save_file({k: v.contiguous() for k, v in gold.items()}, f"{out}/golden.safetensors")
    for extra in ("README.md", "generation_config.json"):
        if os.path.exists(f"{out}/{extra}"):
            os.remove(f"{out}/{extra}")
    print(out, "loss", round(loss.item(), 4), "merged diff", (gold["merged_logits"] - gold["logits"]).abs().max().item(),
          "trainable", len(named))


for name, (config, lora) in CASES.items():
    make(f"{sys.argv[1]}/{name}", config, lora)
