"""Log lines, for people or for machines."""

from __future__ import annotations

import json
import logging
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamer.app.config_schema import Log


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up(how: Log) -> None:
    """Send log lines to standard error as the configuration says."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if how.format == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("streamer")
    root.handlers[:] = [handler]
    root.setLevel(how.level.upper())
    root.propagate = False
