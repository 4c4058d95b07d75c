"""One run of the command: from files and options to a report, with all input errors found before the work.

Models, text and passages are checked first, the cheapest check first; hours of reading may follow.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_np import __version__
from rwkv_np.errors import InputError, PathLike
from rwkv_np.evaluation.base_file import BaseFile
from rwkv_np.evaluation.evaluation import Evaluation, Progress, Task
from rwkv_np.evaluation.lambada import read_items
from rwkv_np.evaluation.machine import processor
from rwkv_np.evaluation.plan import Plan, make_plan
from rwkv_np.evaluation.report import Report
from rwkv_np.evaluation.text import read_passage
from rwkv_np.files.output import check_destination
from rwkv_np.kernels import dispatch, threads
from rwkv_np.tokenizers import Tokenizer, load_tokenizer

# Text that the demo model was not trained on; in the same folder as that model.
HELD_OUT = Path(__file__).parents[1] / "data" / "demo-heldout.txt"


@dataclass(frozen=True)
class Conditions:
    """The inputs, and how they are read.

    text       UTF-8 file to predict; default: the package's held-out text, if `lambada` is not given either
    lambada    JSONL file of passages whose last word is guessed
    limit      maximum number of tokens of the text, and of passages
    skip       number of tokens at the start that are read but not counted
    window     tokens after which the state is reset; by default never
    tokenizer  as in `load_tokenizer`; by default chosen by the vocabulary
    """

    text: PathLike | None = None
    lambada: PathLike | None = None
    limit: int | None = None
    skip: int = 0
    window: int | None = None
    tokenizer: PathLike | None = None
    threads: int | None = None
    is_timed: bool = True
    save_base: str | None = None


class Session:
    """Models, and the data they are measured on; `run` fills `report`."""

    def __init__(self, plan: Plan, conditions: Conditions, notify: Callable[[str], None] | None = None) -> None:
        """Raises what reading a text, passages and a tokenizer raises; OutputError, BaseFileError."""
        self._plan = plan
        text = conditions.text if conditions.text or conditions.lambada else _held_out()
        tokenizer = load_tokenizer(
            conditions.tokenizer, plan.model.vocab_size, model_path=plan.model.path, notify=notify
        )
        c = conditions
        passage = read_passage(text, tokenizer, c.limit, c.skip, c.window) if text else None
        items = read_items(c.lambada, tokenizer, c.limit) if c.lambada else None
        if isinstance(plan.base, BaseFile) and passage:
            plan.base.check(passage, plan.model.vocab_size)
        if c.save_base:
            if passage is None or isinstance(plan.base, BaseFile):
                raise InputError("--save-base needs a baseline model and --text: give both")
            check_destination(c.save_base, None, overwrite=False, mend="delete it, or choose another name")
        task = Task(passage, items, c.is_timed, c.threads, c.save_base)
        n_tokens = len(passage.tokens) if passage else None
        self.report = Report(plan.base.name, _facts(c, text, n_tokens, tokenizer) | _epsilon(plan))
        self._evaluation = Evaluation(task, plan.base, self.report)

    def run(self, progress: Progress | None = None) -> Report:
        """Measure all groups. After any exception, including Ctrl-C, `report` has the results so far."""
        self.report.is_partial = True
        for group in self._plan.groups:
            with group() as together:
                self._evaluation.run(together, progress)
        self.report.is_partial = False
        return self.report


def evaluate(paths: Sequence[str], conditions: Conditions, *, progress: Progress | None = None, **plan: Any) -> Report:
    """Measure the model files at `paths`; `plan` are the options of `make_plan`."""
    return Session(make_plan(paths, **plan), conditions).run(progress)


def _held_out() -> Path:
    if HELD_OUT.is_file():
        return HELD_OUT
    raise InputError("nothing to evaluate; give a text, --text FILE, or passages, --lambada FILE")


def _epsilon(plan: Plan) -> dict[str, Any]:
    """The epsilon of the head norm, if it differs from the default of the model's version."""
    found = plan.model.head_epsilon
    return {} if found is None else {"head epsilon": found}


def _facts(c: Conditions, text: PathLike | None, n_tokens: int | None, tokenizer: Tokenizer) -> dict[str, Any]:
    choice = dispatch.choose()
    return {
        "text": Path(text).name if text else None,
        "tokens": n_tokens,
        "tokens skipped": c.skip or None,
        "window": c.window,
        "passages": Path(c.lambada).name if c.lambada else None,
        "tokenizer": Path(tokenizer.name).name,
        "threads": c.threads or threads.default_threads(),
        "kernels": choice.path,
        "processor": processor(),
        "versions": f"rwkv_np {__version__}, NumPy {np.__version__}, Python {platform.python_version()}",
    }
