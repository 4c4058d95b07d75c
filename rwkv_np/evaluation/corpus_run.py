"""Read all texts of a folder, here or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rwkv_np.evaluation.corpus import Document, Measured, documents, names_in, open_measure, open_work

Progress = Callable[[str, int, int], None]


def measure_folder(
    path: str, folder: str, options: Mapping[str, Any], address: str | None, notify: Callable[[str], None],
    progress: Progress,
) -> list[Measured]:  # fmt: skip
    """The result of each text, in the order of names, for the model at `path`.

    address  of a Ray cluster; None: this machine
    """
    names = names_in(folder)
    found: list[Measured] = []

    def readable() -> Iterator[Document]:
        for each in documents(folder, names):
            if isinstance(each, Measured):
                found.append(each)
            else:
                yield each

    results = (
        _here(path, options, readable()) if address is None else _on_ray(path, options, readable(), address, notify)
    )
    for result in results:
        found.append(result)
        progress(result.name, len(found), len(names))
    return sorted(found, key=lambda each: each.number)


def _here(path: str, options: Mapping[str, Any], texts: Iterable[Document]) -> Iterator[Measured]:
    return map(open_measure(path, options), texts)


def _on_ray(
    path: str, options: Mapping[str, Any], texts: Iterable[Document], address: str, notify: Callable[[str], None]
) -> Iterator[Measured]:
    from rwkv_np.cluster.parcel import pack
    from rwkv_np.cluster.pool import Pool

    pool = Pool(address, pack(path, options, open_work), notify)
    try:
        yield from pool.results(texts)
    finally:
        pool.close()
