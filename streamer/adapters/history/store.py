"""Where history is: a local directory, or an object store.

Laws: what is written appears whole or not at all. `replace` writes only over what its caller has read. On a local path both hold through
crashes and losses of power, and for any number of processes. An object store puts an object whole too; that it is not changed between the
check and the put of `replace` is seldom in its power: a writer that is frozen just there writes over what came meanwhile, and who owns
the partition then finds its position changed and goes on from there (`writing.py`).
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import pyarrow as pa
from pyarrow import fs

from streamer.core.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

# Arrow has no types.
Data: TypeAlias = "Any"  # bytes, or a `pyarrow.Buffer`
File: TypeAlias = "Any"  # a `pyarrow.NativeFile`
FileSystem: TypeAlias = "Any"  # a `pyarrow.fs.FileSystem`

LOCK_S_MAX = 10.0
LOCK_POLL_S = 0.02
UNFINISHED = ".tmp"
NEW_MS = 2**62


@dataclass(frozen=True, slots=True)
class Stored:
    """A file that is there; `path` is relative to the store."""

    path: str
    size_bytes: int
    changed_ms: int


class Store(Protocol):
    """Files by path, `/` between its parts. Every call raises `Unavailable` where the store can't do it now."""

    url: str  # opens it again
    place: str  # what people are told

    def read(self, path: str) -> bytes | None:
        """Read a small file; None where there is none."""

    def write(self, path: str, data: Data) -> None:
        """Write a file, whole or not at all, over the one that is there."""

    def replace(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Write a small file if the one that is there is `expected` (None: if there is none); tells whether it was."""

    def open(self, path: str) -> File:
        """Open a file of Arrow's, to be read anywhere. Raises `FileNotFoundError`."""

    def files(self, folder: str) -> list[Stored]:
        """List the files below a folder, unfinished ones too."""

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""


class LocalStore:
    """A directory."""

    def __init__(self, root: Path) -> None:
        """Name the directory; it is made with the first file."""
        self._root = root
        self.url = self.place = str(root)

    def read(self, path: str) -> bytes | None:
        """Read a small file; None where there is none."""
        with _answering(self.place):
            try:
                return (self._root / path).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, path: str, data: Data) -> None:
        """Write a file that is on the disk before it has its name."""
        target = self._root / path
        with _answering(self.place):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(UNFINISHED, ".", target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                Path(name).replace(target)
            except FileNotFoundError as error:  # somebody has taken it for a leftover
                message = f"{target} was deleted as it was written"
                raise Unavailable(message) from error
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
            _to_disk(target.parent)

    def replace(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Write a small file if the one that is there is `expected`, under a lock that ends with its process."""
        with self._locked(path):
            if self.read(path) != expected:
                return False
            self.write(path, data)
            return True

    def open(self, path: str) -> File:
        """Open a file of Arrow's."""
        with _answering(self.place):
            return pa.OSFile(str(self._root / path))

    def files(self, folder: str) -> list[Stored]:
        """List the files below a folder."""
        found = []
        with _answering(self.place):
            for path in sorted((self._root / folder).rglob("*")):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    if path.is_file():
                        about = path.stat()
                        found.append(Stored(path.relative_to(self._root).as_posix(), about.st_size, about.st_mtime_ns // 1_000_000))
        return found

    def delete(self, path: str) -> None:
        """Delete a file, and its folder where it was the last one in it."""
        target = self._root / path
        with _answering(self.place):
            target.unlink(missing_ok=True)
            with suppress(OSError):  # it holds others, or is gone
                target.parent.rmdir()

    @contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        lock = self._root / "locks" / path.replace("/", "-")
        with _answering(self.place):
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(handle, lock)
            yield
        finally:
            os.close(handle)


def _lock(handle: int, lock: Path) -> None:
    deadline = time.monotonic() + LOCK_S_MAX
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                message = f"another process has held {lock} for {LOCK_S_MAX:g} s: see whether an archiver hangs"
                raise Unavailable(message) from None
            time.sleep(LOCK_POLL_S)
        else:
            return


def _to_disk(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class ObjectStore:
    """A file system of pyarrow's: S3, Google Cloud Storage, Azure, HDFS, or any that fsspec knows."""

    def __init__(self, filesystem: FileSystem, base: str, url: str) -> None:
        """Name the place in the file system."""
        self._fs = filesystem
        self._base = base.rstrip("/")
        self.url = url
        self.place = url.partition("?")[0]

    def read(self, path: str) -> bytes | None:
        """Read a small file; None where there is none."""
        with _answering(self.place):
            try:
                with self._fs.open_input_stream(self._at(path)) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def write(self, path: str, data: Data) -> None:
        """Put an object."""
        with _answering(self.place):
            try:
                stream = self._fs.open_output_stream(self._at(path))
            except FileNotFoundError:  # not an object store: it has folders
                self._fs.create_dir(self._at(path).rpartition("/")[0], recursive=True)
                stream = self._fs.open_output_stream(self._at(path))
            stream.write(data)
            stream.close()  # where the object comes to be; one that could not be written is never closed on purpose

    def replace(self, path: str, data: bytes, expected: bytes | None) -> bool:
        """Put a small object if the one that is there is `expected`."""
        if self.read(path) != expected:
            return False
        self.write(path, data)
        return True

    def open(self, path: str) -> File:
        """Open an object."""
        with _answering(self.place):
            return self._fs.open_input_file(self._at(path))

    def files(self, folder: str) -> list[Stored]:
        """List the objects below a folder."""
        with _answering(self.place):
            found = self._fs.get_file_info(fs.FileSelector(self._at(folder), allow_not_found=True, recursive=True))
            files = [Stored(one.path.removeprefix(f"{self._base}/"), one.size, self._changed_ms(one)) for one in found if one.is_file]
        return sorted(files, key=lambda one: one.path)

    def delete(self, path: str) -> None:
        """Delete an object, if it is there."""
        with _answering(self.place), suppress(FileNotFoundError):
            self._fs.delete_file(self._at(path))

    def _changed_ms(self, about: Any) -> int:  # noqa: ANN401  # Arrow has no types
        """Tell when a file was written; one of which the store can't tell it is taken for new, and so for nobody's leftover."""
        if about.mtime_ns is not None:
            return int(about.mtime_ns // 1_000_000)
        if not isinstance(self._fs, fs.PyFileSystem):
            return NEW_MS
        try:
            return int(self._fs.handler.fs.modified(about.path).timestamp() * 1000)
        except NotImplementedError:
            return NEW_MS

    def _at(self, path: str) -> str:
        return f"{self._base}/{path}"


def open_store(url: str) -> Store:
    """Find the store that a URL names: a path, or a URL of pyarrow's or of fsspec's. Nothing is read.

    Credentials are the store's client's own matter (for S3, the environment or the machine's role). Options stand in the URL's query:
    `s3://bucket/history?region=eu-central-1`, `&endpoint_override=HOST:PORT&scheme=http` for a store of one's own.

    Raises:
        Misconfigured: no client knows the URL.

    """
    scheme = url.partition("://")[0] if "://" in url else "file"
    if scheme == "file":
        return LocalStore(Path(url.removeprefix("file://")).expanduser().absolute())
    try:
        filesystem, base = fs.FileSystem.from_uri(url)
    except pa.ArrowInvalid as error:
        return _by_fsspec(url, str(error))
    except (OSError, NotImplementedError) as error:
        message = f"history at {url} can't be opened: {error}"
        raise Misconfigured(message) from error
    return ObjectStore(filesystem, base, url)


def _by_fsspec(url: str, why: str) -> Store:
    try:
        import fsspec  # noqa: PLC0415  # only few URLs need it
    except ImportError:
        message = f"history at {url} can't be opened: {why}; for URLs of fsspec, install fsspec and the client of this sort of store"
        raise Misconfigured(message) from None
    try:
        filesystem, base = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, TypeError) as error:
        message = f"history at {url} can't be opened: neither pyarrow ({why}) nor fsspec ({error}) knows how"
        raise Misconfigured(message) from error
    return ObjectStore(fs.PyFileSystem(fs.FSSpecHandler(filesystem)), base, url)


@contextmanager
def _answering(place: str) -> Iterator[None]:
    """Say where history was looked for when the store does not do what it was asked for."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        message = f"history at {place}: {error}: see that the store is there and that this process may read and write it"
        raise Unavailable(message) from error
