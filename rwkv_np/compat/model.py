"""`RWKV` of the official package (rwkv.model), for model files and checkpoints of RWKV-4 to 7.

Differences: logits and states are NumPy arrays (`Array`); a strategy's device is ignored (`strategy.py`), and so are
the environment variables RWKV_V7_ON, RWKV_JIT_ON and RWKV_CUDA_ON; the weights are not accessible (`w`, `z`).
`model_file.py` finds the file for a path.

Source: the `rwkv` package 0.8.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

from rwkv_np import models
from rwkv_np.compat.array import Array
from rwkv_np.compat.model_file import find_model_file
from rwkv_np.compat.state import StateList
from rwkv_np.compat.strategy import wanted_type
from rwkv_np.errors import InputError, PathLike
from rwkv_np.models.base import Tokens

_VERSIONS = {"v4": 4, "v5.1": 5.0, "v5.2": 5.2, "v6": 6.0, "v7": 7.0}


class RWKV:
    """A model that reads tokens.

    model     the path of a checkpoint or of a model file, with or without its extension
    strategy  "cpu fp32", "cuda fp16 *10 -> cpu fp32", ...: selects the type of file
    threads   not in the official package: the number of threads, see `rwkv_np.load`
    args      MODEL_NAME, strategy_string, n_layer, n_embd, n_att, n_ffn, vocab_size, n_head, head_size
    native    the model of this package
    Raises    InputError: invalid strategy; FormatError, MissingPackageError, OutputError: no file can be found or
              made; OSError
    """

    def __init__(
        self,
        model: PathLike,
        strategy: str,
        verbose: bool = True,
        convert_and_save_and_exit: str | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        if convert_and_save_and_exit is not None:
            raise InputError(
                "convert_and_save_and_exit is not supported: expected None. To make a model file: "
                "rwkv-np convert CHECKPOINT.pth MODEL.bin"
            )
        self.native = models.load(find_model_file(model, wanted_type(strategy)), threads)
        config = self.native.config
        self.n_layer, self.n_embd = config.n_layer, config.n_embd
        self.n_head, self.head_size = config.n_head, config.head_size
        self.version = _VERSIONS[config.architecture]
        self._changes_lists = config.architecture != "v7"
        self.args = SimpleNamespace(
            MODEL_NAME=str(model), strategy_string=strategy, n_layer=config.n_layer, n_embd=config.n_embd,
            n_att=config.n_embd, n_ffn=config.dim_ffn, vocab_size=config.vocab_size, n_head=config.n_head,
            head_size=config.head_size,
        )  # fmt: skip

    def generate_zero_state(self) -> StateList:
        """The empty state."""
        return StateList(self.native.initial_state())

    def forward(
        self, tokens: Tokens, state: Sequence[object] | None = None, full_output: bool = False
    ) -> tuple[Array, StateList]:
        """Read one token id or a sequence of ids, starting from `state`; None is the empty state.

        Returns  the logits after the last token, (V,) float32, or with `full_output` the logits after each of
                 several tokens, (T, V); and the state after the last token. As in the official package, RWKV-4 to 6
                 change and return the given list, while RWKV-7 does not (due to TorchScript): copy.deepcopy works
                 for both.
        Raises   InputError; then `state` has not changed
        """
        after = self._after(state)
        logits = self.native.advance(tokens, after.taken_on(), full_output)
        if self._changes_lists and isinstance(state, list) and state is not after:
            state[:] = after
        if full_output and len(logits) == 1:  # the official package returns a single row as a vector
            logits = logits[0]
        return logits.view(Array), after

    def _after(self, state: Sequence[object] | None) -> StateList:
        """The list that will be the state after the tokens: `state` itself, or a copy of it."""
        if state is None:
            return self.generate_zero_state()
        if isinstance(state, StateList):
            return state if self._changes_lists else state.copy()
        if not isinstance(state, (list, tuple)):
            raise InputError(f"the state is a {type(state).__name__}; expected None or a state from forward")
        return StateList.of(state, self.native.state_layout)

    __call__ = forward
