"""The folder that a report is written to: report.json, report.md, and the plots if they can be drawn."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from rwkv_np.errors import OutputError, PathLike
from rwkv_np.evaluation import tables
from rwkv_np.evaluation.report import Report
from rwkv_np.files.output import check_destination, new_file

JSON, MARKDOWN = "report.json", "report.md"


def can_plot() -> bool:
    """Whether matplotlib, an optional package, is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def prepare(folder: PathLike, overwrite: bool) -> None:
    """Create the folder, and raise OutputError if no report can be written there: before the work, not after it."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(folder, f"cannot be used as the folder of the report: {error.strerror}") from error
    for name in (JSON, MARKDOWN):
        check_destination(path / name, None, overwrite)


def write(report: Report, folder: PathLike, overwrite: bool) -> list[Path]:
    """Write everything, and return the files. Raises OutputError."""
    texts = {
        JSON: json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n",
        MARKDOWN: tables.markdown(report) + "\n",
    }
    for name, text in texts.items():
        with new_file(Path(folder) / name, overwrite=overwrite) as file:
            file.write(text.encode())
    written = [Path(folder) / name for name in texts]
    if can_plot():
        from rwkv_np.evaluation import plots

        written += plots.draw(report, folder)
    return written
