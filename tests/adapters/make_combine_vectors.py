#!/usr/bin/env python3
"""Makes combine.tar.xz: what PEFT's add_weighted_adapter makes of four adapters of a small llama.

usage: make_combine_vectors.py FOLDER

In FOLDER/combine: `base` (only the tensors that are adapted have numbers worth reading), the adapters a, b, c, d, for each case a
folder with the combined adapter, and cases.json. Random numbers cannot be reproduced, so dare_* have the density 1 here, which leaves
nothing out. Needs peft 0.21, transformers and torch. Then: tar cJf data/combine.tar.xz --sort=name --mtime=2026-01-01 --owner=0
--group=0 --numeric-owner -C FOLDER combine
"""
import json
import shutil
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
torch.manual_seed(3)
root = Path(sys.argv[1]) / "combine"
shutil.rmtree(root, ignore_errors=True)
root.mkdir(parents=True)

model = LlamaForCausalLM(LlamaConfig(hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=4,
                                     num_key_value_heads=2, vocab_size=20, tie_word_embeddings=False))
model.save_pretrained(root / "base")

ADAPTERS = {
    "a": dict(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"]),
    "b": dict(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj", "gate_proj"]),
    "c": dict(r=4, lora_alpha=6, target_modules=["q_proj", "embed_tokens", "v_proj"], use_rslora=True),
    "d": dict(r=2, lora_alpha=3, target_modules=["q_proj", "down_proj"]),
}
CASES = [  # adapters and weights, type, what else add_weighted_adapter takes
    ("cat_two", {"a": 1, "b": 1}, "cat", {}),
    ("cat_weights", {"a": 0.7, "b": -0.3, "c": 2, "d": 0.5}, "cat", {}),
    ("linear", {"a": 0.6, "b": 0.4}, "linear", {}),
    ("linear_negative", {"a": 0.6, "b": -0.4, "c": 1}, "linear", {}),
    ("svd", {"a": 1, "b": 0.5, "c": 0.25}, "svd", {}),
    ("svd_rank", {"b": 1, "d": -1}, "svd", {"svd_rank": 3}),
    ("ties", {"a": 1, "b": 0.5, "c": 1}, "ties", {"density": 0.4}),
    ("ties_frequency", {"a": 1, "b": 0.5, "c": -1}, "ties", {"density": 0.7, "majority_sign_method": "frequency"}),
    ("magnitude_prune", {"a": 1, "b": 0.5}, "magnitude_prune", {"density": 0.3}),
    ("ties_svd", {"a": 1, "b": 0.5, "d": 1}, "ties_svd", {"density": 0.5}),
    ("ties_svd_frequency", {"a": 1, "b": 0.5, "c": 1}, "ties_svd",
     {"density": 0.8, "majority_sign_method": "frequency", "svd_rank": 6}),
    ("magnitude_prune_svd", {"a": 1, "b": 0.5}, "magnitude_prune_svd", {"density": 0.25, "svd_rank": 5}),
    ("dare_linear", {"a": 1, "b": 0.5}, "dare_linear", {"density": 1.0}),
    ("dare_ties", {"a": 1, "b": 0.5, "c": 1}, "dare_ties", {"density": 1.0}),
    ("dare_linear_svd", {"a": 1, "b": 0.5}, "dare_linear_svd", {"density": 1.0}),
    ("dare_ties_svd", {"a": 1, "b": 0.5, "d": 2}, "dare_ties_svd", {"density": 1.0}),
]

first, *others = ADAPTERS
model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **ADAPTERS[first]), adapter_name=first)
for name in others:
    model.add_adapter(name, LoraConfig(task_type="CAUSAL_LM", **ADAPTERS[name]))
with torch.no_grad():
    for name, tensor in model.named_parameters():
        if "lora_" in name:
            tensor.normal_(0, 0.1)
for name, weights, kind, more in CASES:
    model.add_weighted_adapter(list(weights), [float(w) for w in weights.values()], name, combination_type=kind, **more)
model.save_pretrained(root / "all", save_embedding_layers=False)
for name in [*ADAPTERS, *(case[0] for case in CASES)]:
    (root / "all" / name).rename(root / name)
    (root / name / "README.md").unlink(missing_ok=True)
shutil.rmtree(root / "all")
(root / "base" / "generation_config.json").unlink(missing_ok=True)
cases = [{"name": name, "weights": {k: float(w) for k, w in weights.items()}, "type": kind, **more}
         for name, weights, kind, more in CASES]
(root / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")
