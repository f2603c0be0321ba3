#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""peers.py [MEGABYTES [RUNS [GROUP...]]]: tenon beside mlx-lm and PEFT on the same files, in turns. Groups: fuse, fuse4 (a base of
4 bits that stays one), quantize; all of them.

Run it with a Python that has mlx-lm, or peft and torch; a peer that is not there is skipped with a line that says so.
Whole processes are timed, imports included, because that is what a person waits for; of the outputs only tenon's is on
disk when the clock stops. Files are in the page cache. Every round holds each job once, and a ratio is that of two jobs
of one round; a round that is not counted comes first, and its outputs are held against the truth.

TENON and TOOLS: the command, and the folder of timed and make_model (build/tenon, build/bench). BENCH_DIR: where to
write.
"""
import importlib.util
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent.parent
TENON = os.environ.get("TENON", str(HERE / "build/tenon"))
TOOLS = pathlib.Path(os.environ.get("TOOLS", HERE / "build/bench"))

PEFT_MERGE = """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("model/base", dtype=torch.bfloat16)
PeftModel.from_pretrained(model, "model/adapter").merge_and_unload().save_pretrained("out")
"""


def have(*modules):
    missing = [m for m in modules if importlib.util.find_spec(m) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed for {pathlib.Path(sys.executable).name}")
    return not missing


def peers():
    """(group, name, command) of every job that can run here; tenon comes first in its group."""
    jobs = []
    mlx, peft = have("mlx_lm"), have("peft", "torch", "transformers")
    python = [sys.executable, "-m", "mlx_lm"]
    if mlx or peft:
        jobs.append(("fuse", "tenon fuse", [TENON, "fuse", "-q", "--model", "model/base", "--adapter-path",
                                            "model/adapter", "--save-path", "out"]))
    if mlx:
        jobs.append(("fuse", "mlx_lm fuse", [*python, "fuse", "--model", "model/base", "--adapter-path",
                                             "model/adapter-mlx", "--save-path", "out"]))
    if peft:
        jobs.append(("fuse", "peft merge", [sys.executable, "-c", PEFT_MERGE]))
    if mlx:
        four = ["fuse", "--model", "model/four", "--save-path", "out", "--adapter-path"]
        for rounding in ("nearest", "auto"):
            jobs.append(("fuse4", f"tenon fuse {rounding}", [TENON, *four, "model/adapter", "-q", "--rounding", rounding]))
        jobs.append(("fuse4", "mlx_lm fuse 4-bit", [*python, *four, "model/adapter-mlx"]))
        convert = ["convert", "--hf-path", "model/base", "--mlx-path", "out", "-q"]
        jobs.append(("quantize", "tenon convert -q", [TENON, *convert, "--quiet"]))
        jobs.append(("quantize", "mlx_lm convert -q", [*python, *convert]))
    return jobs


def make_model(megabytes):
    subprocess.run([TOOLS / "make_model", "model", str(megabytes)], check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):  # mlx_lm loads and saves one with the model
        shutil.copy(HERE / "examples/base" / name, "model/base")
    subprocess.run([TENON, "convert", "--hf-path", "model/base", "--mlx-path", "model/four", "-q", "--quiet"], check=True)


def timed(command):
    """(seconds, CPU seconds, resident MB, anonymous MB)"""
    shutil.rmtree("out", ignore_errors=True)
    environment = dict(os.environ, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    with open("log", "w") as log:
        done = subprocess.run([TOOLS / "timed", "line", *command], stdout=log, stderr=log, env=environment)
        subprocess.run(["sync", "out"], stderr=log)
    if done.returncode != 0:
        sys.exit(pathlib.Path("log").read_text()[-2000:])
    seconds, cpu, resident, anonymous = map(float, pathlib.Path("line").read_text().split())
    return seconds, cpu, resident / 1e3, anonymous / 1e3


def verify(group, job):
    """A peer that did other work is no peer."""
    adapter, base = "adapter-mlx" if job.startswith("mlx_lm") else "adapter", "four" if group == "fuse4" else "base"
    done = subprocess.run([TENON, "verify", f"model/{base}", f"model/{adapter}", "out"], capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr.strip()


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def report(jobs, found):
    print(f"{'job':<20}{'seconds':>24}{'times tenon':>24}{'CPU s':>8}{'resident MB':>14}{'anonymous MB':>14}")
    first = {}
    for group, name, _ in jobs:
        seconds, cpu, resident, anonymous = zip(*found[name])
        ratio = [own / tenon for own, tenon in zip(seconds, first.setdefault(group, seconds))]
        print(f"{name:<20}{spread(seconds, 2):>24}{spread(ratio, 1):>24}{statistics.median(cpu):>8.2f}"
              f"{max(resident):>14.0f}{max(anonymous):>14.0f}")


def main():
    megabytes, runs = (int(v) for v in (sys.argv[1:3] + ["500", "5"][len(sys.argv[1:3]):]))
    jobs = [job for job in peers() if job[0] in sys.argv[3:] or not sys.argv[3:]]
    if not jobs:
        print("no peer here: nothing was measured")
        return
    with tempfile.TemporaryDirectory(prefix="tenon-peers-", dir=os.environ.get("BENCH_DIR")) as area:
        os.chdir(area)
        make_model(megabytes)
        found = {name: [] for _, name, _ in jobs}
        for turn in range(runs + 1):
            for group, name, command in jobs:
                measured = timed(command)
                if turn > 0:
                    found[name].append(measured)
                elif group != "quantize":
                    print(f"{name}: verify says {verify(group, name)}")
        report(jobs, found)
        os.chdir(HERE)


if __name__ == "__main__":
    main()
