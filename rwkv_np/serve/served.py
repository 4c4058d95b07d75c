"""The model as requests see it: its name, its tokenizer, its template, and how much one request may ask for.

What an answer depends on besides its request and the weights. Neither HTTP nor the engine is known here, so the server
and batch jobs plan requests with the same code.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rwkv_np.serve.bounds import Bounds
from rwkv_np.serve.errors import ApiError
from rwkv_np.serve.prompt import Prompts
from rwkv_np.serve.schema import Grammars
from rwkv_np.serve.token_names import TokenNames
from rwkv_np.tokenizers import Tokenizer


@dataclass
class ServedModel:
    """A model, its template and settings.

    name          the model's name in requests
    fingerprint   of its file
    think         whether a model that can think does so, unless a request says otherwise
    """

    name: str
    fingerprint: str
    tokenizer: Tokenizer
    prompts: Prompts
    think: str = field(default="auto", kw_only=True)
    bounds: Bounds = field(default_factory=Bounds, kw_only=True)

    def __post_init__(self) -> None:
        self.names = TokenNames(self.tokenizer.token_bytes)
        self.grammars = Grammars(self.tokenizer, 0)

    @property
    def vocab_size(self) -> int:
        """How many ids the model has."""
        return self.tokenizer.vocab_size

    def check_model(self, name: str | None) -> None:
        """Raise ApiError unless `name` is this model or None."""
        if name is not None and name != self.name:
            said = name if name.isprintable() and len(name) <= 100 else f"{name[:100]!r}"
            raise ApiError(
                404, f"model {said} does not exist; this server has {self.name}", param="model", code="model_not_found"
            )
