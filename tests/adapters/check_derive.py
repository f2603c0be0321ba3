#!/usr/bin/env python3
"""Proves that the real PEFT and mlx-lm load what tenon convert --adapter-path writes, and compute what the original computes.

usage: check_derive.py TENON FOLDER [NAME]

TENON is the command, FOLDER holds the unpacked archives peft and mlx_adapters (the build unpacks them into tests/cases). Each case
of both archives, or those whose name holds NAME, is converted for either program. What is refused is printed with its reason.
Else both programs load the model in float32: the original adapter in its own program gives the logits that are expected; the
converted one, in the program that it is for, must give the same to 2e-4 of the largest, which is what the two programs differ by on
the bare models, and not the bare model's. Bases that transformers does not load are compared within mlx-lm
alone. Needs peft, transformers, torch,
mlx and mlx-lm; too heavy for the test suite, where adapter_derive.c compares fused models instead.
"""
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

tenon, root = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
wanted = sys.argv[3] if len(sys.argv) > 3 else ""
warnings.simplefilter("ignore")
IDS = np.arange(12).reshape(1, -1) * 7 % 90


def with_peft(base, adapter):
    import peft
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    if adapter:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            model = peft.PeftModel.from_pretrained(model, adapter).eval()
        odd = [str(w.message) for w in said if "missing adapter keys" in str(w.message) or "nexpected" in str(w.message)]
        assert not odd, odd
    return model(torch.tensor(IDS)).logits.detach().numpy()


def with_mlx(base, adapter):
    import mlx.core as mx
    from mlx_lm.tuner.utils import load_adapters
    from mlx_lm.utils import load_model

    model, config = load_model(base)
    if "quantization" not in config:
        model.set_dtype(mx.float32)
    if adapter:
        model = load_adapters(model, str(adapter))
        model.eval()
    return np.array(model(mx.array(IDS)).astype(mx.float32))


PROGRAMS = {"peft": with_peft, "mlx": with_mlx}


def convert(base, adapter, to, out):
    command = [tenon, "convert", "--model", base, "--adapter-path", adapter, "--to", to, "--save-path", out, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else json.loads(done.stdout)["error"]["message"]


def is_quantized(base):
    config = json.loads((base / "config.json").read_text())
    return "quantization" in config


def is_of_mlx(base):
    """Experts in a form that transformers does not load."""
    return any(b"switch_mlp" in f.read_bytes() for f in base.glob("model*.safetensors"))


def check(name, own, base, adapter):
    for to in PROGRAMS:
        if (is_quantized(base) or is_of_mlx(base)) and (to == "peft" or own == "peft"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            refused = convert(base, adapter, to, out)
            if refused:
                print(f"{name} -> {to}: refused: {refused[:150]}")
                continue
            try:
                expected, bare = PROGRAMS[own](base, adapter), PROGRAMS[to](base, None)
            except Exception as e:  # the case is one that its own program refuses
                print(f"{name} -> {to}: {own} does not take the original: {str(e)[:100]}")
                continue
            got = PROGRAMS[to](base, out)
            far, moved = np.abs(got - expected).max() / np.abs(expected).max(), np.abs(got - bare).max()
            verdict = "ok" if far < 2e-4 and (moved > 0 or np.abs(expected - PROGRAMS[own](base, None)).max() == 0) else "FAILED"
            print(f"{name} -> {to}: {far:.1e} of the largest logit away, moved by {moved:.1e}: {verdict}")
            failed.extend([f"{name} -> {to}"] if verdict == "FAILED" else [])


failed = []
for archive, own, adapters in (("peft", "peft", "cases"), ("mlx_adapters", "mlx", "adapters")):
    cases = json.loads((root / archive / "cases.json").read_text())["cases"]
    for name, case in cases.items():
        if wanted in name:
            check(name, own, root / archive / case["base"], root / archive / adapters / name)
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
