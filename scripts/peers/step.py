"""transformers + PEFT on the CPU: one training step of the Llama-shaped model that `cargo bench --bench cpu -- step` has.

usage: step.py f32|bf16          (bf16: base weights and activations; adapters stay f32 under autocast, PEFT's default)
Forward, cross entropy, backward, AdamW on the adapters. One line of medians over 7 steps.
"""
import contextlib
import os
import resource
import statistics
import sys
import time
import warnings

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

warnings.filterwarnings("ignore")
mode = sys.argv[1]
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
torch.manual_seed(0)
batch, length, vocab = 4, 256, 32000
model = LlamaForCausalLM(LlamaConfig(
    hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=8, intermediate_size=1376,
    vocab_size=vocab, max_position_embeddings=2048, attn_implementation="sdpa", use_cache=False))
if mode == "bf16":
    model = model.to(torch.bfloat16)
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, task_type="CAUSAL_LM",
                                         target_modules=["q_proj", "k_proj", "v_proj", "o_proj"]))
with torch.no_grad():  # B = 0 would leave dA = 0
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.normal_(0, 0.01)
model.train()
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
ids = torch.randint(0, vocab, (batch, length))
autocast = (lambda: torch.autocast("cpu", dtype=torch.bfloat16)) if mode == "bf16" else contextlib.nullcontext
times = []
for _ in range(9):
    clock, processor = time.perf_counter(), time.process_time()
    with autocast():
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    times.append((time.perf_counter() - clock, time.process_time() - processor))
clock, processor = (statistics.median(t[i] for t in times[2:]) for i in (0, 1))
print(f"peft\tstep\t{mode}\tms {clock * 1e3:.1f}\tprocessor_ms {processor * 1e3:.1f}\ttokens/s {batch * length / clock:.0f}"
      f"\tpeak_RSS_MiB {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}")
