"""Suggested checkpoints, by the names under which their authors publish them on the Hugging Face hub.

One table for every hint, error and command that names a real model. Downloads are in hub.py, and the sizes of a model
are computed from its shape in store/needs.py. One wrong letter makes a download fail, so a row is listed only if a
public repository names the same file with its size and SHA-256:

World           josStorer/RWKV-Runner, manifest.json of version 1.9.11
G1, 0.1B, 0.4B  the same
G1, 1.5B, 2.9B  jeonghun917/opened-arm, experiments/vela-active-state (revision ede85bf8 of BlinkDL/rwkv7-g1);
                the 1.5B's size and sum are in the notes of those who measured it

G1 is trained further every few weeks (g1a, g1b, ...), and of two models with the same size the later one is better.
These are the latest confirmed ones; the repository's page on the hub lists newer ones.
"""

from __future__ import annotations

from dataclasses import dataclass

_WORLD, _G1 = "BlinkDL/rwkv-7-world", "BlinkDL/rwkv7-g1"


@dataclass(frozen=True)
class Shape:
    """The shape of a model, which determines the sizes of its files and its memory.

    ranks  of the low-rank matrices, in the order of the architecture
    """

    n_layer: int
    n_embd: int
    ranks: tuple[int, ...]
    vocab_size: int = 65536
    head_size: int = 64
    architecture: str = "v7"


@dataclass(frozen=True)
class Published:
    """A checkpoint on the hub: its short name, its address, its size in bytes, its SHA-256 and its shape."""

    name: str
    repository: str
    file: str
    n_bytes: int
    sha256: str
    shape: Shape

    @property
    def source(self) -> str:
        """The address for `rwkv-np convert`."""
        return f"hf://{self.repository}/{self.file}"

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other common names for it: with the version of RWKV, as the authors write it, or the file's name."""
        family, _, size = self.name.partition("-")
        versions = ("rwkv7-", "rwkv-7-", "rwkv-x070-")
        return (*(f"{version}{family}-{size}" for version in versions), self.file.rpartition(".")[0], self.file)


_0B1 = Shape(12, 768, (64, 64, 32, 128))
_0B4 = Shape(24, 1024, (64, 64, 32, 128))
_1B5 = Shape(24, 2048, (96, 96, 64, 256))
_2B9 = Shape(32, 2560, (96, 96, 64, 320))

PUBLISHED = {
    entry.name: entry
    for entry in (
        Published(
            "g1-0.1b", _G1, "rwkv7-g1d-0.1b-20260129-ctx8192.pth", 382_223_725,
            "e10d7b1930c2644c5c6b194444774d6d82ec8212a78763493149de09aac7d83f", _0B1,
        ),
        Published(
            "g1-0.4b", _G1, "rwkv7-g1d-0.4b-20260210-ctx8192.pth", 901_776_749,
            "947cb9b8013224e06b112b72204256bec65096cc935a7767ce63d8e3ddef83bb", _0B4,
        ),
        Published(
            "g1-1.5b", _G1, "rwkv7-g1i-1.5b-20260805-ctx16384.pth", 3_055_444_605,
            "32ef7b5bf4dc8bde843cf26dfad809a1f527e2e76a9e790e7d406e71bcd785da", _1B5,
        ),
        Published(
            "g1-2.9b", _G1, "rwkv7-g1i-2.9b-20260805-ctx16384.pth", 5_896_273_469,
            "ac1ae23d0e65c1d35ba523eacd81a2a4dacb7b886479909bbff34f312e766320", _2B9,
        ),
        Published(
            "world-0.1b", _WORLD, "RWKV-x070-World-0.1B-v2.8-20241210-ctx4096.pth", 382_195_690,
            "60c98129b9529963bff2c164b8ab4bd17c19332ae06dc2dcae32aa3a3739295a", _0B1,
        ),
        Published(
            "world-0.4b", _WORLD, "RWKV-x070-World-0.4B-v2.9-20250107-ctx4096.pth", 901_794_466,
            "c08cf602b33e59a5717b8f0cafaf7f04c50c1c67166e477aa2f47c5ca180da4a", _0B4,
        ),
        Published(
            "world-1.5b", _WORLD, "RWKV-x070-World-1.5B-v3-20250127-ctx4096.pth", 3_055_062_345,
            "23e13ff62ac6f80b28910ffc230324939e80ddb00b98f892a5951c0da071e700", _1B5,
        ),
        Published(
            "world-2.9b", _WORLD, "RWKV-x070-World-2.9B-v3-20250211-ctx4096.pth", 5_895_796_446,
            "5d7901b91ef1646115db03d03d171370bca454061ad426a1256fda9e1c428cf8", _2B9,
        ),
    )
}  # fmt: skip
FIRST = PUBLISHED["g1-0.1b"]  # 0.4 GB: downloads in a minute, and runs on any computer


def published_name(name: str) -> str | None:
    """The short name of the published model with this name, in upper or lower case; None if there is none."""
    wanted = name.lower()
    for entry in PUBLISHED.values():
        if wanted == entry.name or wanted in (alias.lower() for alias in entry.aliases):
            return entry.name
    return None
