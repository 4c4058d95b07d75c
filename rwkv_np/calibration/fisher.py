"""How much a model's output depends on the output of each matrix at each token: the weights of a Fisher matrix.

An error e of a matrix's output z = W x at token t adds about half of the sum of (dL/dz_t)² e² to the KL divergence
from the exact model, where L is the loss of labels that are drawn from the model's own prediction. So a quantizer that
weighs x_t x_tᵀ with s_t, the mean of (dL/dz_t)² over the outputs, spares the tokens where errors cost most.

A drawn label is nearly always the likely one, which gives almost no gradient, and rarely another, which gives a large
one. So on a few thousand tokens s_t depends more on luck than on the model. Therefore the gradient starts from another
random vector with the same second moment, diag(p) - p pᵀ: its square root times random signs. From 957 tokens of
the demo model, the predicted cost of rounding a matrix varied between seeds by a factor of 1.5 instead of 3; files
calibrated on 16 384 tokens were equally good, also with the mean of four seeds.

Windows go together through one layer after the other, because a layer's weights are read and widened to float32 each
time. Each thread computes whole windows. Only what enters each layer is kept on the way forward; the way back
computes a layer again, with a tape (`tape.py`). `blocks.py` has the layers of each version.

Source: GuidedQuant, arXiv 2505.07004, for the weighted Hessian; here with one weight for all outputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import ThreadpoolController

from rwkv_np import arguments
from rwkv_np.calibration.blocks import LAYERS, Block
from rwkv_np.calibration.tape import Tape
from rwkv_np.errors import InputError
from rwkv_np.files.parameter import Parameter
from rwkv_np.kernels.equations import HEAD_EPSILON, layer_norm
from rwkv_np.kernels.threads import default_threads
from rwkv_np.models.base import Progress
from rwkv_np.models.registry import ARCHITECTURES, identify, titles

HEAD_ROWS = 128  # tokens whose logits are in memory at a time for each thread: 33 MB with a vocabulary of 65536
DECODED = 2**20  # weights that a thread decodes at a time

Arrays = list[np.ndarray]
"""What goes from layer to layer for one window: the residual stream (T, C), and in RWKV-7 the first layer's v."""

Gradients = list[np.ndarray | None]


def sensitivities(
    parameters: Mapping[str, Parameter],
    windows: Sequence[np.ndarray],
    rng: np.random.Generator,
    progress: Progress | None = None,
    *,
    head_epsilon: float = HEAD_EPSILON,
    threads: int | None = None,
    memory: int = 2**30,
) -> dict[str, np.ndarray]:
    """s_t of every matrix of the layers that quantizers convert, by its name: the mean of (dL/dz_t)² over its outputs.

    parameters    of a model file: `read_model(path).parameters`. Any type; one layer at a time is widened to float32
    windows       token ids (T,) each, every one from an empty state
    rng           gives a seed to each window in order: the same windows in several calls get the same signs
    progress      called with (what is being done, steps done, steps in all)
    head_epsilon  as in `rwkv_np.load`
    threads       how many compute windows; by default the physical cores
    memory        bytes for what enters each layer, unless one window for each thread takes more
    Returns       (tokens of all windows,) float32 each, in the order of the windows
    Raises        InputError: no windows, ids out of range, not a model; FormatError: the file was cut meanwhile
    """
    model = _Model(parameters, head_epsilon)
    ids = [model.checked(window) for window in windows]
    if not ids:
        raise InputError("windows is empty; expected at least one")
    seeds = [np.random.SeedSequence(int(rng.integers(2**63))) for _ in ids]
    out = {name: np.empty(sum(map(len, ids)), np.float32) for name in model.matrices}
    threads = threads or default_threads()
    groups = list(_groups([len(window) for window in ids], threads, memory // model.bytes_of_token))
    steps = _Steps(progress, len(groups) * model.n_steps)
    with ThreadPoolExecutor(threads) as pool:
        for group in groups:
            n_blas = max(1, threads // len(ids[group]))
            with ThreadpoolController().limit(limits=n_blas, user_api="blas"):
                found = _read_group(model, ids[group], seeds[group], pool, steps)
            start = sum(map(len, ids[: group.start]))
            for name, values in found.items():
                out[name][start : start + len(values)] = values
    return out


def _groups(lengths: Sequence[int], threads: int, n_tokens: int) -> Iterator[slice]:
    """Consecutive windows of up to that many tokens together, a multiple of `threads` of them."""
    start = end = 0
    while end < len(lengths):
        if end > start and sum(lengths[start : end + threads]) > n_tokens:
            yield slice(start, end)
            start = end
        end = min(end + threads, len(lengths))
    yield slice(start, end)


class _Steps:
    """Counts finished steps and reports them."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def next(self) -> None:
        self._done += 1
        if self._progress:
            self._progress("Fisher weights", self._done, self._total)


class _Model:
    """The parameters of a model, one layer at a time."""

    def __init__(self, parameters: Mapping[str, Parameter], epsilon: float) -> None:
        record = ARCHITECTURES.get(found := identify(parameters))
        if record is None:
            raise InputError(f"the parameters are those of {found}; supported: {titles()}")
        self._parameters, self._epsilon = parameters, epsilon
        self._sizes = record.sizes({name: p.shape for name, p in parameters.items()})
        self.n_layer, self.layer = self._sizes.n_layer, LAYERS[record.name]
        self.n_steps = 2 * self.n_layer + 1
        self.bytes_of_token = 4 * self.n_layer * self._sizes.n_embd
        # With a single head, the decay and the bonus of RWKV-5 and 6 have two dimensions too: they are columns.
        self.matrices = [
            name for name, p in parameters.items() if record.is_quantizable(name, p.shape) and p.shape[-1] > 1
        ]

    def checked(self, window: np.ndarray) -> np.ndarray:
        """The ids of a window. Raises InputError."""
        ids = arguments.token_ids("a window", window)
        if ids.min() < 0 or ids.max() >= self._sizes.vocab_size:
            raise InputError(f"a window has ids from {ids.min()} to {ids.max()}; the model's are 0 to "
                             f"{self._sizes.vocab_size - 1}: the tokenizer may belong to another model")  # fmt: skip
        return ids

    def embedded(self, ids: np.ndarray) -> Arrays:
        """What enters the first layer."""
        x = self._parameters["emb.weight"].chosen(ids)
        return [layer_norm(x, *(self._parameters[f"blocks.0.ln0.{part}"].array() for part in ("weight", "bias")))]

    def block(self, i: int, pool: ThreadPoolExecutor) -> Block:
        """The parameters of a layer."""
        prefix = f"blocks.{i}."
        arrays = {
            name.removeprefix(prefix): _widened(p, pool)
            for name, p in self._parameters.items() if name.startswith(prefix)
        }  # fmt: skip
        return Block(arrays, self._sizes.n_head, self._epsilon)

    def top(self, pool: ThreadPoolExecutor) -> Block:
        """The last norm and the head."""
        names = ("ln_out.weight", "ln_out.bias", "head.weight")
        return Block({name: _widened(self._parameters[name], pool) for name in names}, 0, 0.0)


def _widened(p: Parameter, pool: ThreadPoolExecutor) -> np.ndarray:
    """The parameter as float32, decoded by all threads: by one it takes a tenth of the time of a layer."""
    out, step = np.empty((p.n_rows, p.shape[-1]), np.float32), max(1, DECODED // p.shape[-1])

    def decode(start: int) -> None:
        out[start : start + step] = p.rows(slice(start, start + step))

    list(pool.map(decode, range(0, p.n_rows, step)))
    return out.reshape(p.shape)


def _read_group(
    model: _Model,
    windows: Sequence[np.ndarray],
    seeds: Sequence[np.random.SeedSequence],
    pool: ThreadPoolExecutor,
    steps: _Steps,
) -> dict[str, np.ndarray]:
    """s_t of every matrix for some windows, forward and back."""
    kept, values = [], list(pool.map(model.embedded, windows))
    for i in range(model.n_layer):
        kept.append(values)
        p = model.block(i, pool)
        values = list(pool.map(lambda arrays: _forward(model, p, arrays), values))
        steps.next()
    gradients = _turn(model, values, seeds, pool)
    del values
    steps.next()
    found = {}
    for i in reversed(range(model.n_layer)):
        p = model.block(i, pool)
        pairs = list(pool.map(lambda arrays, g: _backward(model, p, arrays, g), kept.pop(), gradients))
        gradients = [g for g, _ in pairs]
        for name in pairs[0][1]:
            found[f"blocks.{i}.{name}"] = np.concatenate([s[name] for _, s in pairs])
        steps.next()
    return {name: found[name] for name in model.matrices}


def _turn(
    model: _Model, values: Sequence[Arrays], seeds: Sequence[np.random.SeedSequence], pool: ThreadPoolExecutor
) -> list[Gradients]:
    """From what leaves the last layer to the gradients with respect to it; the head is in memory only here."""
    top = model.top(pool)
    return list(pool.map(lambda arrays, seed: _loss_gradient(top, arrays[0], seed), values, seeds))


def _forward(model: _Model, p: Block, arrays: Arrays) -> Arrays:
    """One window through one layer."""
    tape = Tape(is_recording=False)
    return [value.array for value in model.layer(p, [tape.value(x) for x in arrays])]


def _backward(model: _Model, p: Block, arrays: Arrays, gradients: Gradients) -> tuple[Gradients, dict[str, np.ndarray]]:
    """One window through one layer and back: the gradients with respect to what entered, and s_t of each matrix."""
    found: dict[str, np.ndarray] = {}

    def note(name: str, g: np.ndarray) -> None:
        found[name] = np.einsum("ti,ti->t", g, g) / g.shape[1]

    tape = Tape(note)
    entering = [tape.value(x) for x in arrays]
    for value, g in zip(model.layer(p, entering), gradients):
        if g is not None:
            value.add(g)
    tape.backward()
    return [value.gradient for value in entering], found


def _loss_gradient(top: Block, x: np.ndarray, seed: np.random.SeedSequence) -> Gradients:
    """From what leaves the last layer (T, C) to the gradient with respect to it, for random signs."""
    tape, rng = Tape(), np.random.default_rng(seed)
    entering = tape.value(x)
    normed, head = top.norm("ln_out", entering), top["head.weight"]
    g = np.empty_like(x)
    for start in range(0, len(x), HEAD_ROWS):
        rows = slice(start, start + HEAD_ROWS)
        np.matmul(logits_gradient(normed.array[rows] @ head.T, rng), head, out=g[rows])
    normed.add(g)
    tape.backward()
    return [entering.gradient, None]


def logits_gradient(logits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random vectors (T, V) whose second moment is the Fisher information of each softmax, diag(p) - p pT."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    return spread(p, _signs(rng, p.shape).astype(p.dtype))


def spread(p: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """For each row of probabilities (T, V) the square root of diag(p) - p pT, times a vector of signs."""
    roots = np.sqrt(p)
    roots *= signs
    return roots - p * roots.sum(axis=1, keepdims=True)


def _signs(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """1 and -1, int8."""
    n = shape[0] * shape[1]
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-n // 8)), np.uint8), count=n)
    return 1 - 2 * bits.view(np.int8).reshape(shape)
