#!/usr/bin/env python3
"""Proves that real PEFT loads what tenon combine and tenon resize write, and computes with it what it computes with its own.

usage: check_combine.py TENON FOLDER

TENON is the command, FOLDER holds what make_combine_vectors.py made: base, a, b, c, d, one folder for each case, cases.json. Needs
peft, transformers and torch; too heavy for the test suite, which compares the factors instead.
"""
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

warnings.simplefilter("ignore")
warnings.simplefilter("error", UserWarning)  # a tensor that is missing, or that nobody asked for
tenon, root = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
tokens = torch.arange(20).reshape(1, 20)


def logits(adapter=None):
    model = AutoModelForCausalLM.from_pretrained(root / "base")
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.no_grad():
        return model(tokens).logits


def run(*words):
    subprocess.run([tenon, *map(str, words)], check=True)


bare = logits()
worst = 0
with tempfile.TemporaryDirectory() as work:
    for case in json.loads((root / "cases.json").read_text()):
        out = Path(work) / case["name"]
        words = ["combine", "-q", "--model", root / "base", "-o", out, "--combination-type", case["type"]]
        for name, weight in case["weights"].items():
            words += ["--adapter-path", f"{root / name}:{weight}"]
        for key, option in (("density", "--density"), ("svd_rank", "--rank"), ("majority_sign_method", "--majority-sign-method")):
            if key in case:
                words += [option, case[key]]
        run(*words)
        ours, theirs = logits(out), logits(root / case["name"])
        off, effect = (ours - theirs).abs().max().item(), (theirs - bare).abs().max().item()
        worst = max(worst, off / effect)
        print(f"{case['name']:<24} effect {effect:.3g}, off {off:.2g}")
    out = Path(work) / "resized"
    run("resize", "-q", "--model", root / "base", "--adapter-path", root / "a", "-o", out, "--rank", 3)
    whole, small = logits(root / "a"), logits(out)
    print(f"resized to 3 of 4: off {(whole - small).abs().max():.3g} of {(whole - bare).abs().max():.3g}")
print(f"worst: {worst:.2g} of the effect")
assert worst < 1e-4
