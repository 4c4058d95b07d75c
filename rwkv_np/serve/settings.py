"""From a request's fields to sampling parameters.

Missing fields are neutral, as in OpenAI's API: temperature 1, and nothing is cut or penalized. (The chat's defaults
would silently change the greedy answers and scores of other programs.)
"""

from __future__ import annotations

from collections.abc import Mapping

from rwkv_np.errors import InputError
from rwkv_np.sampling import SamplingParams
from rwkv_np.serve import bounds
from rwkv_np.serve.bodies import ChatRequest, CompletionRequest
from rwkv_np.serve.errors import wrong

END = 0  # RWKV's end of text


def sampling(
    body: ChatRequest | CompletionRequest, vocab_size: int, not_first: frozenset[int] = frozenset()
) -> SamplingParams:
    """The sampling parameters of this request. Raises ApiError."""
    try:
        return SamplingParams(
            temperature=_or(body.temperature, 1.0),
            top_p=_or(body.top_p, 1.0),
            top_k=body.top_k or 0,
            min_p=body.min_p or 0.0,
            presence_penalty=body.presence_penalty or 0.0,
            frequency_penalty=body.frequency_penalty or 0.0,
            penalty_decay=_or(body.penalty_decay, 1.0),
            seed=None if body.seed is None else body.seed % 2**64,
            logit_bias=_bias(body.logit_bias or {}, vocab_size),
            not_first=not_first,
            stop_ids=() if body.ignore_eos else (END,),
        )
    except InputError as error:
        raise wrong(None, str(error)) from error


def stops(body: ChatRequest | CompletionRequest) -> tuple[str, ...]:
    """The request's stop strings. Raises ApiError."""
    given = [body.stop] if isinstance(body.stop, str) else body.stop or []
    if any(len(text) > bounds.STOP_CHARACTERS for text in given):
        raise wrong("stop", f"stop has a string of more than {bounds.STOP_CHARACTERS} characters")
    return tuple(text for text in given if text)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _bias(given: Mapping[int, float], vocab_size: int) -> Mapping[int, float]:
    if len(given) > bounds.BIASED_TOKENS:
        raise wrong("logit_bias", f"logit_bias names {len(given)} tokens; expected at most {bounds.BIASED_TOKENS}")
    if outside := [token for token in given if token >= vocab_size]:
        raise wrong("logit_bias", f"logit_bias names token id {outside[0]}; this model's ids are 0 to {vocab_size - 1}")
    return given
