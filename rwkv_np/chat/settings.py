"""Settings that can be changed in a chat: their names, and their values as a user types them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Union

from rwkv_np.chat.defaults import defaults_of
from rwkv_np.errors import InputError
from rwkv_np.sampling import SETTINGS, SamplingParams

SWITCHES = ("figures", "quiet", "markdown", "show_thinking")  # of the screen
NAMES = (*SETTINGS, *SWITCHES)
_WHOLE = ("top_k", "max_tokens", "seed")
_SWITCH = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}

Value = Union[float, int, bool, None]


def parse_setting(text: str) -> tuple[str, Value]:
    """The name and the value in "temperature 0.7" or "temperature=0.7". Raises InputError."""
    parts = re.split(r"[\s=]+", text.strip().lower())
    name = parts[0].replace("-", "_")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, 1, cutoff=0.3)
        mend = f"did you mean {near[0]}?" if near else f"there are {', '.join(NAMES)}"
        raise InputError(f"there is no setting {name!r}; {mend}" if name else f"name one of {', '.join(NAMES)}")
    if len(parts) != 2:
        raise InputError(f"{name} needs one value, as in /set {name} {_example(name)}")
    return name, _parse_value(name, parts[1])


def _parse_value(name: str, value: str) -> Value:
    if name == "seed" and value == "none":
        return None
    try:
        if name in SWITCHES:
            return _SWITCH[value]
        return int(value) if name in _WHOLE else float(value)
    except (ValueError, KeyError):
        raise InputError(f"{name} cannot be {value!r}; expected something like {_example(name)}") from None


def _example(name: str) -> str:
    default = getattr(SamplingParams(), name, "on")
    return "1, or none" if default is None else str(default)


def describe_settings(
    params: SamplingParams, switches: Mapping[str, bool], family: str, set_by: Mapping[str, str]
) -> str:
    """All settings, one per line. A value that is not the family's default also shows the default and its source
    (`set_by`)."""
    defaults, lines = defaults_of(family), []
    for name in SETTINGS:
        value, default = getattr(params, name), getattr(defaults.params, name)
        origin = f"; set by {set_by[name]}" if name in set_by else ""
        difference = "" if value == default else f"   (default {_shown(default)}{origin})"
        lines.append(f"{name:18}{_shown(value)}{difference}")
    lines += [f"{name:18}{'on' if is_on else 'off'}" for name, is_on in switches.items()]
    return "\n".join([*lines, f"Defaults of {family}: {defaults.source}"])


def _shown(value: Value) -> str:
    return "none" if value is None else str(value)
