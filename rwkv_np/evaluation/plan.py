"""Which candidates are measured, which together, and with which baseline.

Existing files are read in step, in one pass over the text. Formats that must first be quantized are
measured one after the other, by each of the encoders: a file is quantized to a temporary folder, measured in step
with the base, and removed, so that only one of them is on the disk at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from rwkv_np.conversion.quantize import SEARCHED, TYPES, quantize
from rwkv_np.errors import InputError
from rwkv_np.evaluation.base_file import BaseFile
from rwkv_np.evaluation.candidate import Candidate, candidate, candidates, stem

Group = Callable[[], AbstractContextManager[list[Candidate]]]
"""Gives candidates whose files exist while its context is open."""


ENCODERS = ("plain", "search", "calibrated")


@dataclass(frozen=True)
class Encoding:
    """How formats are made: by which of ENCODERS, and the text of the calibrated ones."""

    encoders: Sequence[str] = ("plain",)
    text: str | None = None

    def check(self) -> None:
        """Raise InputError: an unknown encoder, or no text to calibrate on."""
        if unknown := [name for name in self.encoders if name not in ENCODERS]:
            raise InputError(f"unknown encoder {unknown[0]}; expected any of {', '.join(ENCODERS)}")
        if "calibrated" in self.encoders and not self.text:
            raise InputError(
                "the calibrated encoder needs a text of the kind that the model is used for, and another one than "
                "--text: give --calibrate TEXT"
            )

    def of(self, data_type: str) -> list[str]:
        """The encoders of a type: some have only the plain one."""
        return [name for name in self.encoders if name == "plain" or data_type in SEARCHED]


@dataclass(frozen=True)
class Variants:
    """Which variants of each model are also measured."""

    float32_activations: bool = False
    both_heads: bool = False

    def of(self, one: Candidate) -> list[Candidate]:
        return list(one.variants(self.float32_activations, self.both_heads))


@dataclass(frozen=True)
class Plan:
    """`model` is one of the files: a tokenizer that fits it fits all of them."""

    base: Candidate | BaseFile
    model: Candidate
    groups: list[Group]

    @property
    def base_name(self) -> str:
        return self.base.name


def make_plan(
    paths: Sequence[str], *, base: str | None = None, source: str | None = None, formats: Sequence[str] = (),
    base_file: str | None = None, variants: Variants | None = None, head_epsilon: float | None = None,
    encoding: Encoding | None = None,
) -> Plan:  # fmt: skip
    """What to measure of the model files at `paths`.

    base       the baseline model; by default `source`, or the first of `paths`
    source     the FP16 or FP32 file to quantize to `formats`; by default the base
    base_file  saved predictions of a base, used instead of a model
    head_epsilon  as in `rwkv_np.load`, for all models
    encoding   the encoders of `formats`; by default rwkv.cpp's
    Raises     InputError: nothing to measure, an unknown format, different vocabularies; BaseFileError,
               FormatError, OSError
    """
    variants, encoding = variants or Variants(), encoding or Encoding()
    encoding.check()
    if unknown := [name for name in formats if name not in TYPES]:
        raise InputError(f"unknown format {unknown[0]}; expected any of {', '.join(TYPES)}")
    if base and base_file:
        raise InputError("--base and --base-file cannot be used together; give one of them")
    base = base or (None if base_file else source or next(iter(paths), None))
    files = candidates([path for path in (base, *paths) if path], head_epsilon)
    source = source or base
    if not files and not (base_file and source):
        raise InputError("no model given; name a model file, or one to quantize with --from")
    there = {file.data_type for file in files}
    made = [
        (name, encoder) for name in formats for encoder in encoding.of(name)
        if encoder != "plain" or name not in there
    ]  # fmt: skip
    if made and source is None:
        raise InputError(f"no FP16 source for {made[0][0]}: add --from FILE")
    held_against: Candidate | BaseFile = BaseFile(base_file) if base_file else files[0]
    together = [one for file in files for one in variants.of(file)]
    groups: list[Group] = [_there(together)] if together != [held_against] or not made else []
    groups += [
        _made(os.fspath(source), name, encoder, encoding.text, files, variants, head_epsilon)
        for name, encoder in made
        if source
    ]
    return Plan(held_against, files[0] if files else candidate(str(source), head_epsilon=head_epsilon), groups)


def _there(together: list[Candidate]) -> Group:
    @contextmanager
    def group() -> Iterator[list[Candidate]]:
        yield together

    return group


def _made(
    source: str, data_type: str, encoder: str, text: str | None, files: Sequence[Candidate], variants: Variants,
    head_epsilon: float | None,
) -> Group:  # fmt: skip
    is_told_by_type = all(file.name == file.data_type for file in files)
    name = data_type if is_told_by_type else f"{stem(source)} as {data_type}"
    name += "" if encoder == "plain" else f", {encoder}"

    @contextmanager
    def group() -> Iterator[list[Candidate]]:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, f"{stem(source)}-{data_type}.bin")
            _make(source, path, data_type, encoder, text, head_epsilon)
            yield variants.of(candidate(path, name, head_epsilon))

    return group


def _make(
    source: str, path: str, data_type: str, encoder: str, text: str | None, head_epsilon: float | None
) -> None:  # fmt: skip
    """Write the file of one encoder."""
    if encoder != "calibrated":
        quantize(source, path, data_type, search=encoder == "search")
        return
    from rwkv_np.calibration import calibrate

    assert text is not None
    calibrate(source, path, data_type, text, head_epsilon=head_epsilon)
