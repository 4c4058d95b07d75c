"""The command `rwkv-np`: one thin module per command; other packages do the work.

Only this module turns our errors into a line on the screen. Commands are imported when they are called, so that `chat`
does not wait for the imports of `convert`.
"""

from __future__ import annotations

import importlib
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from rwkv_np import __version__, interrupt
from rwkv_np.cli.streams import check_output, describe, forgive_full, open_closed
from rwkv_np.console import columns, printable, write_over
from rwkv_np.environment import check_environment
from rwkv_np.errors import RwkvError
from rwkv_np.wrapping import wrapped

_COMMANDS = ("batch", "chat", "convert", "evaluate", "get", "info", "inspect", "list", "quantize", "remove", "serve")


class Command(click.Command):
    """Shows our own errors as one line; a bug keeps its traceback."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        open_closed()
        forgive_full()
        with _errors_in_one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        _exit_on_signals()
        interrupt.release()
        with _errors_in_one_line(), _notes_on_stderr():
            check_output()
            check_environment()
            return super().invoke(ctx)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        raise click.exceptions.Exit(interrupt.STATUS) from error
    except BrokenPipeError:
        raise  # click exits quietly: `rwkv-np inspect MODEL.bin | head`
    except (OSError, RwkvError) as error:
        raise _Failure(describe(error)) from error


class _Failure(click.ClickException):
    """An error of ours. A terminal shows it wrapped between words, without control characters."""

    def format_message(self) -> str:
        if not sys.stderr.isatty():
            return self.message
        label = len("Error: ")
        return wrapped(printable(self.message, sys.stderr), columns(sys.stderr), label)


class _Notes(logging.Handler):
    """Shows messages of the package; clears a progress line first."""

    def emit(self, record: logging.LogRecord) -> None:
        write_over("")
        print(record.getMessage(), file=sys.stderr, flush=True)


@contextmanager
def _notes_on_stderr() -> Iterator[None]:
    logger, handler = logging.getLogger("rwkv_np"), _Notes()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Group(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        open_closed()
        forgive_full()
        with _errors_in_one_line():
            return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"rwkv_np.cli.{cmd_name}").command
        return command


def _exit_on_signals() -> None:
    """Exit by an exception, so that a partly written file is removed."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):  # SIGHUP when a terminal is closed; Windows does not have it
        if number := getattr(signal, name, None):
            signal.signal(number, interrupt.outside_callbacks(lambda received, _: sys.exit(128 + received)))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rwkv-np")
def main() -> None:
    """RWKV language models on an ordinary computer, in pure Python."""
