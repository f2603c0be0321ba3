"""What PEFT's merge_and_unload and mlx_lm.fuse make of the sample in bfloat16: two weights of a layer for each voice, into
data/merged_by_peers.safetensors. PEFT 0.21, transformers 5, torch on a CPU; mlx-lm 0.32.2 with MLX on a CPU.

    python make_merged_by_peers.py EXAMPLES OUT
"""

import pathlib
import subprocess
import sys
import tempfile

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

WEIGHTS = ["model.layers.2.self_attn.q_proj.weight", "model.layers.2.self_attn.k_proj.weight"]


def by_peft(examples, voice):
    base = AutoModelForCausalLM.from_pretrained(examples / "base", dtype=torch.bfloat16)
    merged = PeftModel.from_pretrained(base, examples / "adapters" / voice).merge_and_unload()
    state = merged.state_dict()
    return {f"peft.{voice}.{name}": state[name].contiguous() for name in WEIGHTS}


def by_mlx(examples, voice):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out"
        subprocess.run([sys.executable, "-m", "mlx_lm", "fuse", "--model", str(examples / "base"), "--adapter-path",
                        str(examples / "adapters" / voice), "--save-path", str(out)], check=True)
        with safe_open(out / "model.safetensors", "pt") as file:
            return {f"mlx.{voice}.{name}": file.get_tensor(name).contiguous() for name in WEIGHTS}


def main():
    examples, out = pathlib.Path(sys.argv[1]), sys.argv[2]
    tensors = {**by_peft(examples, "pirate"), **by_peft(examples, "robot"), **by_mlx(examples, "whisper")}
    save_file(tensors, out)


main()
