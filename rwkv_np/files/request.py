"""One HTTP request: redirects, certificates, refusals, and the wait before the next attempt.

`download.py` knows what is asked for. Redirects are followed here, one by one: a token is for the hub only, and must
not be sent to the host that stores the file. This uses the HTTP client of the standard library: huggingface_hub has
changed from requests to httpx and httpx2, and none of them is a dependency of this package.
"""

from __future__ import annotations

import email.utils
import http.client
import importlib
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

from rwkv_np.errors import DownloadError, as_line

_REDIRECTS = (301, 302, 303, 307, 308)
_MOST_REDIRECTS = 10
BEYOND = 416  # the file ends before the requested range
_LATER = (408, 425, 429, 500, 502, 503, 504)  # the same request may succeed later
# Seconds before each retry if no new bytes arrived; the first retry is immediate. The last failure is final.
PAUSES = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
LONGEST_PAUSE = 300.0  # seconds: the longest pause that a server may request

_log = logging.getLogger("rwkv_np")


@dataclass(frozen=True)
class Address:
    """The address of a file, and its name in messages.

    headers  may contain a token, which is sent to this host only
    timeout  seconds without a byte
    """

    name: str
    url: str
    headers: Mapping[str, str]
    timeout: float = 10.0


class Broken(Exception):
    """The connection broke, or the server asks for a retry later: after `wait` seconds, if it says so."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@contextmanager
def answer(address: Address, method: str, start: int = 0) -> Iterator[tuple[Any, Mapping[str, str]]]:
    """The response, and the headers of the first response that was not just a redirect on the same host.

    Raises DownloadError: the server refuses; Broken: a retry may succeed
    """
    headers, url = {**address.headers, "Accept-Encoding": "identity"}, address.url
    if start:
        headers["Range"] = f"bytes={start}-"
    first: Mapping[str, str] | None = None
    for _ in range(_MOST_REDIRECTS):
        response = _ask(address, method, url, headers)
        with response:
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or not target:
                _refuse(address.name, response)
                yield response, response.headers if first is None else first
                return
            target = urljoin(url, target)
            if "X-Linked-Size" in response.headers:
                first = response.headers
                if method == "HEAD":
                    yield response, first
                    return
            if _host(target) != _host(url):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            url = target
    raise DownloadError(f"{address.name}: download failed: more than {_MOST_REDIRECTS} redirects. Check the address")


def _host(url: str) -> tuple[str, str]:
    """The scheme and host that a token is for: the same host with plain HTTP is different."""
    return urlsplit(url).scheme, urlsplit(url).netloc


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Disables the library's redirects, which would also send the token."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _ask(address: Address, method: str, url: str, headers: Mapping[str, str]) -> Any:
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=_certificates()))
    try:
        return opener.open(urllib.request.Request(url, headers=dict(headers), method=method), timeout=address.timeout)
    except urllib.error.HTTPError as response:  # any status that is not 2xx; it can be read like a response
        return response
    except (OSError, http.client.HTTPException) as error:
        if isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError):
            raise DownloadError(f"{address.name}: download failed: {reason_of(error)}") from error
        raise Broken(reason_of(error)) from error
    except ValueError as error:
        raise DownloadError(f"{address.name}: download failed: {error}. Check the address (HF_ENDPOINT)") from error


def _certificates() -> ssl.SSLContext:
    """The system's certificates, certifi's (some Pythons have none), and a company proxy's from the variables of
    requests."""
    context = ssl.create_default_context()
    with suppress(ImportError, OSError):
        context.load_verify_locations(importlib.import_module("certifi").where())
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := os.environ.get(name):
            with suppress(OSError):
                context.load_verify_locations(*((None, path) if os.path.isdir(path) else (path,)))
    return context


def _refuse(name: str, response: Any) -> None:
    """Raise the error for a status that is not a success."""
    status = response.status
    if status in (200, 206, BEYOND):
        return
    if status in _LATER:
        raise Broken(f"the server answers {status} {response.reason}", retry_after(response))
    said = response.headers.get("X-Error-Message") or response.headers.get("X-Error-Code") or response.reason
    hint = "Check the name and run the command again"
    if status in (401, 403):
        hint = "Check the name; for a gated or private model log in (hf auth login) and accept its terms on its page"
    raise DownloadError(f"{name}: download failed: {status} {as_line(str(said)).rstrip('.')}. {hint}")


def retry_after(response: Any) -> float:
    """Seconds to wait, from the Retry-After header, which has a number or a date."""
    said = (response.headers.get("Retry-After") or "").strip()
    if said.isdigit():
        return min(float(said), LONGEST_PAUSE)
    with suppress(ValueError, TypeError):
        return max(0.0, min(email.utils.parsedate_to_datetime(said).timestamp() - time.time(), LONGEST_PAUSE))
    return 0.0


def reason_of(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return "no answer in time"
    said = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return as_line(said or type(error).__name__).rstrip(".")


class Patience:
    """Counts retries while no bytes arrive."""

    def __init__(self, name: str, pauses: Sequence[float] | None = None) -> None:
        pauses = PAUSES if pauses is None else pauses
        self._name, self._pauses, self._n = name, iter(pauses), len(pauses) + 1

    def wait(self, error: Broken, done: int = 0, total: int | None = None) -> None:
        """Wait before the next attempt. Raises DownloadError if this was the last."""
        so_far = f" after {done / 1e6:,.1f} of {total / 1e6:,.1f} MB" if total and done else ""
        pause = next(self._pauses, None)
        if pause is None:
            raise DownloadError(
                f"{self._name}: download failed{so_far}: {error}, {self._n} times in a row. Check the network and run "
                f"the command again{': it will continue from there' if done else ''}"
            ) from error
        pause = max(pause, error.wait)
        later = f" in {pause:.0f} s" if pause >= 1 else ""
        _log.warning("Downloading: %s%s; trying again%s", error, so_far, later)
        time.sleep(pause)
