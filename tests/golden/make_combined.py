"""Weighted combinations of three adapters by PEFT's add_weighted_adapter.

usage: make_combined.py OUT.safetensors        needs: torch peft safetensors (CPU is enough)

Layers l0 [12,10] and l1 [9,14]; adapters first, second, third of rank 4 with α 8, 6 (rsLoRA) and 2, weights 0.7, −1.3 and 0.4, density 0.5.
OUT has <adapter>.<layer>.A [r,k] and .B [n,r]; <method>.<layer>.A and .B of the results of linear, cat, ties, dare_linear and dare_ties,
and svd.<layer>.delta [n,k] of rank 4; and, for the two that drop elements at random, what was drawn:
<method>.<layer>.<adapter>.A.kept and .B.kept, 1 or 0 an element. All in f32.
"""
import sys
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.l0 = torch.nn.Linear(10, 12, bias=False)
        self.l1 = torch.nn.Linear(14, 9, bias=False)


torch.manual_seed(0)
settings = {"first": dict(lora_alpha=8), "second": dict(lora_alpha=6, use_rslora=True), "third": dict(lora_alpha=2)}
weights, density = [0.7, -1.3, 0.4], 0.5
model = None
for name, setting in settings.items():
    config = LoraConfig(r=4, target_modules=["l0", "l1"], **setting)
    if model is None:
        model = get_peft_model(Layers(), config, adapter_name=name)
    else:
        model.add_adapter(name, config)
layers = {n: getattr(model.base_model.model, n) for n in ("l0", "l1")}
out = {}
with torch.no_grad():
    for layer, module in layers.items():
        for name in settings:
            for part, which in (("A", module.lora_A), ("B", module.lora_B)):
                which[name].weight.normal_()
                out[f"{name}.{layer}.{part}"] = which[name].weight.clone()
draw, drawn = torch.bernoulli, []


def recorded(p):
    drawn.append(draw(p))
    return drawn[-1]


torch.bernoulli = recorded
for method in ("linear", "cat", "ties", "dare_linear", "dare_ties", "svd"):
    drawn.clear()
    model.add_weighted_adapter(list(settings), weights, method, combination_type=method, density=density,
                               svd_rank=4 if method == "svd" else None)
    masks = iter(drawn)  # layer by layer, A of every adapter before B of every adapter
    for layer, module in layers.items():
        a, b = module.lora_A[method].weight.detach(), module.lora_B[method].weight.detach()
        if method == "svd":
            out[f"svd.{layer}.delta"] = b @ a * module.scaling[method]
            continue
        assert module.scaling[method] == 1
        out[f"{method}.{layer}.A"], out[f"{method}.{layer}.B"] = a.clone(), b.clone()
        if method.startswith("dare"):
            for part in ("A", "B"):
                for name in settings:
                    out[f"{method}.{layer}.{name}.{part}.kept"] = next(masks)
save_file({k: v.contiguous() for k, v in out.items()}, sys.argv[1])
