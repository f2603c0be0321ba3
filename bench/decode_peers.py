#!/usr/bin/env python3
"""decode_peers.py [ROUNDS [THREADS...]]: tokens a second of a synthetic Llama of TinyLlama's shape with 4-bit weights: first beside a
read of the same bytes (bench_decode), with and without an adapter, then beside llama.cpp (Q4_0, on the CPU) and mlx-lm (CPU; one
thread, whatever it is given). 5 rounds, 1 and 2 threads.

A round is one reply and one prompt of 128 tokens of ours, exact and with 8-bit activations, then llama-bench. mlx-lm, which takes
a minute for a few tokens, has one turn. Prints medians, medians of the ratios of each round, and their ranges.

LLAMA: the folder of llama-bench and llama-quantize; without it, and without the packages gguf or mlx-lm, that peer is left out.
TENON and TOOLS: the command, and the folder of bench_decode and make_model (build/tenon, build/bench). BENCH_DIR: where to work
(3.5 GB; all made there is removed at the end)."""
import importlib.util, json, os, pathlib, shutil, statistics, subprocess, sys, tempfile, time

TENON = pathlib.Path(os.environ.get("TENON", "build/tenon")).resolve()
TOOLS = pathlib.Path(os.environ.get("TOOLS", "build/bench")).resolve()
LLAMA = os.environ.get("LLAMA")
HIDDEN, WIDE, VOCABULARY, LAYERS, KEYS = 2048, 5632, 32000, 22, 256
REPLY, PROMPT = 32, 128


def make_ours():
    subprocess.run([TOOLS / "make_model", "model", "2200"], check=True)
    subprocess.run([TENON, "quantize", "--quiet", "--model", "model/base", "--save-path", "four"], check=True)
    shutil.rmtree("model/base")


def make_gguf():
    """The same shape in F16, with uniform weights of the same size, and Q4_0 of it by llama.cpp's own program."""
    import gguf, numpy
    random = numpy.random.default_rng(1)
    out = gguf.GGUFWriter("half.gguf", "llama")
    out.add_context_length(2048)
    out.add_embedding_length(HIDDEN)
    out.add_block_count(LAYERS)
    out.add_feed_forward_length(WIDE)
    out.add_head_count(32)
    out.add_head_count_kv(4)
    out.add_rope_dimension_count(64)
    out.add_rope_freq_base(10000.0)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(VOCABULARY)
    out.add_tokenizer_model("no_vocab")

    def matrix(name, rows, cols):
        out.add_tensor(name + ".weight", ((random.random((rows, cols), dtype=numpy.float32) - 0.5) / 16).astype(numpy.float16))

    def norm(name):
        out.add_tensor(name + ".weight", numpy.ones(HIDDEN, numpy.float32))
    matrix("token_embd", VOCABULARY, HIDDEN)
    matrix("output", VOCABULARY, HIDDEN)
    norm("output_norm")
    for i in range(LAYERS):
        for name, rows, cols in [("attn_q", HIDDEN, HIDDEN), ("attn_k", KEYS, HIDDEN), ("attn_v", KEYS, HIDDEN),
                                 ("attn_output", HIDDEN, HIDDEN), ("ffn_gate", WIDE, HIDDEN), ("ffn_up", WIDE, HIDDEN),
                                 ("ffn_down", HIDDEN, WIDE)]:
            matrix(f"blk.{i}.{name}", rows, cols)
        norm(f"blk.{i}.attn_norm")
        norm(f"blk.{i}.ffn_norm")
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    subprocess.run([f"{LLAMA}/llama-quantize", "--pure", "half.gguf", "four.gguf", "Q4_0", "2"], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.remove("half.gguf")


class Ours:
    def __init__(self, threads, activations):
        self.process = subprocess.Popen([TOOLS / "bench_decode", "--threads", str(threads), "--activations", activations, "--tokens",
                                         str(REPLY), "--serve", "1", "four"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def rate(self, prompt):
        self.process.stdin.write(f"{prompt}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def turn(self):
        return {"reply": self.rate(0), "prompt": self.rate(PROMPT)}

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def beside_limit(rounds, threads):
    for more in [[], ["--activations", "int8"], ["--adapter", "model/adapter"]]:
        subprocess.run([TOOLS / "bench_decode", "--threads", str(threads), "--rounds", str(rounds), *more, "four"], check=True)


def llama_turn(threads):
    out = subprocess.run([f"{LLAMA}/llama-bench", "-m", "four.gguf", "-t", str(threads), "-n", str(REPLY), "-p", str(PROMPT), "-r", "1",
                          "-o", "json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return {"prompt" if row["n_prompt"] else "reply": row["avg_ts"] for row in json.loads(out)}


def mlx_rate():
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache
    from mlx_lm.utils import load_model
    mx.set_default_device(mx.cpu)
    model, _ = load_model(pathlib.Path("four"))
    cache, times = make_prompt_cache(model), []
    for i in range(4):
        begun = time.monotonic()
        mx.eval(model(mx.array([[i + 1]]), cache=cache))
        times.append(time.monotonic() - begun)
    return 1 / statistics.median(times[1:])


def line(name, threads, work, mine, theirs):
    ratios = [m / t for m, t in zip(mine, theirs)]
    print(f"| {work}, {name} | {threads} | {statistics.median(mine):.1f} | {statistics.median(theirs):.1f} | "
          f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}) |", flush=True)


def measure(rounds, threads, has_llama):
    engines = {"exact": Ours(threads, "f32"), "8-bit activations": Ours(threads, "int8")}
    ours, theirs = {name: [] for name in engines}, []
    for i in range(rounds + 1):  # the first warms up
        for name, engine in engines.items():
            ours[name].append(engine.turn())
        if has_llama:
            theirs.append(llama_turn(threads))
    for engine in engines.values():
        engine.end()
    for name, turns in ours.items():
        for work in ["reply", "prompt"] if has_llama else []:
            line(f"{name}; llama.cpp Q4_0", threads, work, [t[work] for t in turns[1:]], [t[work] for t in theirs[1:]])
    return [t["reply"] for t in ours["exact"][1:]]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    has_llama = bool(LLAMA) and importlib.util.find_spec("gguf") is not None
    folder = tempfile.mkdtemp(dir=os.environ.get("BENCH_DIR"))
    os.chdir(folder)
    try:
        make_ours()
        if has_llama:
            make_gguf()
        counts = [int(t) for t in sys.argv[2:]] or [1, 2]
        for threads in counts:
            beside_limit(rounds, threads)
        print("| tokens a second | threads | ours | theirs | ratio |\n|---|---|---|---|---|", flush=True)
        for threads in counts:
            mine = measure(rounds, threads, has_llama)
            if threads == 1 and importlib.util.find_spec("mlx_lm"):
                line("exact; mlx-lm", 1, "reply", mine, [mlx_rate()] * len(mine))
    finally:
        os.chdir("/")
        shutil.rmtree(folder)


main()
