"""A real Prometheus that scrapes workers as it is deployed, and the dashboard whose queries it is asked."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import urllib.parse
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana/dashboards/segment-streamer.json").read_text(encoding="utf-8"))


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process with the block."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Prometheus:
    """A Prometheus at a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask for an expression's value now."""
        answer = self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        assert "success" == answer["status"]
        return list(answer["data"]["result"])

    def over(self, expression: str, begin_s: float, end_s: float, step_s: float) -> list[dict[str, Any]]:
        """Ask for an expression's values over a time."""
        asked = {"query": expression, "start": begin_s, "end": end_s, "step": step_s}
        return list(self._get("/api/v1/query_range?" + urllib.parse.urlencode(asked))["data"]["result"])

    def numbers(self, expression: str) -> list[float]:
        """An expression's values now that are numbers."""
        values = [float(one["value"][1]) for one in self.query(expression)]
        return [value for value in values if value == value]  # noqa: PLR0124  # NaN is not equal to itself

    def rules(self) -> dict[str, str]:
        """The health of every alert."""
        answer = self._get("/api/v1/rules?type=alert")
        return {rule["name"]: rule["health"] for group in answer["data"]["groups"] for rule in group["rules"]}

    def answers(self) -> bool:
        """Tell whether it is ready."""
        try:
            status, _ = self._read("/-/ready")
        except OSError:
            return False
        return status == HTTPStatus.OK

    def _get(self, path: str) -> dict[str, Any]:
        status, body = self._read(path)
        assert HTTPStatus.OK == status, body
        return dict(json.loads(body))

    def _read(self, path: str) -> tuple[int, bytes]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", path)
            reply = connection.getresponse()
            return reply.status, reply.read()


def configured(directory: Path, targets: list[str]) -> Path:
    """The configuration that is deployed, with other targets and shorter intervals, beside the alerts."""
    settings = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text(encoding="utf-8"))
    settings["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["static_configs"] = [{"targets": targets}]
    shutil.copy(DEPLOY / "prometheus/alerts.yml", directory)
    file = directory / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


@contextmanager
def scraping(directory: Path, port: int, targets: list[str]) -> Iterator[Prometheus]:
    """Run a Prometheus for the length of a block."""
    command = [
        *("prometheus", f"--config.file={configured(directory, targets)}", f"--storage.tsdb.path={directory / 'data'}"),
        *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"),
    ]
    with (directory / "prometheus.log").open("wb") as log, ended(subprocess.Popen(command, stdout=log, stderr=log)):
        yield Prometheus(port)
