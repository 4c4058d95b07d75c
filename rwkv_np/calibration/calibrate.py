"""From a source file and a text to a calibrated file: the whole run, and what it reports.

All input errors are found first. Then: how much each token counts (forward and backward); for a file of a given size,
the loss of each matrix in each type, and the mixture; the matrices, layer by layer; the file; and the comparison with
plain rounding, on text that was kept back and on what the new model writes.
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rwkv_np import arguments, memory
from rwkv_np.calibration import mixture
from rwkv_np.calibration.body import Body
from rwkv_np.calibration.mixture import Choice, Chosen
from rwkv_np.calibration.text import read_windows
from rwkv_np.calibration.unfinished import Unfinished, fingerprint
from rwkv_np.calibration.verdict import Compared, compare, own_text
from rwkv_np.conversion.quantize import NOT_IN_V100, SEARCHED, Quantized, planned_types, quantize
from rwkv_np.errors import InputError, PathLike
from rwkv_np.files.format import HEADER_BYTES, ModelFile, parameter_bytes
from rwkv_np.files.output import check_destination
from rwkv_np.files.parameter import Parameter
from rwkv_np.files.quants import DataType, by_name
from rwkv_np.kernels.threads import default_threads
from rwkv_np.models import model_config
from rwkv_np.models.config import ModelConfig
from rwkv_np.models.containers import read_model
from rwkv_np.tokenizers import load_tokenizer

N_TOKENS = 32768
BYTES_OF_H = 40  # for each element of H: itself, and what its factor needs at the same time
GIB = 2**30

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of that is done, and its total."""


@dataclass(frozen=True)
class Calibrated:
    """The result.

    verdict       how it compares with plain rounding; empty if a mixture is Q8_0 everywhere, which is always plain
    mixture       empty unless a size was asked for
    is_continued  whether an earlier run had begun it
    """

    results: list[Quantized]
    verdict: list[Compared]
    mixture: list[Chosen]
    is_continued: bool

    @property
    def is_better(self) -> bool:
        """Whether it is better than plain rounding on both texts."""
        return all(compared.is_better for compared in self.verdict)


def calibrate(
    source: PathLike,
    destination: PathLike,
    data_type: str | None,
    text: PathLike,
    *,
    keep: Iterable[tuple[str, str]] = (),
    n_bytes: int | None = None,
    n_tokens: int = N_TOKENS,
    max_memory: int | None = None,
    seed: int = 0,
    tokenizer: PathLike | None = None,
    head_epsilon: float | None = None,
    overwrite: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Calibrated:
    """Write the FP16 or FP32 model file `source` with its matrices encoded for text such as `text`.

    data_type  Q4_0, Q4_1, Q5_0, Q5_1; None with `n_bytes`
    text       UTF-8, of the kind that the model is used for; another kind makes the model worse
    keep       as in `quantize`
    n_bytes    the size of the new file, at most: the types are then chosen by the loss that each causes
    max_memory bytes, about; by default half of the machine's
    seed       of the random signs that the sensitivities are estimated with
    Raises     InputError, TextError, FormatError, OutputError: nothing is written then
    """
    source, destination = arguments.path("source", source), arguments.path("destination", destination)
    keep = list(keep)
    check_destination(destination, source, overwrite)
    file = read_model(source)
    run = _Run(file, model_config(file, head_epsilon), threads or default_threads(), progress or _quiet)
    types = _types(file, data_type, keep, n_bytes)
    check_destination(destination, source, overwrite, 2 * _size(file, types) if n_bytes is None else 2 * n_bytes)
    tokens = load_tokenizer(tokenizer, run.config.vocab_size, model_path=source)
    windows = read_windows(text, tokens, n_tokens)
    max_memory = max_memory or (memory.installed() or 8 * GIB) // 2
    measured = {
        "source": fingerprint(source), "text": _digest([*windows.calibration, *windows.kept_back]), "seed": seed,
        "columns": _columns(max_memory), "epsilon": head_epsilon,
    }  # fmt: skip
    store = Unfinished(destination, measured, {"type": data_type, "keep": keep, "bytes": n_bytes})
    sensitivities = store.arrays(
        "sensitivities", run.matrices, lambda: run.sensitivities(windows.calibration, seed, max_memory)
    )

    def body() -> Body:
        return Body(file, run.config, windows.calibration, sensitivities, run.threads, _columns(max_memory))

    chosen: list[Chosen] = []
    if n_bytes is not None:
        names = _open_names(types, keep)
        losses = store.arrays("losses", names, lambda: run.losses(body(), names))
        chosen = _mixture(file, types, losses, n_bytes)
        keep = [*keep, *((one.name, one.choice.data_type) for one in chosen), *_ends(file, keep)]
        data_type = Counter(one.choice.data_type for one in chosen).most_common(1)[0][0]
        types = planned_types(file, data_type, keep)
    inner = {name: t for name, t in types.items() if name not in mixture.ENDS}
    body().encode(inner, store, lambda name, done, total: run.progress(f"{name} as {inner[name].name}", done, total))
    finished = {name: _loaded(store, file.parameters[name], t) for name, t in inner.items()}
    results = quantize(source, destination, data_type or "Q4_1", keep=keep, finished=finished, overwrite=overwrite,
                       threads=threads)  # fmt: skip
    written = read_model(destination).parameters
    verdict = []
    if any(t.name in SEARCHED for t in types.values()):
        verdict = run.verdict(types, {name: written[name] for name in types}, windows.kept_back, destination, seed)
    store.remove()
    return Calibrated(results, verdict, chosen, store.is_continued)


def _quiet(text: str, done: int, total: int) -> None:
    """No progress display."""


@dataclass(frozen=True)
class _Run:
    """What all steps need."""

    file: ModelFile
    config: ModelConfig
    threads: int
    progress: Progress

    @property
    def matrices(self) -> list[str]:
        """The matrices that have sensitivities."""
        is_quantizable = self.config.record.is_quantizable
        return [n for n, p in self.file.parameters.items() if is_quantizable(n, p.shape) and p.shape[-1] > 1]

    def sensitivities(self, windows: Sequence[np.ndarray], seed: int, max_memory: int) -> dict[str, np.ndarray]:
        from rwkv_np.calibration.fisher import sensitivities

        return sensitivities(
            self.file.parameters, windows, np.random.default_rng(seed), self.progress,
            head_epsilon=self.config.head_epsilon, threads=self.threads, memory=max_memory // 4,
        )  # fmt: skip

    def losses(self, body: Body, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The loss of each of those matrices in each of the types that a mixture may have."""
        found = body.losses(
            mixable(), names, lambda name, done, total: self.progress(f"the loss of {name}", done, total)
        )
        return {name: np.array(losses) for name, losses in found.items()}

    def verdict(
        self, types: Mapping[str, DataType], written: Mapping[str, Parameter], kept_back: Sequence[np.ndarray],
        path: PathLike, seed: int,
    ) -> list[Compared]:  # fmt: skip
        texts = {"text that was kept back": kept_back, "what the model writes itself": None}
        found = []
        for i, (name, windows) in enumerate(texts.items()):
            self.progress(f"comparing with plain rounding on {name}", i, len(texts))
            if windows is None:
                windows = own_text(path, seed, self.threads)
            found.append(compare(name, self.file, self.config, types, written, windows, self.threads))
        self.progress("compared", len(texts), len(texts))
        return found


def mixable() -> list[DataType]:
    """The types that a mixture may have."""
    found = [by_name(name) for name in (*SEARCHED, "Q8_0")]
    return [t for t in found if t is not None]


def _types(
    file: ModelFile, data_type: str | None, keep: Sequence[tuple[str, str]], n_bytes: int | None
) -> dict[str, DataType]:
    """The type of each matrix that changes; for a mixture, of those whose types are still open, any type."""
    types = planned_types(file, data_type or "Q4_1", [*keep, *(_ends(file, keep) if n_bytes is not None else ())])
    if any(100 in t.versions and 101 not in t.versions for t in types.values()):
        raise InputError(NOT_IN_V100)
    if not any(t.name in SEARCHED for t in types.values()):
        raise InputError(
            f"no matrix would be {', '.join(SEARCHED[:-1])} or {SEARCHED[-1]}: calibration changes no other"
        )
    return types


def _open_names(types: Mapping[str, DataType], keep: Sequence[tuple[str, str]]) -> list[str]:
    """The matrices whose type nobody has said. Raises InputError: there are none."""
    patterns = [pattern for pattern, _ in keep]
    names = [
        name for name in types
        if name not in mixture.ENDS and not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    ]  # fmt: skip
    if not names:
        raise InputError("--keep says the type of every matrix, so there is nothing to choose; leave out --size")
    return names


def _ends(file: ModelFile, keep: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Head and embedding as Q8_0, unless the user said something else, or their rows are not whole blocks."""
    said = planned_types(file, "Q4_1", keep)
    return [(name, "Q8_0") for name in mixture.ENDS if name not in said and file.parameters[name].shape[-1] % 32 == 0]


def _size(file: ModelFile, types: Mapping[str, DataType]) -> int:
    """Bytes of a file with those types."""
    return HEADER_BYTES + sum(
        parameter_bytes(p.name, p.shape, types.get(p.name, p.data_type)) for p in file.parameters.values()
    )


def _mixture(
    file: ModelFile, types: Mapping[str, DataType], losses: Mapping[str, np.ndarray], n_bytes: int
) -> list[Chosen]:
    """The best types for the matrices of `losses`, in what `n_bytes` leave beside the rest of the file."""
    choices = {
        name: [
            Choice(t.name, t.format.n_bytes(file.parameters[name].n_weights), float(loss))
            for t, loss in zip(mixable(), found)
        ]
        for name, found in losses.items()
    }
    body = sum(types[name].format.n_bytes(file.parameters[name].n_weights) for name in choices)
    return mixture.best_mixture(choices, n_bytes - (_size(file, types) - body))


def _columns(max_memory: int) -> int:
    """The columns whose H may be in memory together: half of the memory is for H and its factor."""
    return max(32, int(math.sqrt(max_memory / 2 / BYTES_OF_H)) // 32 * 32)


def _digest(windows: Sequence[np.ndarray]) -> str:
    found = hashlib.sha256()
    for ids in windows:
        found.update(ids.tobytes())
    return found.hexdigest()[:32]


def _loaded(store: Unfinished, p: Parameter, data_type: DataType) -> Parameter:
    found = store.load(p.name, p.shape, data_type)
    if found is None:
        raise InputError(f"{store.folder / p.name} was deleted while it was needed; start the command again")
    return found
