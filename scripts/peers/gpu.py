"""torch and PEFT on the GPU at the shapes of benches/cuda: frozen linear, PEFT eager and compiled, forward and
forward + backward; a large product and a large copy first; then a training step of the same Llama, with transformers.
Random numbers everywhere: zeros take less power.

usage: gpu.py [--test]        needs torch with CUDA; peft and transformers if they are there; --test: tiny shapes
"""
import sys
import time

try:
    import torch
except ImportError:
    sys.exit("torch is not installed")
if not torch.cuda.is_available():
    sys.exit("torch sees no GPU")
TINY = "--test" in sys.argv
SIDE, COPY = (256, 1 << 16) if TINY else (8192, 1 << 28)
SHAPES = [(64, 64, 128, 4)] if TINY else [
    (8192, 4096, 4096, 16), (8192, 4096, 11008, 64), (8192, 8192, 8192, 16), (2048, 8192, 8192, 16),
    (16, 4096, 4096, 16), (1, 4096, 14336, 64)]
torch.backends.cuda.matmul.allow_tf32 = False


def seconds(f, turns=10):
    """The GPU's time, between two events behind work that keeps it busy until the host has put all on the stream."""
    f(), f()
    torch.cuda.synchronize()
    best = float("inf")
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(5):
        torch.cuda._sleep(20_000_000)
        start.record()
        for _ in range(turns):
            f()
        end.record()
        end.synchronize()
        best = min(best, start.elapsed_time(end) / 1e3 / turns)
    return best


def wall(f, turns=10):
    """The clock's time: of a training step the host is a part."""
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
    a, b = rand(SIDE, SIDE, dtype=dtype), rand(SIDE, SIDE, dtype=dtype)
    print(f"product {SIDE}^3 {dtype}: {2 * SIDE**3 / seconds(lambda: a @ b) / 1e12:.2f} TFLOP/s")
x = torch.rand(COPY, device="cuda")
y = torch.empty_like(x)
print(f"copy of {COPY >> 8} KiB: {8 * COPY / seconds(lambda: y.copy_(x)) / 1e9:.1f} GB/s")
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


def llama(compiled):
    """Tokens per second of a step like `steps` of benches/cuda/llama.rs: base and activations bf16, adapters f32."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, inner, layers, heads, kv, vocab, batch, length = (
        (32, 40, 1, 2, 1, 64, 1, 8) if TINY else (2048, 5632, 8, 32, 4, 32000, 4, 1024))
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(
            hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv, vocab_size=vocab, max_position_embeddings=length, attn_implementation="sdpa",
            use_cache=False)).to(torch.bfloat16)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, fused=True)
    ids = torch.randint(0, vocab, (batch, length), device="cuda")
    run = torch.compile(model) if compiled else model

    def step():
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    t = wall(step)
    peak = torch.cuda.max_memory_allocated() / 2**20
    name = "peft compiled" if compiled else "peft"
    print(f"training step, {name}: {batch * length / t:.0f} tokens/s, {t * 1e3:.2f} ms a step, peak {peak:.0f} MiB")


for compiled in (False, True):
    torch.cuda.reset_peak_memory_stats()
    try:
        llama(compiled)
    except Exception as e:
        print(f"training step{', compiled' if compiled else ''}: {(str(e).splitlines() or [repr(e)])[0]}")
