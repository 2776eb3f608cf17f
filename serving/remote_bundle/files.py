"""Files of HTTP servers and object stores, part by part, so that none need fit into memory."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from serving.bundle import BundleError
from serving.settings import SettingsError, variable

CHUNK_BYTES = 1 << 20
# A reply that stops for longer is given up. The process cannot end while it waits.
TIMEOUT_S = 5.0


class FetchError(BundleError):
    """A file cannot be had now; it may be there later."""


class MissingFileError(FetchError):
    """The place answers that it does not have the file."""


class Files(Protocol):
    """A place that files are read from."""

    def open(
        self, url: str, params: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Iterator[bytes]]:
        """Yield the parts of a file; FetchError."""
        ...

    def close(self) -> None:
        """End a download that another thread waits for."""
        ...


class HttpFiles:
    """Files of HTTP servers."""

    def __init__(self, auth: tuple[str, str] | None = None, token: str | None = None) -> None:
        """Create a client that sends a user name and a password, or a bearer token.

        Raises:
            SettingsError: the package httpx is missing.
        """
        try:
            import httpx
        except ImportError:
            raise missing("httpx", "registry") from None
        # It would log each request, with the signature that its address may have.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._errors = (httpx.HTTPError, httpx.InvalidURL)
        self._is_closed = False
        headers = {"accept-encoding": "identity"}  # an archive's digest is that of its own bytes
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            auth=auth, headers=headers, timeout=TIMEOUT_S, follow_redirects=True
        )

    @contextmanager
    def open(self, url: str, params: Mapping[str, str] | None = None) -> Iterator[Iterator[bytes]]:
        try:
            with self._client.stream("GET", url, params=params) as reply:
                if reply.status_code != 200:
                    error = MissingFileError if reply.status_code == 404 else FetchError
                    raise error(f"{shown(url)}: HTTP {reply.status_code}{_reason(reply)}")
                yield self._until_closed(reply.iter_raw(CHUNK_BYTES))
        except self._errors as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FetchError(f"{shown(url)}: {reason}") from None

    def close(self) -> None:
        self._is_closed = True

    def _until_closed(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        for part in parts:
            if self._is_closed:
                raise FetchError("the service is stopping")
            yield part


class ObjectStore:
    """Files of S3 and what speaks its protocol, with the credentials that Amazon's tools find.

    Options are in the address: `s3://bucket/file?region=…&endpoint_override=host:port&scheme=http`.
    """

    def __init__(self) -> None:
        """Raise SettingsError if the package pyarrow is missing."""
        try:
            import pyarrow.fs
        except ImportError:
            raise missing("pyarrow", "bulk") from None
        self._fs: Any = pyarrow.fs

    @contextmanager
    def open(self, url: str, params: Mapping[str, str] | None = None) -> Iterator[Iterator[bytes]]:
        try:
            parts = urlsplit(url)
            # By default it would wait for minutes, and unpack a .gz.
            system = self._fs.S3FileSystem(
                connect_timeout=TIMEOUT_S,
                request_timeout=TIMEOUT_S,
                retry_strategy=self._fs.AwsStandardS3RetryStrategy(max_attempts=1),
                **dict(parse_qsl(parts.query)),
            )
            path = f"{parts.netloc}{parts.path}"
            with system.open_input_stream(path, compression=None) as stream:
                yield iter(lambda: stream.read(CHUNK_BYTES), b"")
        except (OSError, ValueError, TypeError) as error:  # of the store, of an option
            raise FetchError(f"{shown(url)}: {' '.join(str(error).split())[:300]}") from None

    def close(self) -> None:
        """Do nothing: its client gives up by itself after a few seconds."""


def bounded(parts: Iterator[bytes], limit: int, url: str) -> Iterator[bytes]:
    """Yield the parts of a file of at most `limit` bytes; BundleError if it has more."""
    size = 0
    for part in parts:
        size += len(part)
        if size > limit:
            raise BundleError(f"{shown(url)}: got more than {limit:,} bytes")
        yield part


def shown(url: str) -> str:
    """Return an address without what may be secret: user, password, and a signature."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def missing(package: str, extra: str) -> SettingsError:
    """Return the error for an address that needs a package of an extra."""
    return SettingsError(
        f"{variable('bundle')}: the package {package} is missing; "
        f"wanted: pip install 'toxic-tweet-tagger[{extra}]'"
    )


def _reason(reply: Any) -> str:
    """Return what MLflow says about an error, in one line."""
    try:
        message = json.loads(next(reply.iter_raw(CHUNK_BYTES), b""))["message"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f": {' '.join(str(message).split())[:200]}"
