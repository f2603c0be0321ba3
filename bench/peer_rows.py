#!/usr/bin/env python3
"""peer_rows.py [ROW...]: rows of build/bench/speed in turns with what people use for the same work, one thread each.

Every round is one of ours, then one of each peer, in this order, on matrices that are not near when their turn comes; times are
of the process's own CPU. Prints the medians, the median of the ratios of each round, and its range. Peers that this Python lacks
are left out. In the environment: ROUNDS, 7; GGML, a folder with ggml's libraries."""
import ctypes, importlib, os, statistics, subprocess, sys, time

SPEED = os.environ.get("SPEED", "build/bench/speed")
ROUNDS = int(os.environ.get("ROUNDS", "7"))
OUT, MATRICES = 4096, 8


def module(name):
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def torch_one_thread():
    torch = module("torch")
    if torch:
        torch.set_num_threads(1)
    return torch


def fuse_peers():
    torch = torch_one_thread()
    if not torch:
        return {}
    bf = torch.bfloat16
    w = [(torch.randn(OUT, 4096) * 0.02).to(bf) for _ in range(MATRICES)]
    a, b = (torch.randn(16, 4096) * 0.02).to(bf), (torch.randn(OUT, 16) * 0.02).to(bf)

    def merge(i):  # peft 0.21: get_delta_weight, then W += delta
        w[i].add_(((b.float() @ a.float()) * 2.0).to(bf))
    return {f"torch {torch.__version__} addmm_": lambda i: w[i].addmm_(b, a, alpha=2.0), "PEFT's merge arithmetic": merge}


def mlx_peers(mode, bits, group, decode):
    mx = module("mlx.core")
    if not mx:
        return {}
    mx.set_default_device(mx.cpu)
    w = [(mx.random.normal((OUT, 4096)) * 0.02).astype(mx.bfloat16) for _ in range(4)]
    args = dict(group_size=group, bits=bits, mode=mode)
    packed = [mx.quantize(x, **args) for x in w]
    mx.eval(w, packed)

    def run(i):
        q = packed[i % 4]
        mx.eval(mx.dequantize(*q, **args) if decode else mx.quantize(w[i % 4], **args))
    return {"MLX CPU": run}


def bnb_peers(decode):
    torch, bnb = torch_one_thread(), module("bitsandbytes")
    if not torch or not bnb:
        return {}
    f = importlib.import_module("bitsandbytes.functional")
    w = [(torch.randn(OUT, 4096) * 0.02).to(torch.bfloat16) for _ in range(4)]
    packed = [f.quantize_4bit(x, blocksize=64, quant_type="nf4") for x in w]

    def run(i):
        if decode:
            f.dequantize_4bit(*packed[i % 4])
        else:
            f.quantize_4bit(w[i % 4], blocksize=64, quant_type="nf4")
    return {f"bitsandbytes {bnb.__version__}": run}


def mlx_fuse_peers(mode="affine", bits=4, group=64, dora=False):
    mx = module("mlx.core")
    if not mx:
        return {}
    mx.set_default_device(mx.cpu)
    args = dict(group_size=group, bits=bits, mode=mode)
    packed = [mx.quantize((mx.random.normal((OUT, 4096)) * 0.02).astype(mx.bfloat16), **args) for _ in range(4)]
    magnitude = mx.random.uniform(1, 1.5, (OUT,))
    a, b = mx.random.normal((4096, 16)) * 0.02, mx.random.normal((16, OUT)) * 0.02
    factors = {"F32": (a, b), "BF16": (a.astype(mx.bfloat16), b.astype(mx.bfloat16))}
    mx.eval(packed, factors)

    def fuse(i, a, b):  # mlx-lm 0.32: LoRALinear.fuse of a quantized linear, and DoRALinear.fuse
        w = mx.dequantize(*packed[i % 4], **args)
        w = w + ((2.0 * b.T) @ a.T).astype(w.dtype)
        if dora:
            w = (magnitude / mx.linalg.norm(w, axis=1))[:, None] * w
        mx.eval(mx.quantize(w, **args))
    return {f"mlx-lm's fuse on the CPU, factors {name}": lambda i, ab=ab: fuse(i, *ab) for name, ab in factors.items()}


def ort_peers(m, level, cols=14336, group=64):
    ort, onnx, np = module("onnxruntime"), module("onnx"), module("numpy")
    if not ort or not onnx:
        return {}
    h, t = onnx.helper, onnx.TensorProto
    rng, sessions = np.random.default_rng(1), []
    for _ in range(4):
        weights = rng.integers(0, 256, (OUT, cols // group, group // 2), dtype=np.uint8)
        init = [onnx.numpy_helper.from_array(weights, "w"),
                onnx.numpy_helper.from_array(np.full(OUT * cols // group, 0.002, np.float32), "s")]
        node = h.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=cols, N=OUT, bits=4,
                           block_size=group, accuracy_level=level)
        graph = h.make_graph([node], "g", [h.make_tensor_value_info("x", t.FLOAT, [m, cols])],
                             [h.make_tensor_value_info("y", t.FLOAT, [m, OUT])], init)
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17), h.make_opsetid("com.microsoft", 1)])
        model.ir_version = 8
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        sessions.append(ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]))
    x = rng.standard_normal((m, cols), dtype=np.float32)
    return {f"onnxruntime {ort.__version__} level {level}": lambda i: sessions[i % 4].run(None, {"x": x})}


def ggml_peers(m, cols=14336):
    """Q4_0, blocks of 32, in ggml's own order for this CPU where it has one (the buffer type CPU_REPACK): 8-bit activations."""
    folder = os.environ.get("GGML")  # with libggml.so and libggml-cpu.so of a build of llama.cpp
    np = module("numpy")
    if not folder or not np:
        return {}
    base, cpu = (ctypes.CDLL(f"{folder}/lib{name}.so", ctypes.RTLD_GLOBAL) for name in ("ggml-base", "ggml-cpu"))

    def call(lib, name, *args, result=ctypes.c_void_p):
        function = getattr(lib, name)
        function.restype = result
        return function(*[ctypes.c_void_p(a) if a is None or isinstance(a, int) and a > 1 << 20 else a for a in args])

    class Init(ctypes.Structure):
        _fields_ = [("size", ctypes.c_size_t), ("memory", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]

    backend = call(cpu, "ggml_backend_cpu_init")
    call(cpu, "ggml_backend_cpu_set_n_threads", backend, 1, result=None)
    device = call(base, "ggml_backend_get_device", backend)
    find = call(base, "ggml_backend_reg_get_proc_address", call(base, "ggml_backend_dev_backend_reg", device),
                b"ggml_backend_dev_get_extra_bufts")
    types = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(find)(device)
    kinds = {}
    while types[len(kinds)]:
        kinds[call(base, "ggml_backend_buft_name", types[len(kinds)], result=ctypes.c_char_p).decode()] = types[len(kinds)]
    plain = call(base, "ggml_backend_get_default_buffer_type", backend)
    weights, rest = (call(base, "ggml_init", Init(1 << 20, None, True)) for _ in range(2))
    w = [call(base, "ggml_new_tensor_2d", weights, 2, ctypes.c_int64(cols), ctypes.c_int64(OUT)) for _ in range(MATRICES)]
    call(base, "ggml_backend_alloc_ctx_tensors_from_buft", weights, kinds.get("CPU_REPACK", plain))
    x = call(base, "ggml_new_tensor_2d", rest, 0, ctypes.c_int64(cols), ctypes.c_int64(m))
    graphs = []
    for tensor in w:
        graphs.append(call(base, "ggml_new_graph", rest))
        call(base, "ggml_build_forward_expand", graphs[-1], call(base, "ggml_mul_mat", rest, tensor, x), result=None)
    call(base, "ggml_backend_alloc_ctx_tensors_from_buft", rest, plain)
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (OUT * cols // 32, 18), dtype=np.uint8)
    blocks[:, :2] = np.frombuffer(np.float16(0.002).tobytes(), np.uint8)
    values = rng.standard_normal((m, cols), dtype=np.float32)
    for tensor, data in [(t, blocks) for t in w] + [(x, values)]:
        call(base, "ggml_backend_tensor_set", tensor, data.ctypes.data, ctypes.c_size_t(0), ctypes.c_size_t(data.nbytes), result=None)
    name = "ggml Q4_0 " + ("repacked" if "CPU_REPACK" in kinds else "as it is")
    return {name: lambda i: call(base, "ggml_backend_graph_compute", backend, graphs[i], result=ctypes.c_int)}


def adapter_peers():
    torch = torch_one_thread()
    if not torch:
        return {}
    bf = torch.bfloat16
    a = [(torch.randn(64, 16, 4096) * 0.02).to(bf) for _ in range(MATRICES)]
    b = [(torch.randn(64, OUT, 16) * 0.02).to(bf) for _ in range(MATRICES)]
    x, y = torch.randn(64, 4096, 1).to(bf), torch.zeros(64, OUT, 1).to(bf)

    def loop(i):
        i = (i + MATRICES // 2) % MATRICES  # not those that the other one has just read
        for k in range(64):
            y[k] += torch.nn.functional.linear(torch.nn.functional.linear(x[k].T, a[i][k]), b[i][k]).T * 2.0
    return {"torch bmm, stacked before": lambda i: y.add_(torch.bmm(b[i], torch.bmm(a[i], x)), alpha=2.0),
            "PEFT's mixed-batch loop": loop}


PEERS = {
    "fuse-r16": fuse_peers, "fuse-r16-in-place": fuse_peers,
    "fuse-4-nearest": mlx_fuse_peers, "fuse-4-dither": mlx_fuse_peers,
    "fuse-4-dora-nearest": lambda: mlx_fuse_peers(dora=True), "fuse-4-dora-dither": lambda: mlx_fuse_peers(dora=True),
    "fuse-8-nearest": lambda: mlx_fuse_peers(bits=8), "fuse-mxfp4-nearest": lambda: mlx_fuse_peers("mxfp4", 4, 32),
    "fuse-nvfp4-nearest": lambda: mlx_fuse_peers("nvfp4", 4, 16),
    "quantize-4": lambda: mlx_peers("affine", 4, 64, 0), "dequantize-4": lambda: mlx_peers("affine", 4, 64, 1),
    "quantize-mxfp4": lambda: mlx_peers("mxfp4", 4, 32, 0), "dequantize-mxfp4": lambda: mlx_peers("mxfp4", 4, 32, 1),
    "quantize-nvfp4": lambda: mlx_peers("nvfp4", 4, 16, 0), "dequantize-nvfp4": lambda: mlx_peers("nvfp4", 4, 16, 1),
    "quantize-nf4": lambda: bnb_peers(0), "dequantize-nf4": lambda: bnb_peers(1),
    "gemv-4-exact": lambda: ort_peers(1, 1), "gemv-4-int8": lambda: ort_peers(1, 4) | ggml_peers(1),
    "gemm-4-m16": lambda: ort_peers(16, 1), "gemm-4-m64": lambda: ort_peers(64, 1),
    # BF16 x, which onnxruntime does not take on CPUs: its float32 x
    "gemm-4-bf16x-m16": lambda: ort_peers(16, 1), "gemm-4-bf16x-m64": lambda: ort_peers(64, 1),
    "gemm-4-int8-m64": lambda: ort_peers(64, 4) | ggml_peers(64), "adapters-64": adapter_peers,
}


def measure(row):
    peers = PEERS[row]()
    ours = subprocess.Popen([SPEED, "--serve", row], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    error, times = ours.stdout.readline().strip(), {name: [] for name in ["ours", *peers]}
    for i in range(ROUNDS + 1):  # the first warms up
        ours.stdin.write("o\n")
        ours.stdin.flush()
        times["ours"].append(float(ours.stdout.readline()))
        for name, run in peers.items():
            begun = time.process_time()
            run(i % MATRICES)
            times[name].append(time.process_time() - begun)
    ours.stdin.close()
    ours.wait()
    mine = times["ours"][1:]
    for name in peers:
        ratios = [p / o for p, o in zip(times[name][1:], mine)]
        print(f"| {row} | {statistics.median(mine) * 1e3:.3f} ms | {name} | {statistics.median(times[name][1:]) * 1e3:.3f} ms | "
              f"{statistics.median(ratios):.1f} ({min(ratios):.1f} - {max(ratios):.1f}) | {error} |", flush=True)


for wanted in [row for row in sys.argv[1:] if row in PEERS] or ([] if sys.argv[1:] else PEERS):
    measure(wanted)
