# SPDX-License-Identifier: Apache-2.0
"""Writes the cases of more.tar.xz: checkpoints packed by AutoRound's own layers (auto-round 0.16.1, auto_round_extension),
FP8 of the FNUZ types (torch) and stacked experts as transformers' fbgemm integration lays them out.

    python make_more.py OUT      needs torch, safetensors, auto-round
    tar -C OUT -cJf more.tar.xz foreign_more

Each folder has the exact weights in expect.safetensors: float32 (q - z) * scale, which the library's own forward must give
when rounded to float16.
"""
import json
import os
import sys

import torch
from safetensors.torch import save_file

from auto_round.export.export_to_awq.utils import WQLinear_GEMM
from auto_round_extension.torch import qlinear_torch, qlinear_torch_zp

torch.manual_seed(20)
out = os.path.join(sys.argv[1], "foreign_more")
folders = []


def write(name, module, tensors, expect, quantization, made_by):
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    key = module + ".weight"
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
    save_file({key: expect.float().contiguous()}, os.path.join(folder, "expect.safetensors"))
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "quantization_config": quantization}, f, indent=1)
    folders.append({"folder": "../foreign_more/" + name, "made_by": made_by, "modules": {module: {"shape": list(expect.shape)}}})


def auto_round(bits, group, sym, packing, rows=32, cols=128, g_idx=False):
    groups = cols // group
    scales = (torch.rand(rows, groups) * 0.02 + 0.001).half()
    zeros = torch.full((rows, groups), 2 ** (bits - 1)) if sym else torch.randint(1, 2**bits, (rows, groups))
    codes = torch.randint(0, 2**bits, (rows, cols))
    s, z = scales.float().repeat_interleave(group, 1), zeros.float().repeat_interleave(group, 1)
    linear = torch.nn.Linear(cols, rows, bias=False)
    linear.weight.data = (codes - z) * s
    if "awq" in packing:
        layer = WQLinear_GEMM.from_linear(linear, bits, group, scales=scales.t().contiguous(), zeros=zeros.t().contiguous().float())
    else:
        kind = qlinear_torch if packing.endswith("gptqmodel") or packing == "auto_round" else qlinear_torch_zp
        layer = kind.QuantLinear(bits, group, cols, rows, False, g_idx=g_idx)
        layer.device = torch.device("cpu")
        layer.pack(linear, scales.float(), (2 ** (bits - 1) if sym else zeros.float()), None)
        if hasattr(layer, "post_init"):
            layer.post_init()
    got = layer.forward(torch.eye(cols).half()).reshape(cols, rows).t()
    assert torch.equal(got.float(), linear.weight.data.half().float()), (bits, group, sym, packing)
    module = "model.layers.0.self_attn.q_proj"
    tensors = {module + "." + k: v for k, v in layer.state_dict().items() if not k.startswith("wf")}
    config = {"quant_method": "auto-round", "packing_format": packing, "bits": bits, "group_size": group, "sym": sym,
              "data_type": "int", "autoround_version": "0.16.1", "iters": 200, "block_name_to_quantize": "model.layers"}
    name = "auto_round_%s_b%d_g%d_%s%s" % (packing.split(":")[-1], bits, group, "sym" if sym else "asym", "_g_idx" if g_idx else "")
    write(name, module, tensors, linear.weight.data, config, "auto-round 0.16.1")


for bits in (2, 3, 4, 5, 6, 8):
    auto_round(bits, 32, True, "auto_round:auto_gptq")
    auto_round(bits, 64, False, "auto_round:auto_gptq")
for bits in (2, 3, 4, 7, 8):
    auto_round(bits, 32, False, "auto_round:gptqmodel", g_idx=True)
auto_round(4, 128, True, "auto_round")
auto_round(4, 64, False, "auto_round:auto_awq")
auto_round(4, 32, True, "auto_round:auto_awq")

fp8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
for kind, name in ((torch.float8_e4m3fnuz, "e4m3fnuz"), (torch.float8_e5m2fnuz, "e5m2fnuz")):
    weight = (torch.randn(24, 64) * 4).to(kind)
    for scale, how in ((torch.rand(24, 1) * 0.1, "channel"), (torch.rand(1) * 0.1, "tensor")):
        write("fp8_%s_%s" % (name, how), "model.layers.0.mlp.up_proj",
              {"model.layers.0.mlp.up_proj.weight": weight, "model.layers.0.mlp.up_proj.weight_scale": scale},
              weight.float() * scale, fp8, "torch " + torch.__version__)
    codes = torch.arange(256).to(torch.uint8).reshape(16, 16).view(kind)
    write("fp8_all_%s" % name, "model.layers.0.mlp.up_proj",
          {"model.layers.0.mlp.up_proj.weight": codes, "model.layers.0.mlp.up_proj.weight_scale": torch.ones(1)},
          codes.float(), fp8, "torch " + torch.__version__)

weight, scale = (torch.randn(2, 32, 48) * 4).to(torch.float8_e4m3fn), torch.rand(2, 1, 48)
write("fbgemm_experts_gate_up", "model.layers.0.feed_forward.experts.gate_up_proj",
      {"model.layers.0.feed_forward.experts.gate_up_proj": weight,
       "model.layers.0.feed_forward.experts.gate_up_proj_scale": scale}, weight.float() * scale,
      {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "laid out as transformers 5.23 does")
write("fbgemm_experts_down", "model.layers.0.feed_forward.experts.down_proj",
      {"model.layers.0.feed_forward.experts.down_proj": weight,
       "model.layers.0.feed_forward.experts.down_proj_scale": scale.reshape(2, 48, 1)}, weight.float() * scale,
      {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "laid out as transformers 5.23 does")

with open(os.path.join(out, "manifest.json"), "w") as f:
    json.dump({"folders": folders}, f, indent=1)
