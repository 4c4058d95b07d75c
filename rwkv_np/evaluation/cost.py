"""What a model costs: file size, memory, and time; each model is measured in its own process.

Memory is RssAnon: the memory that belongs to the process alone. Pages of the mapped file, which the
operating system may drop at any time, are not counted. In one process, two models could not be separated,
and the first one loaded would count for the next. So each model is loaded and timed in a fresh child
process, one after the other. `rss_anon` is the total, including Python and Numba; `rss_anon_model` is the
part added by the model and its kernels. A child that had to compile kernels also has the compiler's
memory, so its memory is measured again in a second one.

    python -m rwkv_np.evaluation.cost MODEL.bin '{"threads": 2}'    prints the results of one model
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import Any

from rwkv_np.errors import InputError
from rwkv_np.evaluation.candidate import Candidate
from rwkv_np.kernels import cache
from rwkv_np.memory import resident_anonymous
from rwkv_np.models.containers import read_model

PROMPT = 128


@dataclass(frozen=True)
class Cost:
    """Bytes, and bytes or tokens per second; None if the system does not report it, or the model is not timed.

    bits_per_weight  of the whole file: embedding, head and vectors, which stay FP16 and FP32, included
    share            the share of the memory bandwidth that decoding uses; see `speed.py`
    """

    n_bytes: int
    bits_per_weight: float
    rss_anon: int | None = None
    rss_anon_model: int | None = None
    decode: float | None = None
    prefill: float | None = None
    share: float | None = None
    bandwidth: float | None = None
    n_threads: int | None = None


def size(path: str) -> Cost:
    """The costs that can be read from the file alone."""
    file = read_model(path)
    n_weights = sum(p.n_weights for p in file.parameters.values())
    return Cost(file.n_bytes, 8 * file.n_bytes / n_weights)


def cost(candidate: Candidate, threads: int | None = None) -> Cost:
    """Measure a candidate in a child process. The NumPy graph is not timed: it is not used for chatting.

    Raises InputError: the child failed; with the child's message.
    """
    file_cost = size(candidate.path)
    if candidate.has_float32_activations:
        return file_cost
    options = json.dumps({"threads": threads, **candidate.options})
    n_kept = len(list(cache.kept()))
    measured = _measure_in_child(candidate.path, options)
    if len(list(cache.kept())) != n_kept:
        measured = _measure_in_child(candidate.path, options)
    return Cost(**asdict(file_cost) | measured)


def _measure_in_child(path: str, options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "rwkv_np.evaluation.cost", os.path.abspath(path), options]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{path}: could not be measured in a child process: {last}")
    found: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return found


def measure(path: str, options: dict[str, Any]) -> dict[str, float | None]:
    """Load and time one model in this process, which must contain no other model."""
    # Imported before the memory is read for the first time: their memory does not belong to the model.
    from rwkv_np.evaluation import speed
    from rwkv_np.models import load
    from rwkv_np.models.engine import Engine

    before = resident_anonymous()
    model = load(path, **options)
    assert isinstance(model, Engine)
    prefill, decoding = speed.prefill(model, PROMPT), speed.decode(model)
    after = resident_anonymous()
    return {
        "rss_anon": after,
        "rss_anon_model": None if before is None or after is None else after - before,
        "decode": decoding.tokens_per_s,
        "prefill": prefill,
        "share": decoding.share,
        "bandwidth": decoding.bandwidth,
        "n_threads": model.n_threads,
    }


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], json.loads(sys.argv[2]))))
