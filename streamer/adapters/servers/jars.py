"""Apache Kafka's jars: named and hashed in a lock file, fetched once, verified before every start.

The law: a jar is run only if its SHA-256 is the lock file's. What the cache holds is verified at every start; what differs there is fetched
anew; what differs after a fetch is refused. Nothing is asked of the network when the cache is whole.

Fetching is jgo's: pure Python, with the repositories of jgo's own configuration file, the mirror of Maven's `settings.xml`, jars that the
local Maven repository has already, and proxies from the environment. Where that fails and Maven itself is installed, Maven fetches,
with all that its settings can say.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import re
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from streamer.adapters.servers.cache import locked
from streamer.adapters.servers.errors import JarRefused, JarUnavailable, ServersMissing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Report = Callable[[str, int, int], None]

LOCK_FILE = Path(__file__).with_name("kafka.lock")
FETCH_THREADS = 6
FETCH_ATTEMPTS_MAX = 3
FETCH_TIMEOUT_S = 60
LOCK_TIMEOUT_S = 900.0
JGO_MISSING = "the package jgo, which fetches Apache Kafka, is not installed: pip install 'segment-streamer[servers]'"


@dataclass(frozen=True, slots=True)
class Jar:
    """One jar of the lock file: Maven coordinates, SHA-256 in hexadecimal, size in bytes."""

    group: str
    artifact: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def filename(self) -> str:
        """The name that Maven gives the file."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinate(self) -> str:
        """`group:artifact:version`."""
        return f"{self.group}:{self.artifact}:{self.version}"


def read_lock(path: Path = LOCK_FILE) -> tuple[Jar, ...]:
    """Read a lock file: the class path, in order."""
    rows = json.loads(path.read_text(encoding="utf-8"))["jars"]
    return tuple(_jar(row) for row in rows)


def _jar(row: dict[str, Any]) -> Jar:
    group, artifact, version = row["coordinate"].split(":")
    return Jar(group, artifact, version, row["sha256"], row["size_bytes"])


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def is_genuine(jar: Jar, path: Path) -> bool:
    """Whether the file is there and is the jar that the lock names."""
    return path.is_file() and path.stat().st_size == jar.size_bytes and sha256_of(path) == jar.sha256


def class_path(cache: Path, report: Report | None = None, jars: tuple[Jar, ...] | None = None) -> list[Path]:
    """The verified jars, fetched if need be.

    Args:
        cache: the cache directory; the jars go to `jars/` in it. Safe among processes.
        report: called with a label, bytes done and bytes in all.
        jars: other than those of the packaged lock file.

    Raises:
        JarRefused: a fetched jar is not the lock file's.
        JarUnavailable: a jar could not be fetched.
        ServersMissing: something must be fetched and jgo is not installed.
    """
    jars = read_lock() if jars is None else jars
    directory = cache / "jars"
    if _missing(jars, directory, report):
        with locked(cache / "jars.lock", timeout_s=LOCK_TIMEOUT_S):
            missing = _missing(jars, directory, None)  # another process may have fetched them meanwhile
            if missing:
                _fetch(missing, directory, report)
    return [directory / jar.filename for jar in jars]


def _missing(jars: tuple[Jar, ...], directory: Path, report: Report | None) -> list[Jar]:
    there = [jar for jar in jars if (directory / jar.filename).is_file()]
    missing = [jar for jar in jars if jar not in there]
    done, total = 0, sum(jar.size_bytes for jar in there)
    for jar in there:
        if not is_genuine(jar, directory / jar.filename):
            missing.append(jar)
        done += jar.size_bytes
        if report:
            report("verifying Apache Kafka", done, total)
    return missing


def _fetch(missing: list[Jar], directory: Path, report: Report | None) -> None:
    if importlib.util.find_spec("jgo") is None:
        raise ServersMissing(JGO_MISSING)
    directory.mkdir(parents=True, exist_ok=True)
    progress = _Progress(sum(jar.size_bytes for jar in missing), report)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=directory.parent) as scratch:
        contexts = _contexts(Path(scratch), progress)
        with ThreadPoolExecutor(FETCH_THREADS) as pool:
            problems = dict(zip(missing, pool.map(lambda jar: _fetch_one(jar, contexts, directory, progress), missing), strict=True))
        left = [jar for jar, problem in problems.items() if isinstance(problem, JarUnavailable)]
        found = _fetch_with_maven(left, Path(scratch) / "maven", directory) if left else set()
    for jar, problem in problems.items():
        if problem is not None and jar not in found:
            raise problem


def _fetch_one(jar: Jar, contexts: list[Any], directory: Path, progress: _Progress) -> Exception | None:
    """Try each context in turn; give the problem instead of raising it, so that Maven can have a go."""
    problem: Exception | None = None
    for number, context in enumerate(contexts):
        for attempt in range(FETCH_ATTEMPTS_MAX if number else 1):
            time.sleep(attempt if isinstance(problem, JarUnavailable) else 0)
            artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
            artifact.cached_path.unlink(missing_ok=True)
            try:
                fetched = Path(artifact.resolve())
            except (OSError, RuntimeError) as error:  # requests' own errors are OSErrors
                if not isinstance(problem, JarRefused):
                    problem = JarUnavailable(f"{jar.coordinate} could not be fetched: {_without_credentials(str(error))}")
                continue
            problem = _place(jar, fetched, directory)
            if problem is None:
                if number == 0:
                    progress.add(jar.size_bytes)  # jgo tells of downloads only
                return None
    return problem


def _place(jar: Jar, fetched: Path, directory: Path) -> JarRefused | None:
    """Copy a fetched jar into the cache if it is genuine; what is in place is whole and verified."""
    with tempfile.NamedTemporaryFile(dir=directory, prefix=jar.filename, suffix=".part", delete=False) as part:
        temporary = Path(part.name)
    shutil.copyfile(fetched, temporary)
    if not is_genuine(jar, temporary):
        found = sha256_of(temporary)
        temporary.unlink()
        return JarRefused(
            f"{jar.coordinate} is refused: its SHA-256 is {found}, the lock file says {jar.sha256}. "
            "The repository or the connection to it has altered the file; nothing of it was run."
        )
    temporary.chmod(0o644)
    temporary.replace(directory / jar.filename)
    return None


def _contexts(scratch: Path, progress: _Progress) -> list[Any]:
    """The contexts of jgo in the order of asking: this machine's Maven repository alone, then the network."""
    maven: Any = importlib.import_module("jgo.maven")
    settings: Any = importlib.import_module("jgo.config").GlobalSettings.load()
    central = importlib.import_module("jgo.constants").MAVEN_CENTRAL_URL
    remotes = {**settings.repositories, "central": mirror_of_central(maven_settings()) or central}
    resolver = maven.PythonResolver(progress_callback=progress.file)
    local = maven.MavenContext(resolver=resolver, repo_cache=scratch / "local", local_repos=[settings.repo_cache], offline=True)
    remote = maven.MavenContext(resolver=resolver, repo_cache=scratch / "remote", remote_repos=remotes, timeout=FETCH_TIMEOUT_S)
    return [local, remote]


def _fetch_with_maven(missing: list[Jar], scratch: Path, directory: Path) -> set[Jar]:
    """Let Maven itself fetch what is missing; give what it found and is genuine."""
    command = shutil.which("mvn")
    if command is None:
        return set()
    maven: Any = importlib.import_module("jgo.maven")
    dependency: Any = importlib.import_module("jgo.maven._core").Dependency
    context = maven.MavenContext(resolver=maven.MvnResolver(Path(command)), repo_cache=scratch)
    artifacts = [context.project(jar.group, jar.artifact).at_version(jar.version).artifact() for jar in missing]
    try:
        context.resolver.resolve([dependency(artifact) for artifact in artifacts])
    except (OSError, RuntimeError):
        return set()
    return {
        jar
        for jar, artifact in zip(missing, artifacts, strict=True)
        if artifact.cached_path.is_file() and _place(jar, artifact.cached_path, directory) is None
    }


def maven_settings() -> Path:
    """Where Maven keeps the user's settings."""
    return Path.home() / ".m2" / "settings.xml"


def mirror_of_central(settings: Path) -> str | None:
    """The URL of the mirror that Maven's settings name for its central repository, or None.

    `mirrorOf` may be `*`, `external:*`, `central` or a list with them; `!central` leaves it out. `${env.NAME}` is replaced.
    """
    try:
        root = ET.parse(settings).getroot()  # noqa: S314 - the user's own settings
    except (OSError, ET.ParseError):
        return None
    for mirror in root.findall("{*}mirrors/{*}mirror"):
        patterns = {part.strip() for part in (mirror.findtext("{*}mirrorOf") or "").split(",")}
        url = (mirror.findtext("{*}url") or "").strip()
        if url and "!central" not in patterns and patterns & {"*", "external:*", "central"}:
            return re.sub(r"\$\{env\.(\w+)\}", lambda found: os.environ.get(found[1], ""), url).rstrip("/")
    return None


def _without_credentials(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//***@", text)


class _Progress:
    """Adds up the bytes of downloads that run side by side."""

    def __init__(self, total: int, report: Report | None) -> None:
        self._total = total
        self._done = 0
        self._report = report

    @contextmanager
    def file(self, _name: str, _size: int) -> Iterator[Callable[[int], None]]:
        """What jgo calls for each download."""
        yield self.add

    def add(self, count: int) -> None:
        """Count bytes that have come."""
        self._done += count  # a lost update between threads costs a little of the bar, no more
        if self._report:
            self._report("fetching Apache Kafka", min(self._done, self._total), self._total)
