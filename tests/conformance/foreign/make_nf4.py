# SPDX-License-Identifier: Apache-2.0
"""Writes nf4.tar.xz: a dense model, and what bitsandbytes 0.50.2 makes of its linears on a CPU (quantize_4bit, nf4).

    python make_nf4.py OUT       needs torch, safetensors, bitsandbytes
    tar -C OUT -cJf nf4.tar.xz nf4
"""
import json
import os
import sys

import bitsandbytes.functional as F
import torch
from safetensors.torch import save_file

torch.manual_seed(4)
out = os.path.join(sys.argv[1], "nf4")
os.makedirs(out, exist_ok=True)
layer = "model.layers.0."
dense = {
    layer + "self_attn.q_proj.weight": (torch.randn(40, 128) * 0.02).bfloat16(),
    layer + "self_attn.k_proj.weight": (torch.randn(33, 65) * 0.02).half(),
    layer + "mlp.up_proj.weight": torch.randn(24, 96) * 3,
    layer + "mlp.down_proj.weight": (torch.randn(7, 100) * 1e-3).bfloat16(),
    layer + "input_layernorm.weight": torch.ones(128).bfloat16(),
    "model.embed_tokens.weight": torch.randn(16, 64).bfloat16(),
    "lm_head.weight": torch.randn(16, 64).bfloat16(),
}
dense[layer + "mlp.up_proj.weight"][3] = 0  # whole blocks of zeros
dense[layer + "mlp.up_proj.weight"][5, :16] = torch.tensor([(a + b) / 2 for a, b in zip([-1.0] * 16, range(16))])
save_file(dense, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
with open(os.path.join(out, "config.json"), "w") as f:
    json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}, f, indent=1)
expect = {}
for name, w in dense.items():
    if "_proj" not in name:
        expect[name] = w
        continue
    codes, state = F.quantize_4bit(w, quant_type="nf4", blocksize=64)
    expect[name] = codes
    expect.update({name + "." + k: v for k, v in state.as_dict(packed=True).items()})
save_file({k: v.contiguous() for k, v in expect.items()}, os.path.join(out, "expect.safetensors"))
