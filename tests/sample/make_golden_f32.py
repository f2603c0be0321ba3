"""golden_f32.safetensors: logits of the first prompt of golden.json by transformers and PEFT on a CPU, in float32 throughout
(those of golden.safetensors were computed with TF32 products); and golden_mlx.*: the float32 part of what mlx-lm says.

usage: make_golden_f32.py SAMPLE OUT     SAMPLE holds base, adapters, golden.json and golden_mlx.*
"""
import json, sys
import peft, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

sample, out = sys.argv[1:]
prompt = json.load(open(sample + "/golden.json"))["runs"]["base"][0]["prompt_ids"]


def logits(adapter):
    model = AutoModelForCausalLM.from_pretrained(sample + "/base", dtype=torch.float32, attn_implementation="eager")
    if adapter:
        model = peft.PeftModel.from_pretrained(model, sample + "/adapters/" + adapter)
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([prompt])).logits[0].clone().contiguous()


save_file({name or "base": logits(name) for name in (None, "pirate", "robot")}, out + "/golden_f32.safetensors")
mlx = load_file(sample + "/golden_mlx.safetensors")
save_file({k: v for k, v in mlx.items() if not k.endswith("_bf16")}, out + "/golden_mlx.safetensors")
runs = json.load(open(sample + "/golden_mlx.json"))["runs"]
keep = ("prompt", "prompt_ids", "output_ids", "text")
with open(out + "/golden_mlx.json", "w") as f:
    json.dump({"runs": {k: [{n: r[n] for n in keep} for r in v] for k, v in runs.items()}}, f, separators=(",", ":"))
    f.write("\n")
