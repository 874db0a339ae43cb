"""PEFT's lora.Linear on the CPU: forward + backward (dx, dA, dB; W frozen), or the forward alone; and the frozen linear.

usage: linear.py linear|decode M K N R f32|bf16        (bf16: W, A, B and x in bf16)
Prints one line of medians: milliseconds by the clock and of processor time. OMP_NUM_THREADS sets the threads.
"""
import os
import statistics
import sys
import time
import warnings

import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as LoraLinear

warnings.filterwarnings("ignore")
what, (m, k, n, r), mode = sys.argv[1], map(int, sys.argv[2:6]), sys.argv[6]
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
torch.manual_seed(0)
dtype = torch.bfloat16 if mode == "bf16" else torch.float32
base = torch.nn.Linear(k, n, bias=False, dtype=dtype)
config = LoraConfig(r=r, lora_alpha=2 * r, lora_dropout=0.0, target_modules=["x"])
try:
    layer = LoraLinear(base, "default", config, r=r, lora_alpha=2 * r)
except TypeError:
    layer = LoraLinear(base, "default", r=r, lora_alpha=2 * r, lora_dropout=0.0)
a, b = layer.lora_A["default"].to(dtype), layer.lora_B["default"].to(dtype)
for p in layer.parameters():
    p.requires_grad_(False)
with torch.no_grad():
    b.weight.copy_(torch.rand(n, r) - 0.5)
a.weight.requires_grad_(True)
b.weight.requires_grad_(True)
x = (torch.rand(m, k) - 0.5).to(dtype).requires_grad_(True)
gy = (torch.rand(m, n) - 0.5).to(dtype)


def run(f):
    if what == "decode":
        with torch.no_grad():
            return f(x)
    f(x).backward(gy)
    x.grad = a.weight.grad = b.weight.grad = None


times = {"peft": [], "frozen": []}
start = time.perf_counter()
while len(times["peft"]) < 6 or time.perf_counter() - start < 1.0 and len(times["peft"]) < 200:
    for name, f in (("peft", layer), ("frozen", base)):
        clock, processor = time.perf_counter(), time.process_time()
        run(f)
        times[name].append((time.perf_counter() - clock, time.process_time() - processor))
med = {name: [statistics.median(t[i] for t in all_[1:]) * 1e3 for i in (0, 1)] for name, all_ in times.items()}
print(f"peft\t{what}\t{mode}\t{m}x{k}x{n}r{r}\tms {med['peft'][0]:.3f}\tprocessor_ms {med['peft'][1]:.3f}"
      f"\tfrozen_ms {med['frozen'][0]:.3f}\tfrozen_processor_ms {med['frozen'][1]:.3f}")
