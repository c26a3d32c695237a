"""Model versions in a directory: of this machine, or of an object store by its URL.

Laws: a version's file never changes once it is there. `NAME-000007.avro` is the body of a ModelVersion as it stands on the topic, and its
SHA-256 names it; `NAME-000007.json` beside it says what the night saw. Candidates that the gate refused are in `refused/`, named by their
SHA-256 too, since the number is still free.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pyarrow import ArrowException
from pyarrow import fs as arrow_fs

from offline.gate import Spread
from streamer.adapters.avro import codec
from streamer.adapters.avro.model_records import decoded, encoded
from streamer.core.errors import Corrupt, Misconfigured, Unavailable
from streamer.core.model import digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offline.reseed import Candidate
    from streamer.core.model import ModelVersion

REFUSED = "refused"
DIGITS = 6
SHORT = 12


@dataclass(frozen=True, slots=True)
class Kept:
    """A version on the shelf: its body's SHA-256, and what was written beside it."""

    version: ModelVersion
    sha256: str
    details: dict[str, Any]
    refused: bool = False

    @property
    def spreads(self) -> dict[str, Spread] | None:
        """Give how features were spread over the customers of the fit, where it was written down."""
        found = self.details.get("spreads")
        return None if found is None else {name: Spread(tuple(s["edges"]), tuple(s["shares"]), s["customers"]) for name, s in found.items()}


def body_of(version: ModelVersion) -> bytes:
    """Write a version's body, the bytes that its SHA-256 is of."""
    return encoded(version)


class Shelf:
    """A directory of versions of one model."""

    def __init__(self, url: str, name: str) -> None:
        """Open a directory by its path or URL; it is made when something is put there. Raises `Misconfigured` for an unknown URL."""
        self.url, self._name = url, name
        try:
            self._fs, root = arrow_fs.FileSystem.from_uri(url) if "://" in url else (arrow_fs.LocalFileSystem(), url)
        except (ArrowException, ValueError, OSError) as error:
            message = f"{url}: neither a directory nor the URL of an object store that can be read: {error}"
            raise Misconfigured(message) from error
        self._root = root.rstrip("/")

    def versions(self) -> list[Kept]:
        """Read every version, in the order of their numbers. Raises `Corrupt` where one is not what was written."""
        return sorted(self._read(""), key=lambda kept: kept.version.version)

    def refused(self) -> list[Kept]:
        """Read every candidate that was refused, by the instants that they are as of."""
        return sorted(self._read(REFUSED), key=lambda kept: (kept.version.version, kept.version.as_of, kept.sha256))

    def get(self, number: int) -> Kept:
        """Find a version by its number. Raises `Misconfigured` where there is none."""
        found = {kept.version.version: kept for kept in self.versions()}
        if number not in found:
            known = ", ".join(map(str, found)) or "none"
            message = f"there is no version {number} of {self._name} in {self.url}: there are {known}"
            raise Misconfigured(message)
        return found[number]

    def put(self, candidate: Candidate) -> Kept:
        """Keep a candidate: as the next version if the gate passed it, else among the refused. The same one twice is one.

        Raises:
            Misconfigured: another version has the number already.
            Unavailable: the directory can't be written.

        """
        body = body_of(candidate.version)
        sha256 = digest(body).hex()
        stem = self._stem(candidate.version)
        path = stem if candidate.verdict.passed else f"{REFUSED}/{stem}-{sha256[:SHORT]}"
        present = self._bytes(f"{path}.avro")
        if present is not None and present != body:
            message = f"{self.url}/{path}.avro is another version under this number, written meanwhile: run again to build upon it"
            raise Misconfigured(message)
        details = details_of(candidate, sha256)
        self._write(f"{path}.json", text_of(details))
        self._write(f"{path}.avro", body)  # last: it is what makes the version one
        return Kept(candidate.version, sha256, details, refused=not candidate.verdict.passed)

    def accept(self, kept: Kept, reason: str) -> Kept:
        """Keep a refused candidate as the version of its number, since a person says so; the reason is kept with it.

        Raises:
            Misconfigured: another version has the number already.
            Unavailable: the directory can't be written.

        """
        details = {**kept.details, "gate": {**kept.details.get("gate", {}), "forced": reason, "passed": True}}
        return self._keep(kept.version, body_of(kept.version), details)

    def fetch(self, body: bytes) -> Kept | None:
        """Keep a version that was published by somebody else, such as the stream's own first model; None where it is there already.

        Raises:
            Misconfigured: another version has the number already.
            Unavailable: the directory can't be written.

        """
        version = decoded(body)
        stem = self._stem(version)
        if self._bytes(f"{stem}.avro") == body:
            return None
        return self._keep(version, body, {"sha256": digest(body).hex(), "version": version.record(), "fetched": True})

    def _stem(self, version: ModelVersion) -> str:
        return f"{self._name}-{version.version:0{DIGITS}d}"

    def _keep(self, version: ModelVersion, body: bytes, details: dict[str, Any]) -> Kept:
        stem = self._stem(version)
        present = self._bytes(f"{stem}.avro")
        if present is not None and present != body:
            message = (
                f"{self.url}/{stem}.avro is another version under this number: look at both (`offline models show`), and re-seed upon it"
            )
            raise Misconfigured(message)
        self._write(f"{stem}.json", text_of(details))
        self._write(f"{stem}.avro", body)  # last: it is what makes the version one
        return Kept(version, digest(body).hex(), details)

    def _read(self, folder: str) -> Iterator[Kept]:
        place = f"{self._root}/{folder}".rstrip("/")
        found = self._fs.get_file_info(arrow_fs.FileSelector(place, allow_not_found=True))
        for info in sorted(found, key=lambda one: one.base_name):
            stem, _, ending = info.base_name.rpartition(".")
            if ending != "avro" or not stem.startswith(f"{self._name}-"):
                continue
            path = f"{folder}/{stem}".lstrip("/")
            body, beside = self._bytes(f"{path}.avro") or b"", self._bytes(f"{path}.json")
            try:
                version = decoded(body)
                details = json.loads(beside) if beside is not None else {}
            except (codec.BodyRefused, ValueError) as error:
                message = f"{self.url}/{path}: not a model version: {error}"
                raise Corrupt(message) from error
            sha256 = digest(body).hex()
            if details.get("sha256", sha256) != sha256:
                message = f"{self.url}/{path}.avro has the SHA-256 {sha256}, not the one beside it: it was altered"
                raise Corrupt(message)
            yield Kept(version, sha256, details, refused=bool(folder))

    def _bytes(self, path: str) -> bytes | None:
        try:
            with self._fs.open_input_stream(f"{self._root}/{path}") as file:
                return bytes(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            message = f"{self.url}/{path} can't be read: {error}"
            raise Unavailable(message) from error

    def _write(self, path: str, body: bytes) -> None:
        """Write a file whole or not at all."""
        whole = f"{self._root}/{path}"
        try:
            self._fs.create_dir(whole.rpartition("/")[0], recursive=True)
            local = isinstance(self._fs, arrow_fs.LocalFileSystem)
            with self._fs.open_output_stream(f"{whole}.part" if local else whole) as file:  # an object is there when it is closed
                file.write(body)
            if local:
                self._fs.move(f"{whole}.part", whole)
        except OSError as error:
            message = f"{self.url}/{path} can't be written: {error}"
            raise Unavailable(message) from error


def text_of(details: dict[str, Any]) -> bytes:
    """Write what a night saw as it stands beside the version."""
    return json.dumps(details, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def details_of(candidate: Candidate, sha256: str) -> dict[str, Any]:
    """Give all that the night saw, in JSON's types."""
    matching = candidate.matching
    return {
        "sha256": sha256,
        "version": candidate.version.record(),
        "gate": candidate.verdict.record(),
        "data": candidate.report.record(),
        "spreads": {name: asdict(found) for name, found in candidate.spreads.items()},
        "matching": None if matching is None else asdict(matching),
        "audit": list(candidate.audit),
        "k_table": None if candidate.choice is None else json.loads(candidate.choice.to_json(orient="records")),
    }
