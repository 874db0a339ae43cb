"""LoRA-GA after the paper's text and the authors' conventions, in torch: an implementation that shares nothing with lowrank.

usage: make_lora_ga.py MODEL_DIR OUT_DIR        needs: torch transformers safetensors numpy (CPU is enough)

OUT_DIR/planted.safetensors: for every case of `cases()` <i>.G [n,k] (f32), <i>.W [n,k] where the scale or the clip looks at the weight, and
<i>.A [r,k], <i>.B [n,r] from the exact SVD of G in f64; its metadata has <i> → JSON of the settings, with
  gap: how far apart the singular values at the cuts are (0: A and B are not determined, only what they reach is)
  slack: ‖AᵀA − AᵀA‖ + ‖BBᵀ − BBᵀ‖, relative, between the exact SVD and the authors' svd_lowrank(q = min(4r, n, k), niter = 4)
  best: relative error of the best matrix of rank 2r;  rank: that of G.
OUT_DIR/model.safetensors: input_ids [4,25] i64 (4 micro-batches of one example) and <layer>.A, .B for the gradient of the sum of their mean
losses on MODEL_DIR: r = 4, α = 8, ArB2r, stable, γ = 16; the metadata has <layer> → slack.
"""
import json, os, sys
import torch
from safetensors.torch import save_file


def directions(u, v, r, direction, generator):
    """u [n,2r], v [k,2r] → A [r,k], B [n,r] of unit vectors."""
    if direction == "ArB2r":
        of_a, of_b = list(range(r)), list(range(r, 2 * r))
    elif direction == "A2rBr":
        of_a, of_b = list(range(r, 2 * r)), list(range(r))
    elif direction == "ArBr":
        of_a, of_b = list(range(1, 2 * r, 2)), list(range(0, 2 * r, 2))
    else:
        order = torch.randperm(2 * r, generator=generator).tolist()
        of_a, of_b = order[:r], order[r:]
    return v[:, of_a].T, u[:, of_b]


def lora_ga(g, w, r, s, direction, scale, gamma, clip, generator, exact):
    g, w = g.double(), w.double()
    if exact:
        u, _, vh = torch.linalg.svd(g, full_matrices=False)
        v = vh.T
    else:
        u, _, v = torch.svd_lowrank(g, q=min(4 * r, *g.shape), niter=4)
    a, b = directions(u[:, :2 * r], v[:, :2 * r], r, direction, generator)
    if scale == "stable":
        a, b = (x * g.shape[0] ** 0.25 / gamma ** 0.5 for x in (a, b))
    elif scale == "gd":
        a, b = a / s, b / s
    elif scale == "weight_svd":
        values = torch.linalg.svdvals(w) if exact else torch.svd_lowrank(w, q=min(4 * r, *w.shape), niter=4)[1]
        length = torch.sqrt(values[:r] / s).mean()
        a, b = a * length, b * length
    if clip:
        ratio = w.abs().max() / (s * b @ a).abs().max()
        if ratio < 1:
            a, b = a * ratio ** 0.5, b * ratio ** 0.5
    return a, b


def slack(a, b, a2, b2):
    distance = lambda x, y: ((x - y).norm() / x.norm()).item()
    return distance(a.T @ a, a2.T @ a2) + distance(b @ b.T, b2 @ b2.T)


def cases():
    shapes = [(24, 40), (40, 24), (33, 33), (17, 50), (48, 20)]
    spectra = {
        "harmonic": lambda i, r: 1 / i,
        "root": lambda i, r: i ** -0.5,
        "geometric": lambda i, r: 0.7 ** i,
        # Equal ones, r at a time: A's and B's spaces are determined, their vectors are not.
        "groups": lambda i, r: 4.0 ** -((i - 1) // r),
        # All equal up to rank 2r exactly: only A's and B's part together is.
        "flat": lambda i, r: 1.0 if i <= 2 * r else 0.0,
        # More than 2r and less than 4r.
        "deficient": lambda i, r: 1 / i if i <= 3 * r else 0.0,
        # Less than 2r: vectors of nothing, which lowrank refuses to use.
        "too-deficient": lambda i, r: 1 / i if i <= 2 * r - 1 else 0.0,
    }
    modes = [("ArB2r", "stable"), ("A2rBr", "unit"), ("ArBr", "gd"), ("random", "weight_svd"), ("ArB2r", "weight_svd"), ("A2rBr", "stable"),
             ("random", "stable"), ("ArBr", "weight_svd"), ("ArB2r", "gd"), ("random", "unit")]
    number = 0
    for i, name in enumerate(spectra):
        for j in range(3):
            n, k = shapes[(i + 2 * j) % len(shapes)]
            direction, scale = modes[(3 * i + j) % len(modes)]
            if name == "groups" and direction == "ArBr":
                direction = "ArB2r"  # odd and even ones of a group are not told apart
            r = [2, 3, 1][j] if name != "groups" else [2, 3, 4][j]
            yield dict(number=number, spectrum=name, n=n, k=k, r=r, s=[2.0, 0.5, 4.0][(i + j) % 3], direction=direction, scale=scale,
                       gamma=[16.0, 64.0][(i + j) % 2], clip=False), [spectra[name](m, r) for m in range(1, min(n, k) + 1)]
            number += 1
    # max|sBA| depends on the signs of singular vectors from r = 2 on.
    yield dict(number=number, spectrum="harmonic", n=24, k=40, r=1, s=3.0, direction="ArB2r", scale="stable", gamma=16.0, clip=True), \
        [1 / m for m in range(1, 25)]


def planted(out):
    tensors, settings = {}, {}
    for case, spectrum in cases():
        number, n, k, r = case["number"], case["n"], case["k"], case["r"]
        generator = torch.Generator().manual_seed(number)
        basis = lambda rows: torch.linalg.qr(torch.randn(rows, len(spectrum), generator=generator, dtype=torch.float64))[0]
        g = (basis(n) * torch.tensor(spectrum, dtype=torch.float64) @ basis(k).T).float()
        w = (torch.randn(n, k, generator=generator) * 0.02).float()
        options = [case[x] for x in ("r", "s", "direction", "scale", "gamma", "clip")]
        draw = lambda: torch.Generator().manual_seed(100 + number)
        a, b = lora_ga(g, w, *options, draw(), True)
        torch.manual_seed(number)
        a2, b2 = lora_ga(g, w, *options, draw(), False)
        case["slack"] = slack(a, b, a2, b2)
        total = sum(x * x for x in spectrum)
        case["best"] = (sum(x * x for x in spectrum[2 * r:]) / total) ** 0.5
        case["rank"] = sum(x > 0 for x in spectrum)
        sides = spectrum + [0.0]
        cuts = range(1, 2 * r + 1) if case["direction"] in ("ArBr", "random") else (r, 2 * r)
        case["gap"] = min((sides[c - 1] - sides[c]) / spectrum[0] for c in cuts)
        tensors |= {f"{number}.G": g, f"{number}.A": a.float(), f"{number}.B": b.float()}
        if case["scale"] == "weight_svd" or case["clip"]:
            tensors[f"{number}.W"] = w
        settings[str(number)] = json.dumps(case)
        print(case)
    save_file({name: t.contiguous() for name, t in tensors.items()}, f"{out}/planted.safetensors", metadata=settings)


def model(src, out):
    import transformers
    torch.manual_seed(0)
    net = transformers.AutoModelForCausalLM.from_pretrained(src, dtype=torch.float32).double()
    ids = torch.randint(3, 900, (4, 25))
    layers = {n: dict(net.named_modules())[n] for n in ("model.layers.1.self_attn.q_proj", "model.layers.2.mlp.down_proj")}
    tensors = {"input_ids": ids}
    for row in ids:
        logits = net(input_ids=row[None, :-1]).logits[0]
        torch.nn.functional.cross_entropy(logits, row[1:]).backward()
    settings = {}
    for name, layer in layers.items():
        run = lambda exact: lora_ga(layer.weight.grad, layer.weight.detach(), 4, 2.0, "ArB2r", "stable", 16.0, False, None, exact)
        a, b = run(True)
        tensors |= {f"{name}.A": a.float().contiguous(), f"{name}.B": b.float().contiguous()}
        settings[name] = str(slack(a, b, *run(False)))
    print(settings)
    save_file(tensors, f"{out}/model.safetensors", metadata=settings)


if __name__ == "__main__":
    os.makedirs(sys.argv[2], exist_ok=True)
    planted(sys.argv[2])
    model(sys.argv[1], sys.argv[2])
