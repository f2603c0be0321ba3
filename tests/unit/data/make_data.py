"""Writes the vectors of this folder with the reference implementation. Run once, by hand; the build never does.

    python3 make_data.py        (made with safetensors 0.8.0)

Every tensor's byte i is (7 * i + length of the name in bytes) mod 256, so that the tests can make the same files.
"""
import ctypes
import os
from safetensors import TensorSpec, serialize

SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "uint8": 1, "int64": 8, "bool": 1, "uint32": 4, "float64": 8,
         "int8": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "int16": 2}


def write(path, tensors, metadata):
    here = os.path.dirname(os.path.abspath(__file__))
    specs, alive = {}, []
    for name, dtype, shape in tensors:
        n = SIZES[dtype]
        for size in shape:
            n *= size
        data = bytes((7 * i + len(name.encode())) % 256 for i in range(n))
        alive.append(ctypes.create_string_buffer(data, max(n, 1)))
        specs[name] = TensorSpec(dtype=dtype, shape=shape, data_ptr=ctypes.addressof(alive[-1]), data_len=n)
    with open(os.path.join(here, path), "wb") as f:
        f.write(serialize(specs, metadata))


write("mixed.safetensors",
      [("z.weight", "float32", [2, 3]), ("a.weight", "bfloat16", [3, 5]), ("a.bias", "float32", [3]),
       ("B.weight", "float16", [1, 1, 7]), ("scalar", "float32", []), ("none", "bfloat16", [0, 4]),
       ("codes", "uint32", [2, 2]), ("bytes", "uint8", [5]), ("ids", "int64", [2]), ("flags", "bool", [3]),
       ("wide", "float64", [1]), ("small", "int8", [3]), ("fp8", "float8_e4m3fn", [2, 2]),
       ("fp8.b", "float8_e5m2", [3]), ("i16", "int16", [2]), ("a", "bfloat16", [1]), ("a.weight2", "bfloat16", [1])],
      {"format": "pt"})
write("empty.safetensors", [], None)
write("characters.safetensors",
      [('quote"back\\slash/', "uint8", [1]), ("caf\u00e9 \u20ac \U0001f600", "uint8", [2]),
       ("tab\tnew\nline\x01\x7f\b\f\r", "uint8", [3])],
      {"k\u00e9y \"": "v\\\n\x1f"})
