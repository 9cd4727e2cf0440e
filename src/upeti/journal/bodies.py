"""Bodies of questions and answers, apart from the journal, so that they can be erased.

Rules: a body is kept once for each tenant that has it, under the SHA-256 of the tenant's salt and its bytes: two tenants
never share one, and once a salt is gone no digest can be tried out against a text. It is compressed (zstd), appears whole
or not at all, and is checked against its digest when it is read. Places other than a directory are fsspec's.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from typing import Any, Final, Protocol

import zstandard

from upeti.core.errors import ConfigError, JournalError

_SUFFIX: Final = ".zst"
_LEVEL: Final = 3  # zstd's own default
_BYTES_MAX: Final = 1 << 30  # of one body when unpacked: more is no body of ours
SALT_BYTES: Final = 32


def body_digest(salt: bytes, data: bytes) -> str:
    """Return the digest that a tenant's body is kept under."""
    return hashlib.sha256(salt + data).hexdigest()


class Place(Protocol):
    """Where files are kept, by name."""

    def write(self, name: str, data: bytes) -> None: ...

    def read(self, name: str) -> bytes | None: ...

    def remove(self, name: str) -> bool: ...

    def names(self) -> Iterator[tuple[str, float]]: ...

    def tidy(self, before_s: float) -> None:
        """Remove what a process that was killed had half written, before a time in seconds since 1970."""


class Bodies:
    """All bodies of one Upeti."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._packer = zstandard.ZstdCompressor(level=_LEVEL)
        self._unpacker = zstandard.ZstdDecompressor()

    def put(self, salt: bytes, data: bytes) -> str:
        """Keep a body; return its digest. Keeping it again changes nothing. Raises ``OSError``."""
        digest = body_digest(salt, data)
        self._place.write(_name(digest), self._packer.compress(data))
        return digest

    def read(self, salt: bytes, digest: str) -> bytes | None:
        """Return a body; None when it was erased. Raises ``JournalError`` when it is not what was kept."""
        packed = self._place.read(_name(digest))
        if packed is None:
            return None
        try:
            data: bytes = self._unpacker.decompress(packed, max_output_size=_BYTES_MAX)
        except zstandard.ZstdError as error:
            raise JournalError(f"the body {digest} is damaged ({error}): restore it from a copy, or erase it") from None
        if body_digest(salt, data) != digest:
            raise JournalError(f"the body {digest} is not what was kept: restore it from a copy, or erase it")
        return data

    def erase(self, digest: str) -> bool:
        """Remove a body for good; return whether it was there."""
        return self._place.remove(_name(digest))

    def kept(self) -> Iterator[tuple[str, float]]:
        """Yield the digest of every body and when it was written, in seconds since 1970."""
        for name, at_s in self._place.names():
            if name.endswith(_SUFFIX):
                yield name.rpartition("/")[2].removesuffix(_SUFFIX), at_s

    def tidy(self, before_s: float) -> None:
        """Remove what was half written before a time, in seconds since 1970."""
        self._place.tidy(before_s)


def _name(digest: str) -> str:
    return f"{digest[:2]}/{digest}{_SUFFIX}"


def bodies_at(data_dir: Path, url: str) -> Bodies:
    """Return the bodies of a data directory, or of the address ``url``. Raises ``ConfigError``."""
    return Bodies(Address(url) if url else Directory(data_dir / "bodies"))


class Directory:
    """A directory of this machine, for its owner alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, name: str, data: bytes) -> None:
        path = self._root / name
        if path.exists():
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{token_hex(4)}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> bool:
        try:
            (self._root / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def names(self) -> Iterator[tuple[str, float]]:
        for path in self._root.glob("*/*"):
            try:
                yield path.relative_to(self._root).as_posix(), path.stat().st_mtime
            except FileNotFoundError:
                continue  # erased meanwhile

    def tidy(self, before_s: float) -> None:
        for path in self._root.glob(f"*/*{_SUFFIX}.*"):
            try:
                if path.stat().st_mtime < before_s:
                    path.unlink()
            except FileNotFoundError:
                continue


class Address:
    """Any place that fsspec knows, such as a bucket. What is written there appears whole, which such stores promise."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec

            self._files: Any
            # What was listed is not remembered: another process erases, and a body that comes again must be written again.
            self._files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"[capture] url = {url!r} cannot be used: {error}; pip install 'upeti[s3]'") from None
        self._root = root.rstrip("/")

    def write(self, name: str, data: bytes) -> None:
        path = f"{self._root}/{name}"
        if not self._files.exists(path):
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)

    def read(self, name: str) -> bytes | None:
        try:
            data: bytes = self._files.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        return data

    def remove(self, name: str) -> bool:
        path = f"{self._root}/{name}"
        if not self._files.exists(path):  # S3 removes what is not there without a word
            return False
        try:
            self._files.rm_file(path)
        except FileNotFoundError:
            return False
        return True

    def names(self) -> Iterator[tuple[str, float]]:
        found = self._files.find(self._root, detail=True) if self._files.exists(self._root) else {}
        for path, about in found.items():
            at = about.get("LastModified") or about.get("mtime") or about.get("created") or 0.0
            yield path.removeprefix(f"{self._root}/"), at.timestamp() if hasattr(at, "timestamp") else float(at)

    def tidy(self, before_s: float) -> None:
        """Such places show no half of anything."""
