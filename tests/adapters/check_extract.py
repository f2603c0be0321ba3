#!/usr/bin/env python3
"""Proves that the real PEFT and mlx-lm load what tenon extract writes, and that it keeps what can be kept.

usage: check_extract.py TENON FOLDER

TENON is the command, FOLDER holds the unpacked archives peft and mlx_adapters (the build unpacks them into
tests/cases). For each row a model is fine-tuned by force: random changes of low or of full rank, of the weights whose names
match, by torch or by mlx. tenon extracts the change; the library loads the adapter onto the base, without a missing or an
unexpected tensor; its logits are those of the tuned model, as near as what is kept allows; and what tenon says is kept is what
numpy's exact SVD says, module by module. Needs peft, transformers, torch, mlx and mlx-lm.
"""
import json
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

tenon, root = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
warnings.simplefilter("ignore")

LINEAR = r"(proj|c_attn|c_proj|c_fc|w1|w2|w3|experts\.gate_up_proj|experts\.down_proj)(\.weight)?$"
# base, names that change, rank of the change (0: full), options, the change of the logits that may be missed
PEFT = [
    ("llama", LINEAR, 3, ["--rank", "3"], 1e-4),
    ("llama", LINEAR, 0, ["--rank", "1000000"], 1e-4),
    ("llama", LINEAR, 0, ["--rank", "4"], 2),
    ("llama", LINEAR, 0, ["--energy", "0.9"], 1),
    ("llama", r"(q_proj|v_proj)\.weight$", 2, ["--rank", "8", "--dtype", "bfloat16"], 2e-2),
    ("llama", r"(q_proj|lm_head|embed_tokens)\.weight$", 2, ["--rank", "2", "--keys", "q_proj,lm_head,embed_tokens"], 1e-4),
    ("llama", LINEAR + "|norm", 3, ["--rank", "3", "--save-rest"], 1e-4),
    ("llama", LINEAR + "|lm_head", 3, ["--rank", "3", "--save-rest"], 1e-4),
    ("llama_bias", LINEAR, 3, ["--rank", "3"], 1e-4),
    ("llama_bias", LINEAR + "|bias", 3, ["--rank", "3", "--save-rest"], 1e-4),
    ("llama_tied", LINEAR, 3, ["--rank", "3"], 1e-4),
    ("llama_tied", LINEAR + "|embed_tokens", 3, ["--rank", "3", "--save-rest"], 1e-4),
    ("gpt2", r"(c_attn|c_fc|c_proj)\.weight$", 3, ["--rank", "3"], 1e-4),
    ("gpt2", r"(c_attn|c_fc|c_proj)\.weight$|ln_", 3, ["--rank", "3", "--save-rest"], 1e-4),
    ("mixtral", LINEAR, 2, ["--rank", "2"], 1e-4),
    ("mixtral", r"(q_proj|gate)\.weight$", 2, ["--rank", "2", "--save-rest"], 1e-4),
]
MLX = [
    ("llama", LINEAR, 3, ["--rank", "3"], 1e-4),
    ("llama", LINEAR, 0, ["--rank", "1000000"], 1e-4),
    ("llama", LINEAR, 0, ["--rank", "4"], 2),
    ("llama", r"(q_proj|lm_head|embed_tokens)\.weight$", 2, ["--rank", "2", "--keys", "q_proj,lm_head,embed_tokens"], 1e-4),
    ("llama_bf16", LINEAR, 3, ["--rank", "3"], 0.3),  # computes in bfloat16
    ("llama_tied", r"(k_proj|embed_tokens)\.weight$", 2, ["--rank", "2", "--keys", "embed_tokens,k_proj"], 1e-4),
    ("llama_bias", LINEAR, 3, ["--rank", "3"], 1e-4),
    ("llama_q4_g32_f32", LINEAR, 3, ["--rank", "3"], 1e-4),
    ("llama_q8_g32", LINEAR, 3, ["--rank", "3"], 0.3),
    ("gpt2", r"(c_attn|c_fc|c_proj)\.weight$", 3, ["--rank", "3"], 1e-4),
    ("mixtral", LINEAR, 2, ["--rank", "2"], 1e-4),
    ("mixtral_hf", LINEAR, 2, ["--rank", "2"], 1e-4),
]


def change(w, rank, seed):
    """W and a change of about a tenth of its size: of that rank, or of any for 0 and for vectors."""
    rng = np.random.default_rng(seed)
    size = 0.1 * max(float(np.abs(w).mean()), 1e-2)
    if rank == 0 or w.ndim < 2:
        return (w + size * rng.standard_normal(w.shape)).astype(w.dtype)
    left = rng.standard_normal(w.shape[:-1] + (rank,)) * 0.8 ** np.arange(rank)
    right = rng.standard_normal(w.shape[:-2] + (rank, w.shape[-1]))
    return (w + size / rank**0.5 * left @ right).astype(w.dtype)


def extract(base, tuned, out, dialect, options):
    command = [tenon, "extract", "--model", base, "--tuned-path", tuned, "-o", out, "--dialect", dialect, "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_kept(said, deltas):
    """What is kept, against the singular values of W_tuned - W_base; the worst difference."""
    worst, looked = 0, 0
    for row in said["modules"]:
        names = [n for n in deltas if n.removesuffix(".weight").endswith(row["path"]) or row["path"].endswith(n.removesuffix(".weight"))]
        if len(names) != 1 or row["kind"] == "experts" or deltas[names[0]].ndim != 2:
            continue
        s = np.linalg.svd(deltas[names[0]].astype(np.float64), compute_uv=False) ** 2
        worst = max(worst, abs(row["kept"] - s[: row["rank"]].sum() / s.sum()))
        if row["rank"] < len(s) and "energy" in said:
            assert s[: row["rank"] - 1].sum() < said["energy"] * s.sum()
        looked += 1
    return worst, looked


def check_peft(base, names, rank, options, out):
    import peft
    import torch
    import transformers

    def load():
        return transformers.AutoModelForCausalLM.from_pretrained(root / "peft" / base, dtype=torch.float32).eval()

    def logits(model):
        with torch.no_grad():
            return model(torch.arange(12).reshape(1, -1) * 7 % 90).logits.numpy()

    tuned, deltas = load(), {}
    for seed, (name, p) in enumerate(tuned.named_parameters()):
        if re.search(names, name):
            before = p.detach().numpy().copy()
            p.data = torch.from_numpy(change(before, rank, seed))
            deltas[name] = p.detach().numpy() - before
    assert deltas
    tuned.save_pretrained(out / "tuned")
    said = extract(root / "peft" / base, out / "tuned", out / "new", "peft", options)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(load(), out / "new").eval()
    missing = [str(w.message) for w in warned if "missing adapter keys" in str(w.message) or "unexpected" in str(w.message)]
    assert not missing, missing
    if "--save-rest" in options and "bias" in names:
        assert json.loads((out / "new/adapter_config.json").read_text())["bias"] != "none"
    bare, wanted = logits(load()), logits(tuned)
    return np.abs(logits(model) - wanted).max() / np.abs(wanted - bare).max(), said, deltas


def check_mlx(base, names, rank, options, out):
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    def logits(model):
        return np.array(model(mx.arange(12).reshape(1, -1) * 7 % 90).astype(mx.float32))

    folder, dense = root / "mlx_adapters/models" / base, out / "dense"
    if "quantization" in json.loads((folder / "config.json").read_text()):
        subprocess.run([tenon, "dequantize", "-q", "--model", folder, "--save-path", dense], check=True)
    else:
        shutil.copytree(folder, dense)
    deltas, tensors = {}, {}
    for file in sorted(dense.glob("*.safetensors")):
        tensors.update(mx.load(str(file)))
        file.unlink()
    (dense / "model.safetensors.index.json").unlink(missing_ok=True)
    for seed, (name, w) in enumerate(sorted(tensors.items())):
        if re.search(names, name):
            before = np.array(w.astype(mx.float32))
            tensors[name] = mx.array(change(before, rank, seed)).astype(w.dtype)
            deltas[name] = np.array(tensors[name].astype(mx.float32)) - before
    assert deltas
    mx.save_safetensors(str(dense / "model.safetensors"), tensors)
    said = extract(folder, dense, out / "new", "mlx", options)
    tuned, _ = load_model(dense)
    model, _ = load_model(folder)
    bare, wanted = logits(model), logits(tuned)
    model = load_adapters(model, str(out / "new"))
    there = dict(tree_flatten(model.parameters()))
    for name, value in mx.load(str(out / "new/adapters.safetensors")).items():
        assert name in there and mx.array_equal(there[name], value.astype(there[name].dtype)), name
    return np.abs(logits(model) - wanted).max() / np.abs(wanted - bare).max(), said, {} if "_q" in base else deltas


def main():
    bad = 0
    for check, rows in ((check_peft, PEFT), (check_mlx, MLX)):
        for base, names, rank, options, most in rows:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    missed, said, deltas = check(base, names, rank, options, Path(folder))
                except AssertionError as problem:
                    print(f"BAD {check.__name__[6:]:4} {base:14} {' '.join(options)}: {str(problem)[:400]}")
                    bad += 1
                    continue
            if "--energy" in options:
                said["energy"] = float(options[options.index("--energy") + 1])
            off, looked = check_kept(said, deltas)
            fine = missed < most and off < 2e-3
            bad += not fine
            print(f"{'ok ' if fine else 'BAD'} {check.__name__[6:]:4} {base:16} change of rank {rank or 'any':>3} "
                  f"{' '.join(options):44} kept {said['kept']:.6f} (SVD of {looked:2} modules says the same to {off:.0e}), "
                  f"{missed:.1e} of the logits' change missed")
    sys.exit(bad != 0)


main()
