#!/usr/bin/env python3
"""Makes data/create.json: what PEFT and mlx-lm put into new adapters, and what the seed's generator gives.

usage: make_create_vectors.py FOLDER > data/create.json

FOLDER holds the unpacked archives peft and mlx_adapters of this folder (the build unpacks them). Needs peft, transformers,
torch, mlx and mlx-lm. Values are float32 as eight hexadecimal digits each, so that they are compared bit by bit where that is meant.

  magnitudes  DoRA magnitudes of fresh adapters, by the real libraries, for bases of every storage form
  uniform     mx.random.uniform(-b, b, shape, key=mx.random.key(key)) with the key that tenon derives from seed and path
  xorshift    kizzasi-model's LoraLinear::new and QLoraLinear::from_weight, recomputed here from their formulas with integers
              of any size and numpy's float32, which shares no line with tenon
"""
import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np


def words(values):
    return "".join(f"{w:08x}" for w in np.asarray(values, dtype=np.float32).ravel().view(np.uint32))


def magnitudes_peft(root, case):
    import peft
    import torch
    import transformers

    cases = json.loads((root / "peft/cases.json").read_text())["cases"]
    model = transformers.AutoModelForCausalLM.from_pretrained(root / "peft" / cases[case]["base"], dtype=torch.float32)
    model = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **cases[case]["config"]))
    state = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return {k: words(v.numpy()) for k, v in sorted(state.items()) if "magnitude" in k}


def magnitudes_mlx(root, case):
    import mlx.core as mx
    from mlx.utils import tree_flatten
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load_model

    cases = json.loads((root / "mlx_adapters/cases.json").read_text())["cases"]
    model, _ = load_model(root / "mlx_adapters" / cases[case]["base"])
    model.freeze()
    linear_to_lora_layers(model, cases[case]["num_layers"], cases[case]["lora_parameters"], use_dora=True)
    found = {k: v.astype(mx.float32) for k, v in tree_flatten(model.trainable_parameters()) if k.endswith(".m")}
    return {k: words(np.array(v)) for k, v in sorted(found.items())}


def uniform(seed, path, shape, inputs):
    import mlx.core as mx

    key = int.from_bytes(hashlib.sha256(seed.to_bytes(8, "little") + path.encode()).digest()[:8], "little")
    b = 1 / math.sqrt(inputs)
    values = mx.random.uniform(low=-b, high=b, shape=shape, key=mx.random.key(key))
    return {"seed": str(seed), "path": path, "key": f"{key:016x}", "shape": shape, "inputs": inputs, "values": words(np.array(values))}


def xorshift(seed, rank, inputs, outputs):
    mask, state, values = (1 << 64) - 1, max((seed + inputs + outputs) % (1 << 64), 1), []
    scale = np.sqrt(np.float32(2) / np.float32(inputs))
    for _ in range(rank * inputs):
        state ^= (state << 13) & mask
        state ^= state >> 7
        state ^= (state << 17) & mask
        # Rust: (state as f64 / u64::MAX as f64 * 2.0 - 1.0) as f32; both conversions round to nearest
        values.append(np.float32(float(state) / float(mask) * 2.0 - 1.0) * scale)
    return {"seed": str(seed), "rank": rank, "in": inputs, "out": outputs, "values": words(values)}


def main():
    root = Path(sys.argv[1])
    path = "model.layers.1.self_attn.q_proj"
    json.dump({
        "magnitudes": {
            "peft": {c: magnitudes_peft(root, c) for c in ("dora", "embedding_dora", "gpt2_conv1d_dora")},
            "mlx": {c: magnitudes_mlx(root, c) for c in ("dora", "dora_bias", "dora_bf16_base", "dora_f16_base", "dora_embedding",
                                                          "dora_q4", "dora_q8", "dora_mxfp4")},
        },
        "uniform": [uniform(0, path, [7, 3], 7), uniform(0, path, [64, 8], 64), uniform(2**63 + 5, "lm_head", [1, 1], 1),
                    uniform(12, "model.embed_tokens", [96, 4], 96), uniform(3, path, [4, 2, 9], 9)],
        "xorshift": [xorshift(42, 8, 32, 64), xorshift(137, 4, 16, 32), xorshift(42, 4, 8, 16), xorshift(2**64 - 24, 1, 8, 16)],
    }, sys.stdout, indent=0)
    print()


main()
