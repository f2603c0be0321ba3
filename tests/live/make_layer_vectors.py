#!/usr/bin/env python3
"""Makes data/layers.json: what the layers of mlx-lm 0.32.2 give for every combination of dtypes and bases.

usage: make_layer_vectors.py > data/layers.json

Needs mlx and mlx-lm. One set of inputs, whose values are multiples of 1/64 that every dtype holds exactly; for each case the
dtype of the result and its values as float32 in hexadecimal digits. Bases are dense, or quantized by MLX from the dense weight of
that dtype. MLX on a CPU multiplies stacks of experts in float32 only.
"""
import itertools
import json
import sys

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

IN, OUT, RANK, ROWS, EXPERTS, SCALE = 64, 6, 2, 2, 3, 1.5
DTYPES = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
NAMES = {v: k for k, v in DTYPES.items()}
QUANTIZED = {"affine": (32, 4), "mxfp4": (32, 4)}


def numbers(seed, *shape):
    n = int(np.prod(shape))
    return (np.array([(i * i * 7 + i * (seed * 2 + 3) + seed * 31) % 129 - 64 for i in range(n)], np.float32) / 64).reshape(shape)


INPUTS = {
    "w": numbers(1, OUT, IN), "bias": numbers(2, OUT), "a": numbers(3, IN, RANK), "b": numbers(4, RANK, OUT),
    "m": np.abs(numbers(5, OUT)) + 0.5, "x": numbers(6, ROWS, IN),
    "table_a": numbers(7, OUT, RANK), "table_b": numbers(8, RANK, IN), "table_x": numbers(9, ROWS, IN),
    "stack_w": numbers(10, EXPERTS, OUT, IN), "stack_a": numbers(11, EXPERTS, RANK, IN), "stack_b": numbers(12, EXPERTS, OUT, RANK),
    "stack_bias": numbers(13, EXPERTS, OUT),
}
IDS, CHOICE = [4, 0], [2, 0]


def words(values):
    return "".join(f"{w:08x}" for w in np.asarray(values, np.float32).ravel().view(np.uint32))


def array(name, dtype):
    return mx.array(INPUTS[name]).astype(DTYPES[dtype])


def linear(dtype, mode, biased):
    layer = nn.Linear(IN, OUT, bias=biased)
    layer.weight = array("w", dtype)
    if biased:
        layer.bias = array("bias", dtype)
    return layer if mode == "dense" else nn.QuantizedLinear.from_linear(layer, *QUANTIZED[mode], mode=mode)


def embedding(dtype, mode):
    layer = nn.Embedding(OUT, IN)
    layer.weight = array("w", dtype)
    return layer if mode == "dense" else nn.QuantizedEmbedding.from_embedding(layer, *QUANTIZED[mode], mode=mode)


def result(kind, mode, base, factors, x, y, **more):
    mx.eval(y)
    return {"kind": kind, "mode": mode, "base": base, "factors": factors, "x": x, "dtype": NAMES[y.dtype],
            "y": words(np.array(y.astype(mx.float32))), **more}


def wrap(cls, layer, factors, a, b, m=None):
    wrapped = cls.from_base(layer, r=RANK, dropout=0.0, scale=SCALE)
    wrapped.lora_a, wrapped.lora_b = array(a, factors), array(b, factors)
    if m:
        wrapped.m = array(m, factors)
    return wrapped


def cases():
    for mode, base, factors, x in itertools.product(("dense", "affine", "mxfp4"), DTYPES, DTYPES, DTYPES):
        for biased in (False, True):
            layer = wrap(LoRALinear, linear(base, mode, biased), factors, "a", "b")
            yield result("lora", mode, base, factors, x, layer(array("x", x)), bias=biased)
            layer = wrap(DoRALinear, linear(base, mode, biased), factors, "a", "b", "m")
            yield result("dora", mode, base, factors, x, layer(array("x", x)), bias=biased)
        table = wrap(LoRAEmbedding, embedding(base, mode), factors, "table_a", "table_b")
        yield result("embedding-head", mode, base, factors, x, table.as_linear(array("table_x", x)))
        if x == "F32":
            yield result("embedding-rows", mode, base, factors, x, table(mx.array(IDS)))
        if mode != "dense":
            continue
        table = wrap(DoRAEmbedding, embedding(base, mode), factors, "table_a", "table_b", "m")
        yield result("dora-embedding-head", mode, base, factors, x, table.as_linear(array("table_x", x)))
        if x == "F32":
            yield result("dora-embedding-rows", mode, base, factors, x, table(mx.array(IDS)))
    switch = SwitchLinear(IN, OUT, EXPERTS)
    switch.weight, switch.bias = array("stack_w", "F32"), array("stack_bias", "F32")
    switch = wrap(LoRASwitchLinear, switch, "F32", "stack_a", "stack_b")
    y = switch(array("x", "F32").reshape(ROWS, 1, 1, IN), mx.array(CHOICE).reshape(ROWS, 1))
    yield result("experts", "dense", "F32", "F32", "F32", y.reshape(ROWS, OUT))


json.dump({"scale": SCALE, "ids": IDS, "choice": CHOICE, "inputs": {k: {"shape": v.shape, "values": words(v)} for k, v in INPUTS.items()},
           "cases": list(cases())}, sys.stdout, indent=0)
print()
