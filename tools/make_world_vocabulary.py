"""Write the World vocabulary in the package's format, from the official text file.

    python tools/make_world_vocabulary.py rwkv_vocab_v20230424.txt rwkv_np/data/world-vocabulary.zlib

The official file has one line `id literal n_bytes` per entry and 1.1 MB; it is part of the pip package
`rwkv`. `rwkv_np/tokenizers/world.py` reads the result and describes its layout.
"""

from __future__ import annotations

import ast
import zlib
from pathlib import Path

import click

from rwkv_np.errors import PathLike, TokenizerError
from rwkv_np.tokenizers.world import N_IDS


def read_vocabulary(path: PathLike, n_ids: int) -> list[bytes]:
    """The bytes of each id from lines of `id literal n_bytes`; raises TokenizerError at a bad line.

    Lines end in LF or CRLF, depending on the package. They are split only there: a literal may contain
    U+2028 or another character at which str.splitlines would split.
    """
    pieces = [b""] * n_ids
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                token, literal, n_bytes = _split(line)
                pieces[token] = piece = _evaluate(literal)
            except (ValueError, SyntaxError, IndexError) as error:
                raise TokenizerError(path, f"line {number} is not `id literal n_bytes`: {line!r}") from error
            if len(piece) != n_bytes:
                raise TokenizerError(path, f"line {number} has {len(piece)} bytes, but declares {n_bytes}")
    return pieces


def _split(line: str) -> tuple[int, str, int]:
    token, rest = line.split(" ", 1)
    literal, n_bytes = rest.rsplit(" ", 1)
    return int(token), literal, int(n_bytes)


def _evaluate(literal: str) -> bytes:
    value = ast.literal_eval(literal)
    return value.encode("utf-8") if isinstance(value, str) else bytes(value)


def pack(pieces: list[bytes]) -> bytes:
    """The content of the package's file: one length byte for each id, then the bytes of all entries, deflated."""
    return zlib.compress(bytes(map(len, pieces)) + b"".join(pieces), 9)


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("destination", type=click.Path(dir_okay=False, path_type=Path))
def command(source: Path, destination: Path) -> None:
    """Write DESTINATION from the official vocabulary SOURCE."""
    destination.write_bytes(pack(read_vocabulary(source, N_IDS)))
    click.echo(f"{destination}: {destination.stat().st_size:,} bytes")


if __name__ == "__main__":
    command()
