"""The sampling defaults of each model family, in one table with their sources.

The values come from the source code of the authors' programs; a test checks that each family has
its row. An option, its environment variable and the settings file override them, in that order.

Where their programs do not limit the answer, the limit is ours. A G1 model may think for thousands of
tokens, and thinking that is cut off gives no answer; so G1 has the 4000 of its authors' example, for
thinking and answer together. (A separate limit for thinking would be one more setting, and would have
to close the thinking for a model that was not trained to continue from there.)
"""

from __future__ import annotations

from dataclasses import dataclass

from rwkv_np.sampling import SamplingParams


@dataclass(frozen=True)
class Defaults:
    """The sampling settings of a family, and the program they come from."""

    params: SamplingParams
    source: str


# Between the two programs: their temperatures are 1.2 and 0.8, their penalties 0.4 and 0.2; top_p is 0.5 in both.
_RAVEN = Defaults(SamplingParams(), "ChatRWKV's v2/chat.py and rwkv.cpp's python/chat_with_bot.py")
# The chat with World models of RWKV-6 and 7 (since July 2024).
_WORLD = Defaults(SamplingParams(top_p=0.3, presence_penalty=0.5, frequency_penalty=0.5), "ChatRWKV's API_DEMO_CHAT.py")
# No penalties: thinking, calculations and programs repeat tokens for good reasons.
_G1 = Defaults(
    SamplingParams(top_p=0.5, top_k=100, presence_penalty=0, frequency_penalty=0, penalty_decay=0.997, max_tokens=4000),
    "the example of G1 in ChatRWKV's rwkv_pip_package/README.md",
)
DEFAULTS = {"raven": _RAVEN, "qa": _RAVEN, "instruction": _RAVEN, "world": _WORLD, "g1": _G1}


def defaults_of(family: str) -> Defaults:
    """The defaults of a family; World's for a format that was found in a model file, about which nothing is known."""
    return DEFAULTS.get(family, _WORLD)


def describe_default(name: str) -> str:
    """The default of a setting, as in the help text: "0.5; world: 0.3"."""
    first = getattr(_RAVEN.params, name)
    others = {family: getattr(DEFAULTS[family].params, name) for family in ("world", "g1")}
    return "; ".join([str(first), *(f"{family}: {value}" for family, value in others.items() if value != first)])


def describe_sources() -> str:
    """The source of each family's defaults, one sentence each."""
    families: dict[str, list[str]] = {}
    for family, defaults in DEFAULTS.items():
        families.setdefault(defaults.source, []).append(family)
    return " ".join(f"{', '.join(names)}: {source}." for source, names in families.items())
