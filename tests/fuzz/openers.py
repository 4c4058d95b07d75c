"""How the program opens each kind of file, and conditions that an accepted file must meet.

`open_...` may refuse a file with one of our errors. Once a file is accepted, nothing may go wrong any more:
`use_...` uses the object as the program would, and any exception there is a finding, including our own errors.

Finite numbers: a weight, a state or a prediction may be any number, and large ones may overflow. So output must be
finite if the input is ordinary: finite, and at most ORDINARY. A written file (from a conversion or quantization) must
always be finite, and so must a state, since it outlives the file that it came from. Only a model file may be accepted
with NaN in it: checking would read the whole file, which is only mapped.
"""

from __future__ import annotations

import functools
import importlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import rwkv_np
from rwkv_np.chat.conversation import Conversation
from rwkv_np.chat.opening import Opening, read_opening
from rwkv_np.chat.opening_cache import OpeningCache
from rwkv_np.chat.saved import load_conversation, save_conversation
from rwkv_np.chat.templates import TEMPLATES
from rwkv_np.conversion.convert import convert
from rwkv_np.conversion.from_gguf import from_gguf
from rwkv_np.conversion.quantize import quantize
from rwkv_np.conversion.time_state import load_start_state
from rwkv_np.errors import InputError
from rwkv_np.evaluation import lambada, text
from rwkv_np.evaluation.base_file import BaseFile
from rwkv_np.evaluation.divergence import log_softmax
from rwkv_np.files.fingerprint import fingerprint
from rwkv_np.files.gguf import is_gguf
from rwkv_np.models import Model, inspection
from rwkv_np.models.containers import read_model
from rwkv_np.models.state import State, load_state
from rwkv_np.sampling import SamplingParams
from rwkv_np.tokenizers import TextStream, Tokenizer, load_tokenizer, world
from rwkv_np.tokenizers.bpe import BpeTokenizer

ORDINARY = 1000
TEXT = "The time has come, the walrus said, to talk of many things. " * 3  # the text of the seeds
SAMPLES = ("", "the  then", "Hello 今日は 🦙\n\n", "\0\ufffd  e\u0301")
MOST_IDS = 5000  # that are checked one by one


class Finding(Exception):
    """An accepted file is not what it should be."""


class Opener:
    """Opens files of all kinds; `folder` contains the seeds' companions, `work` is for output files."""

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work = folder, work
        self._model: Callable[[str], Model] = functools.cache(lambda name: rwkv_np.load(folder / f"{name}.bin"))

    # --- model files

    def open_model(self, path: Path) -> Any:
        return path, rwkv_np.load(path)

    def use_model(self, opened: Any) -> None:
        path, model = opened
        check_model(path, model)

    def open_inspection(self, path: Path) -> Any:
        return inspection.inspect(path), fingerprint(path)

    def use_inspection(self, opened: Any) -> None:
        report, found = opened
        json.dumps(report, allow_nan=False)
        ensure(len(found) == 32, "no fingerprint")

    def open_to_quantize(self, path: Path) -> Any:
        quantize(path, self.work / "quantized.bin", "Q4_1" if path.stat().st_size % 2 else "Q8_0", overwrite=True)
        return path, self.work / "quantized.bin"

    def use_to_quantize(self, opened: Any) -> None:
        """A file that is not a model may be quantized: its parameters may be those of a future version."""
        source, path = opened
        ensure(largest(path) < np.inf, "wrote weights that are not finite")
        if inspection.inspect(source)["problem"] is None:
            check_model(path, rwkv_np.load(path))

    def open_gguf(self, path: Path) -> Any:
        if not is_gguf(path):
            raise InputError("it does not begin as GGUF files do")
        model = rwkv_np.load(path)
        return path, model, load_tokenizer(vocab_size=model.config.vocab_size, model_path=path)

    def use_gguf(self, opened: Any) -> None:
        path, model, tokenizer = opened
        check_model(path, model)
        self.use_tokenizer(tokenizer)

    def open_gguf_to_convert(self, path: Path) -> Path:
        from_gguf(path, self.work / "converted.bin", decode=True, overwrite=True)
        return self.work / "converted.bin"

    def use_gguf_to_convert(self, path: Path) -> None:
        self.use_checkpoint(path)

    def open_config(self, path: Path) -> Path:
        return self._in_folder(path, "hf-1", "config.json")

    def open_index(self, path: Path) -> Path:
        return self._in_folder(path, "hf-2", "model.safetensors.index.json")

    def _in_folder(self, path: Path, folder: str, name: str) -> Path:
        """Convert a folder with this file in it."""
        place = self.work / folder
        shutil.copytree(self.folder / folder, place, dirs_exist_ok=True)
        shutil.copy(path, place / name)
        return self.open_checkpoint(place)

    use_config = use_index = lambda self, path: self.use_checkpoint(path)

    def open_checkpoint(self, path: Path) -> Path:
        convert(path, self.work / "converted.bin", "FP16", overwrite=True)
        return self.work / "converted.bin"

    def use_checkpoint(self, path: Path) -> None:
        ensure(largest(path) < np.inf, "wrote weights that are not finite")
        check_model(path, rwkv_np.load(path))

    # --- states and conversations

    def _name(self, path: Path) -> str:
        """The architecture in the file's name."""
        return next(name for name in ("v5.1", "v5.2", "v4", "v6", "v7") if f"{name}" in path.name)

    def open_state(self, path: Path) -> Any:
        model = self._model(self._name(path))
        return model, load_state(path, model.config)

    def open_tuned(self, path: Path) -> Any:
        model = self._model(self._name(path))
        return model, load_start_state(path, model.config)

    def open_kept_opening(self, path: Path) -> Any:
        model = self._model(self._name(path))
        openings = OpeningCache(self.work, "key", model.config)
        shutil.copy(path, self.work / openings._name([1]))
        return model, openings.get([1])

    def use_state(self, opened: Any) -> None:
        model, state = opened
        if state is not None:
            check_state(model, state)

    def open_chat(self, path: Path) -> Conversation:
        name = self._name(path)
        template = {"v4": "raven", "v7": "g1"}.get(name, "world")
        params = SamplingParams(seed=1, max_tokens=3)
        like = Conversation(self._model(name), load_tokenizer("bytes"), TEMPLATES[template], params, "An opening.")
        model = {"name": f"{name}.bin", "fingerprint": self._fingerprint(name)}
        return load_conversation(path, like, model)

    def _fingerprint(self, name: str) -> str:
        return fingerprint(self.folder / f"{name}.bin")

    def use_chat(self, chat: Conversation) -> None:
        n_words = sum(map(len, (branch.opening for branch in chat.branches.values())))
        if n_words + sum(len(turn.ids) for branch in chat.branches.values() for turn in branch.turns) > 20_000:
            return  # reading it may take longer than the limit
        is_ordinary = all(ordinary(chat.model, state) for state in _states(chat))
        for branch in chat.branches.values():
            check_state(chat.model, chat.position(branch=branch).state)
        try:
            self._talk(chat)
        except InputError as error:  # no token can be chosen, which the next answer reports
            if is_ordinary or "the largest logit is" not in str(error):
                raise

    def _talk(self, chat: Conversation) -> None:
        for act in (chat.continue_answer, chat.answer_again, lambda **also: chat.edit("other", **also)):
            if chat.turns:
                list(act(max_tokens=2))
        for name in list(chat.branches):
            chat.switch(name)
            list(chat.ask("next", max_tokens=2))
            save_conversation(chat, self.work / "saved.chat", {"name": "m", "fingerprint": "f"}, overwrite=True)
            chat.undo(len(chat.turns))
            chat.position()
            list(chat.ask("first", max_tokens=2))
        chat.reset()
        list(chat.ask("again", max_tokens=2))

    # --- tokenizers

    def open_tokenizer(self, path: Path) -> Tokenizer:
        """The library reports inconsistent parts of a file only when it encodes a text that needs them."""
        tokenizer = BpeTokenizer(path)
        for sample in SAMPLES:
            tokenizer.encode(sample)
        return tokenizer

    def use_tokenizer(self, tokenizer: Tokenizer) -> None:
        for sample in SAMPLES:
            ids = tokenizer.encode(sample)
            ensure(all(0 <= token < tokenizer.n_ids for token in ids), "gives ids beyond its n_ids")
            tokenizer.decode(tokenizer.encode_prompt(sample))
            stream = TextStream()
            found = "".join(stream.push(tokenizer.token_bytes(token)) for token in ids) + stream.flush()
            ensure(found == tokenizer.decode(ids), "a stream gives another text")
        tokenizer.decode(range(min(MOST_IDS, tokenizer.n_ids)))

    def open_vocabulary(self, path: Path) -> world.WorldTokenizer:
        """The package's own file, as if a disk had damaged it."""
        with mock.patch.object(world, "VOCABULARY", path):
            return world.WorldTokenizer()

    def use_vocabulary(self, tokenizer: world.WorldTokenizer) -> None:
        self.use_tokenizer(tokenizer)
        for sample in SAMPLES:
            ensure(tokenizer.decode(tokenizer.encode(sample)) == sample, "decodes to another text")

    # --- files that users write

    def open_settings(self, path: Path) -> None:
        """Start the chat like a user, send one message, and leave."""
        from rwkv_np.cli.chat import command

        arguments = [str(self.folder / "v4.bin"), "--config", str(path), "-p", "Hi"]
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            context = command.make_context("chat", arguments)
            context.params["max_tokens"] = min(2, context.params["max_tokens"] or 2)
            with context:
                command.invoke(context)

    def open_opening(self, path: Path) -> Opening:
        return read_opening(path)

    def use_opening(self, opening: Opening) -> None:
        for name in ("raven", "world", "g1"):
            rendered = opening.render(opening.named(TEMPLATES[name]))
            load_tokenizer("bytes").encode(rendered)

    # --- evaluation

    def open_base(self, path: Path) -> BaseFile:
        """Rows are read, and refused, during use."""
        base = BaseFile(path)
        base.reader().read(np.zeros(min(30, base.header.n_rows), np.uint32))
        return base

    def use_base(self, base: BaseFile) -> None:
        reader = base.reader()
        for n in (1, 7, 30):
            n = min(n, base.header.n_rows)
            ensure(bool(np.isfinite(log_softmax(reader.read(np.zeros(n, np.uint32)))).all()), "is not finite")
            reader = base.reader()
        ensure(isinstance(base.name, str), "has no name")

    def open_last_words(self, path: Path) -> Any:
        return lambada.read_items(path, load_tokenizer("bytes"))

    def use_last_words(self, items: list[lambada.Item]) -> None:
        for item in (item for item in items[:3] if len(item.passage) + len(item.word) < 5000):
            log_prob, _ = lambada.guess(self._model("v4"), item)
            ensure(bool(np.isfinite(log_prob)), "is not finite")

    def open_text(self, path: Path) -> Any:
        text.read_text(path)
        return text.read_passage(path, load_tokenizer("bytes"))

    def use_text(self, passage: Any) -> None:
        ensure(int(passage.tokens.max()) < 256, "has ids that the tokenizer lacks")

    def open_token_ids(self, path: Path) -> np.ndarray:
        """The evaluation finds a damaged file in its cache of token ids for this text."""
        before = os.environ.get("RWKV_NP_CACHE")
        os.environ["RWKV_NP_CACHE"] = str(self.work)
        try:
            tokenizer = load_tokenizer("bytes")
            place = text._place(TEXT, tokenizer)
            assert place is not None
            shutil.copy(path, place)
            return text.tokenize(TEXT, tokenizer)
        finally:
            del os.environ["RWKV_NP_CACHE"]
            os.environ |= {} if before is None else {"RWKV_NP_CACHE": before}

    def use_token_ids(self, ids: np.ndarray) -> None:
        ensure(ids.tolist() == list(TEXT.encode()), "are not the ids of the text")

    # --- kernels

    def open_kernel(self, path: Path) -> None:
        """In a child process, since the file is compiled code: a process that has run it must not be used further."""
        seed = path.name.rpartition("~")[2]
        kept = Path(tempfile.mkdtemp(dir=self.work))
        shutil.copytree(self.folder / "kernels", kept, dirs_exist_ok=True)
        shutil.copy(path, kept / seed.replace("+", "/"))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(_run_kernel(kept, writer))
        os.close(writer)
        with os.fdopen(reader) as report:
            said = report.read()
        _, status = os.waitpid(child, 0)
        shutil.rmtree(kept, ignore_errors=True)
        ensure(status == 0, said or f"ended with status {status}")


def _run_kernel(kept: Path, writer: int) -> int:
    from rwkv_np.kernels import cache

    os.environ["RWKV_NP_CACHE"] = str(kept)
    for function in vars(cache).values():
        getattr(function, "cache_clear", lambda: None)()
    sys.modules.pop("kernel", None)
    try:
        found = importlib.import_module("kernel").twice(21)
        said = "" if found == 42 else f"gives {found}"
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"[:300]
    os.write(writer, said.encode())
    return 1 if said else 0


def ensure(is_true: bool, problem: str) -> None:
    """Raise Finding unless `is_true`."""
    if not is_true:
        raise Finding(problem)


def largest(path: Path) -> float:
    """The largest absolute value of all weights in a model file; inf if one is not finite."""
    most = 0.0
    for parameter in read_model(path).parameters.values():
        with np.errstate(all="ignore"):
            found = float(np.abs(parameter.array()).max())
        most = max(most, found if np.isfinite(found) else np.inf)
    return most


def check_model(path: Path, model: Model) -> None:
    """Read two tokens; the logits must be finite if the weights are ordinary."""
    ids = [0, min(1, model.config.vocab_size - 1)]
    with np.errstate(all="ignore"):
        logits, _ = model.forward(ids)
    if not np.isfinite(logits).all():
        ensure(largest(path) > ORDINARY, "ordinary weights give logits that are not finite")


def check_state(model: Model, state: State) -> None:
    """The state must be finite, and so must the logits after it if it is ordinary."""
    ensure(bool(np.isfinite(state.data).all()), "a state that is not finite")
    logits, _ = model.forward([0, 1], state)
    is_finite = bool(np.isfinite(logits).all())
    ensure(is_finite or not ordinary(model, state), "an ordinary state gives logits that are not finite")


def ordinary(model: Model, state: State) -> bool:
    """Whether its numbers are of the size that a model produces."""
    fresh = model.initial_state().data
    return bool(np.abs(np.where(state.data == fresh, 0, state.data)).max() <= ORDINARY)


def _states(chat: Conversation) -> Iterator[State]:
    """The states in a saved chat."""
    for branch in chat.branches.values():
        if branch.start is not None:
            yield branch.start
        for position in (position for turn in branch.turns for position in (turn.end, turn.after_answer)):
            if position is not None:
                yield position.state
