"""Compare rwkv.cpp or llama.cpp and this program on the same file: alternate runs A B A B, a ratio for each pair.

The other program is called through its C interface, from a shared library that you build yourself.
Alternating in one process exposes both to the same load of a shared machine.

    python bench/peers.py MODEL.bin --rwkv-cpp PATH/librwkv.so
    python bench/peers.py MODEL.gguf --llama-cpp PATH/libllama.so

The last line is one JSON document. For llama.cpp it also says how far the logits of both programs are apart. Versions
of rwkv.cpp of April 2023 cannot read a sequence in one call, so their prefill is left out.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable
from pathlib import Path
from typing import Union

import click
import numpy as np
from llama_cpp import LlamaCpp
from model import load
from rwkv_np.kernels.threads import default_threads

from rwkv_np.evaluation.speed import seconds

Floats = ctypes.POINTER(ctypes.c_float)


class RwkvCpp:
    """A model in rwkv.cpp: `decode` reads one token, `prefill` a sequence; both keep the state."""

    title = "rwkv.cpp"

    def __init__(self, library: Path, model: Path, threads: int) -> None:
        self.lib = ctypes.CDLL(str(library))
        self.has_sequence = hasattr(self.lib, "rwkv_eval_sequence")
        self.lib.rwkv_init_from_file.restype = ctypes.c_void_p
        # Since 2024 a third argument gives the number of layers on a GPU; older libraries ignore it.
        self.context = ctypes.c_void_p(self.lib.rwkv_init_from_file(str(model).encode(), threads, 0))
        if not self.context:
            raise click.ClickException(f"{library} cannot load {model}; see its own message above")
        self.state, self.logits = self._buffer("state"), self._buffer("logits")
        self.started = False

    def _buffer(self, what: str) -> np.ndarray:
        """A buffer of the size that the library reports; in April 2023 its functions said `buffer_element_count`."""
        for name in (f"rwkv_get_{what}_len", f"rwkv_get_{what}_buffer_element_count"):
            if hasattr(self.lib, name):
                getattr(self.lib, name).restype = ctypes.c_size_t
                return np.zeros(getattr(self.lib, name)(self.context), np.float32)
        raise click.ClickException(f"rwkv_get_{what}_len is missing: this version of rwkv.cpp is not supported")

    def _pointers(self) -> tuple:
        state = self.state.ctypes.data_as(Floats)
        before = state if self.started else None
        self.started = True
        return before, state, self.logits.ctypes.data_as(Floats)

    def decode(self, token: int) -> None:
        """Read one token."""
        if not self.lib.rwkv_eval(self.context, ctypes.c_uint32(token), *self._pointers()):
            raise click.ClickException("rwkv_eval failed")

    def prefill(self, tokens: np.ndarray) -> None:
        """Read a sequence at once."""
        ids = tokens.astype(np.uint32)
        pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_uint32))
        if not self.lib.rwkv_eval_sequence(self.context, pointer, ctypes.c_size_t(len(ids)), *self._pointers()):
            raise click.ClickException("rwkv_eval_sequence failed")


class Ours:
    """The same two methods for the fused engine."""

    def __init__(self, model: Path, threads: int, head_q8_0: bool | None) -> None:
        self.model = load(model, threads=threads, head_q8_0=head_q8_0)
        self.state = None

    def decode(self, token: int) -> np.ndarray:
        """Read one token."""
        logits, self.state = self.model.forward(int(token), self.state)
        return logits

    def prefill(self, tokens: np.ndarray) -> np.ndarray:
        """Read a sequence at once."""
        logits, self.state = self.model.forward(tokens, self.state)
        return logits

    def forget(self) -> None:
        """Start a new sequence."""
        self.state = None


Theirs = Union[RwkvCpp, LlamaCpp]


def in_turn(a: Callable[[], object], b: Callable[[], object], pairs: int) -> np.ndarray:
    """(pairs, 2) seconds of a and b, measured alternately, after one warm-up call of each."""
    a(), b()
    return np.array([(seconds(a), seconds(b)) for _ in range(pairs)])


def differences(ours: Ours, theirs: LlamaCpp, tokens: np.ndarray) -> dict:
    """Medians over the tokens, read one by one: rms of ours - theirs by the spread of theirs, and KL(theirs, ours)."""
    ours.forget(), theirs.forget()
    distances, losses = [], []
    for token in tokens:
        a, b = (program.decode(int(token)).astype(np.float64) for program in (ours, theirs))
        distances.append(float(np.sqrt(np.mean((a - b) ** 2)) / b.std()))
        log_a, log_b = (x - x.max() - np.log(np.exp(x - x.max()).sum()) for x in (a, b))
        losses.append(float(np.sum(np.exp(log_b) * (log_b - log_a))))
    found = {"rms": float(np.median(distances)), "kl": float(np.median(losses))}
    click.echo(f"  logits  median rms difference {found['rms']:.1e} of their spread, median KL {found['kl']:.1e}")
    return found


def _summary(name: str, peer: str, taken: np.ndarray, tokens: int) -> dict:
    ratios = taken[:, 1] / taken[:, 0]
    ours, theirs = tokens / np.median(taken, axis=0)
    low, middle, high = np.percentile(ratios, (10, 50, 90))
    click.echo(
        f"{name:>8}  ours {ours:8.1f} tok/s  {peer} {theirs:8.1f} tok/s  "
        f"ratio {middle:.2f} (10-90 %: {low:.2f}-{high:.2f})"
    )
    key = f"{peer.replace('.', '_')}_tok_s"
    return {"ours_tok_s": ours, key: theirs, "ratio": middle, "ratio_p10_p90": [low, high]}


@click.command(context_settings={"show_default": True})
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rwkv-cpp", type=click.Path(exists=True, path_type=Path), help="librwkv.so")
@click.option("--llama-cpp", type=click.Path(exists=True, path_type=Path), help="libllama.so, or a program next to it")
@click.option("--threads", type=int, default=default_threads(), help="Number of threads of both programs.")
@click.option(
    "--head-q8-0/--head-fp16", default=None,
    help="Convert our head to Q8_0; the others use the file's.  [default: if quantized]",
)  # fmt: skip
@click.option("--pairs", type=int, default=7, help="Number of pairs of timings.")
@click.option("--prompt", type=int, default=64, help="Tokens of the prompt; with 128, rwkv.cpp aborts at 1.5B.")
def main(
    model: Path, rwkv_cpp: Path | None, llama_cpp: Path | None, threads: int, head_q8_0: bool | None, pairs: int,
    prompt: int,
) -> None:  # fmt: skip
    """Time MODEL in both programs."""
    if (rwkv_cpp is None) == (llama_cpp is None):
        raise click.UsageError("give either --rwkv-cpp or --llama-cpp")
    ours = Ours(model, threads, head_q8_0)
    theirs: Theirs = RwkvCpp(rwkv_cpp, model, threads) if rwkv_cpp else LlamaCpp(llama_cpp, model, threads)
    tokens = np.random.default_rng(0).integers(0, ours.model.config.vocab_size, prompt)

    def decode(program: Ours | Theirs) -> Callable[[], None]:
        return lambda: [program.decode(int(token)) for token in tokens[:8]] and None

    found = {
        "model": model.name,
        "threads": threads,
        "head_q8_0": head_q8_0,
        "kernels": ours.model.kernels.path,
    }
    if isinstance(theirs, LlamaCpp):
        found["logits"] = differences(ours, theirs, tokens[:32])
    found["decode"] = _summary("decode", theirs.title, in_turn(decode(ours), decode(theirs), pairs), 8)
    if theirs.has_sequence:
        both = in_turn(lambda: ours.prefill(tokens), lambda: theirs.prefill(tokens), pairs)
        found["prefill"] = _summary("prefill", theirs.title, both, prompt)
    click.echo(json.dumps(found))


if __name__ == "__main__":
    main()
