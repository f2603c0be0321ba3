"""decoders.tar.xz: decoders beside those of models.tar.xz: further values of config fields, and adapters for families that have none
there. Written by transformers 5.23 and PEFT 0.21 with the functions that made models.tar.xz (conformance/make/models_arch.py).

usage: make_decoders.py CONFORMANCE/make MODELS/arch OUT      OUT: a folder that does not exist; pack it with tar cJf
"""
import json, os, shutil, sys, warnings

sys.path.insert(0, sys.argv[1])
import models_arch as A
import models_peft as P
import peft, torch
import transformers as T
from safetensors.torch import load_file, save_file

warnings.filterwarnings("ignore")
T.logging.set_verbosity_error()
torch.set_num_threads(1)
arch, out = sys.argv[2:]

SIZES = dict(vocab_size=96, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1, eos_token_id=2, pad_token_id=0)
theta = dict(rope_theta=15000.0)
plain = dict(theta, rope_type="default")
MODELS = {
    "smollm3_sliding": ("SmolLM3", dict(SIZES, num_hidden_layers=4, no_rope_layers=[1, 1, 0, 1], use_sliding_window=True, sliding_window=6, attention_bias=True,
                                        mlp_bias=True, tie_word_embeddings=True, rope_parameters=plain), dict(short=True)),
    "qwen2_moe_sliding": ("Qwen2Moe", dict(SIZES, num_hidden_layers=4, moe_intermediate_size=12, shared_expert_intermediate_size=100, num_experts=4, num_experts_per_tok=4,
                                           norm_topk_prob=True, qkv_bias=False, use_sliding_window=True, sliding_window=6, max_window_layers=3, mlp_only_layers=[2],
                                           rope_parameters=plain), dict(short=True)),
    "gemma_exact": ("Gemma", dict(SIZES, vocab_size=61, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, head_dim=10, hidden_act="gelu_python",
                                  attention_bias=True, rope_parameters=dict(theta, rope_type="linear", factor=2.5)), {}),
    "granite_llama3": ("Granite", dict(SIZES, attention_bias=True, mlp_bias=True, embedding_multiplier=2.5, residual_multiplier=0.7, attention_multiplier=0.35,
                                       logits_scaling=0.5, tie_word_embeddings=True,
                                       rope_parameters=dict(theta, rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=3.0, original_max_position_embeddings=32)), {}),
    "starcoder2_untied": ("Starcoder2", dict({k: v for k, v in SIZES.items() if k != "rms_norm_eps"}, norm_epsilon=1e-4, use_bias=False, sliding_window=None,
                                             hidden_act="gelu", tie_word_embeddings=False, rope_parameters=plain), {}),
    "phi3_longpartial": ("Phi3", dict(SIZES, hidden_size=60, original_max_position_embeddings=22, max_position_embeddings=64, sliding_window=9, tie_word_embeddings=False,
                                      rope_parameters=dict(rope_type="longrope", rope_theta=9000.0, partial_rotary_factor=0.4, short_factor=[1.0, 1.05], long_factor=[1.3, 1.8])),
                         dict(short=True)),
}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
lora = dict(r=4, lora_alpha=8)
ADAPTERS = {
    "gpt2": ("GPT2", dict(lora=dict(lora, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True),
                          dora=dict(lora, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, use_dora=True))),
    "phi3": ("Phi3", dict(lora=dict(lora, target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]))),
    "qwen2_moe": ("Qwen2Moe", dict(experts=dict(lora, target_modules=["shared_expert_gate", "o_proj"], target_parameters=EXPERTS))),
    "llama_tied": ("Llama", dict(head=dict(lora, target_modules=["q_proj", "lm_head"]), tokens=dict(lora, target_modules=["q_proj"], trainable_token_indices=[3, 17, 42]))),
    "gemma3": ("Gemma3", dict(norms=dict(lora, target_modules=["q_proj"], modules_to_save=["q_norm", "input_layernorm"]))),
}


def lean(folder):
    """without the logits of every greedy token: the tokens stay"""
    path = folder + "/expect.safetensors"
    save_file({k: v for k, v in load_file(path).items() if not k.endswith("greedy_logits")}, path)


def adapter(folder, stem, kind, spec):
    cls, where = A.classes(stem)[1], os.path.join(folder, "adapters", kind)
    g = torch.Generator().manual_seed(len(kind) * 31 + len(stem))
    m = peft.get_peft_model(A.load(cls, folder), peft.LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **spec))
    P.randomise(m, g)
    with torch.no_grad():
        for n, p in m.named_parameters():
            if "modules_to_save" in n or "trainable_tokens_delta" in n:
                p.add_(torch.randn(p.shape, generator=g) * 0.2)
    m.peft_config["default"].base_model_name_or_path = "decoders/" + os.path.basename(folder)
    m.save_pretrained(where)
    os.remove(where + "/README.md")
    m = peft.PeftModel.from_pretrained(A.load(cls, folder), where).eval()
    ids = load_file(folder + "/expect.safetensors")["input_ids"]
    save_file(A.clean(dict(logits=A.logits(m, ids), greedy=A.greedy(m, ids, A.NEW, True)[0])), where + "/expect.safetensors")


os.makedirs(out)
for name, (stem, conf, opt) in MODELS.items():
    conf.setdefault("tie_word_embeddings", False)
    A.one(out, name, stem, conf, dict(bf16=True, what=name, **opt), 77)
    lean(os.path.join(out, name))
for name, (stem, kinds) in ADAPTERS.items():
    folder = os.path.join(out, name)
    shutil.copytree(os.path.join(arch, name), folder, ignore=lambda d, names: [n for n in names if os.path.isdir(os.path.join(d, n))])
    lean(folder)
    for kind, spec in kinds.items():
        adapter(folder, stem, kind, spec)
