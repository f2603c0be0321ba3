"""An AdaLoRA adapter as PEFT 0.21 writes it, with one module pruned, and what merge_and_unload makes of it.

    python make_adalora.py BASE OUT      BASE: the folder llama of tests/adapters/data/peft.tar.xz
"""

import pathlib
import sys

import torch
from peft import AdaLoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

TARGETS = "model.layers.0.self_attn.(q_proj|k_proj)"


def main():
    base, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = AdaLoraConfig(init_r=6, target_r=4, lora_alpha=9, target_modules=TARGETS, total_step=100, task_type="CAUSAL_LM")
    peft_model = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in peft_model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    kept = [True, False, True, True, False, True]
    key = "model.layers.0.self_attn.q_proj.lora_E"
    peft_model.peft_config["default"].rank_pattern = {key: kept, key.replace("q_proj", "k_proj"): [True] * 6}
    with torch.no_grad():
        layer = peft_model.base_model.model.model.layers[0].self_attn.q_proj
        layer.lora_E["default"][[1, 4]] = 0
    peft_model.save_pretrained(out)
    merged = peft_model.merge_and_unload().state_dict()
    names = [f"model.layers.0.self_attn.{n}.weight" for n in ("q_proj", "k_proj")]
    save_file({name: merged[name].contiguous() for name in names}, out / "expect.safetensors")
    (out / "README.md").unlink(missing_ok=True)


main()
