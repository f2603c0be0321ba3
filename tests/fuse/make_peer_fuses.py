"""What mlx_lm.fuse and PEFT's merge_and_unload make of small models in every pair of dtypes, of the base and of the factors:
OUT/peer_fuses/<case>/{base,adapter,merged}, of each model only the tensors that an adapter changes and one that none does.
mlx-lm 0.32.2 with MLX 0.32.4, PEFT 0.21.2 with transformers 5.23 and torch 2.15, all on a CPU.

    python make_peer_fuses.py OUT && tar -C OUT -cJf data/peer_fuses.tar.xz peer_fuses
"""

import json
import pathlib
import shutil
import sys
import tempfile

import mlx.core as mx
import numpy as np
import torch
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters
from mlx_lm.utils import load_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

MLX = {"f32": mx.float32, "f16": mx.float16, "bf16": mx.bfloat16}
TORCH = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
NORM = "model.norm.weight"
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 48,
         "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 40, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": False}
MIXTRAL = {**LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 3,
           "num_experts_per_tok": 2}


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def keep(tensors, touched):
    also = {NORM, "lm_head.weight"} if any("embed" in t for t in touched) else {NORM}  # one of its own
    return {k: v for k, v in tensors.items() if k in also or any(t in k for t in touched)}


# ---- mlx-lm ----------------------------------------------------------------------------------------------------


def random_mlx(config, dtype):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        write_json(path / "config.json", config)
        model, _ = load_model(path, strict=False)
        weights = {k: (mx.random.normal(v.shape) * 0.05).astype(dtype) for k, v in tree_flatten(model.parameters())}
    return weights


def mlx_case(out, kind, base, factors, keys, config, use_dora):
    case = out / f"mlx_{kind}_{base}_{factors}"
    for folder in ("base", "adapter", "merged"):
        (case / folder).mkdir(parents=True)
    weights = random_mlx(config, MLX[base])
    write_json(case / "base/config.json", config)
    mx.save_safetensors(str(case / "base/model.safetensors"), weights, {"format": "mlx"})
    lora = {"rank": 8, "scale": 1.7, "dropout": 0.0, "keys": keys}
    write_json(case / "adapter/adapter_config.json",
               {"fine_tune_type": "dora" if use_dora else "lora", "num_layers": 1, "lora_parameters": lora})
    model, _ = load_model(case / "base")
    linear_to_lora_layers(model, 1, lora, use_dora)
    adapter = {k: (mx.random.normal(v.shape) * 0.08).astype(MLX[factors]) for k, v in tree_flatten(model.parameters())
               if k.rsplit(".", 1)[-1] in ("lora_a", "lora_b")}
    for k, v in tree_flatten(model.parameters()):
        if use_dora and k.endswith(".m"):
            adapter[k] = v * (1 + 0.1 * mx.random.normal(v.shape))
    mx.save_safetensors(str(case / "adapter/adapters.safetensors"), adapter)
    model, _ = load_model(case / "base")
    model = load_adapters(model, str(case / "adapter"))
    model.update_modules(tree_unflatten([(n, m.fuse()) for n, m in model.named_modules() if hasattr(m, "fuse")]))
    merged = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(case / "base/model.safetensors"), keep(weights, keys), {"format": "mlx"})
    mx.save_safetensors(str(case / "merged/model.safetensors"), keep(merged, keys), {"format": "mlx"})
    shutil.copy(case / "base/config.json", case / "merged/config.json")


# ---- PEFT ------------------------------------------------------------------------------------------------------


def rewrite(folder, names):
    path = folder / "model.safetensors"
    save_file(keep(load_file(path), names), path, {"format": "pt"})
    (folder / "generation_config.json").unlink(missing_ok=True)


def peft_case(out, kind, base, factors, names, options):
    case = out / f"peft_{kind}_{base}_{factors}"
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).to(TORCH[base])
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p, dtype=torch.float32) * 0.05)
    model.save_pretrained(case / "base")
    tuned = get_peft_model(model, LoraConfig(r=8, lora_alpha=13, target_modules=names, **options),
                           autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_magnitude" in name:
                p.mul_(1 + 0.1 * torch.randn_like(p))
            elif "lora_" in name:
                p.copy_(torch.randn_like(p, dtype=torch.float32) * 0.08)
    tuned.save_pretrained(case / "adapter")
    path = case / "adapter/adapter_model.safetensors"
    save_file({k: v.to(TORCH[factors]) for k, v in load_file(path).items() if "lora_" in k}, path)
    (case / "adapter/README.md").unlink(missing_ok=True)
    model = LlamaForCausalLM.from_pretrained(case / "base", dtype=TORCH[base])
    tuned = PeftModel.from_pretrained(model, case / "adapter", autocast_adapter_dtype=False)
    for name, p in tuned.named_parameters():
        if "lora_" in name:
            p.data = p.data.to(TORCH[factors])
    stored = load_file(path)
    for name, p in tuned.named_parameters():
        if "lora_" in name:
            assert torch.equal(p.data, stored[name.replace(".default", "").replace("vector.weight", "vector")]), name
    tuned.merge_and_unload().save_pretrained(case / "merged")
    rewrite(case / "base", names)
    rewrite(case / "merged", names)


def main():
    out = pathlib.Path(sys.argv[1]) / "peer_fuses"
    mx.random.seed(7)
    torch.manual_seed(7)
    linears = ["self_attn.q_proj", "mlp.down_proj"]
    experts = ["block_sparse_moe.switch_mlp.gate_proj"]
    for base in MLX:
        for factors in MLX:
            mlx_case(out, "lora", base, factors, linears, LLAMA, False)
            mlx_case(out, "dora", base, factors, linears, LLAMA, True)
            mlx_case(out, "embedding", base, factors, ["model.embed_tokens"], LLAMA, False)
            mlx_case(out, "switch", base, factors, experts, MIXTRAL, False)
            peft_case(out, "lora", base, factors, ["q_proj", "down_proj"], {})
            peft_case(out, "dora", base, factors, ["q_proj", "down_proj"], {"use_dora": True})
            peft_case(out, "embedding", base, factors, ["embed_tokens"], {})


main()
