"""torch and PEFT on the GPU at the shapes of benches/cuda.rs: frozen linear, PEFT eager and compiled, forward and
forward + backward; a large product and a large copy first. Random numbers everywhere: zeros take less power.

usage: gpu.py        needs torch with CUDA; peft if it is there
"""
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("torch is not installed")
if not torch.cuda.is_available():
    sys.exit("torch sees no GPU")
SHAPES = [(8192, 4096, 4096, 16), (8192, 4096, 11008, 64), (2048, 8192, 8192, 16), (16, 4096, 4096, 16),
          (1, 4096, 14336, 64)]
torch.backends.cuda.matmul.allow_tf32 = False


def seconds(f, turns=10):
    f(), f()
    torch.cuda.synchronize()
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for _ in range(turns):
            f()
        torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / turns)
    return best


def rand(*shape, dtype):
    return (torch.rand(*shape, device="cuda") * 2 - 1).to(dtype)


def lora(k, n, r, dtype):
    from peft import LoraConfig, get_peft_model

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = torch.nn.Linear(k, n, bias=False, dtype=dtype, device="cuda")

        def forward(self, x):
            return self.proj(x)

    net = get_peft_model(Net(), LoraConfig(r=r, lora_alpha=2 * r, target_modules=["proj"]), autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.rand_like(p) - 0.5)
    return net


print(torch.cuda.get_device_name(), "torch", torch.__version__)
for dtype in (torch.bfloat16, torch.float32):
    a, b = rand(8192, 8192, dtype=dtype), rand(8192, 8192, dtype=dtype)
    print(f"product 8192^3 {dtype}: {2 * 8192**3 / seconds(lambda: a @ b) / 1e12:.2f} TFLOP/s")
x = torch.rand(1 << 28, device="cuda")
y = torch.empty_like(x)
print(f"copy of 1 GiB: {8 * (1 << 28) / seconds(lambda: y.copy_(x)) / 1e9:.1f} GB/s")
print(f"{'m k n r':<22} {'dtype':<9} {'what':<24} {'ms':>10} {'TFLOP/s':>9}")
for m, k, n, r in SHAPES:
    for dtype in (torch.float32, torch.bfloat16):
        candidates = {"frozen": torch.nn.Linear(k, n, bias=False, dtype=dtype, device="cuda").requires_grad_(False)}
        try:
            candidates["peft"] = lora(k, n, r, dtype)
            candidates["peft compiled"] = torch.compile(candidates["peft"])
        except ImportError:
            pass
        x, gy = rand(m, k, dtype=dtype).requires_grad_(True), rand(m, n, dtype=dtype)
        for name, f in candidates.items():
            for backward in (False, True):
                def run():
                    if not backward:
                        with torch.no_grad():
                            return f(x)
                    x.grad = None
                    for p in f.parameters():
                        p.grad = None
                    f(x).backward(gy)

                try:
                    t = seconds(run)
                except Exception as e:
                    print(f"{m} {k} {n} {r} {name}: {str(e).splitlines()[0]}")
                    continue
                branch = 0 if name == "frozen" else m * r * (n + k) * (6 if backward else 2)
                flops = (2 if backward else 1) * 2 * m * n * k + branch
                what = f"{name} {'f+b' if backward else 'f'}"
                print(f"{f'{m} {k} {n} {r}':<22} {str(dtype)[6:]:<9} {what:<24} {t * 1e3:>10.4f} {flops / t / 1e12:>9.2f}")
