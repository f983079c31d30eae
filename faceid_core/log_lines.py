"""Log lines as JSON objects on stderr, each with the run, the stage and the identity key that it concerns."""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
import sys

OUR_LOGGERS = ("faceid", "faceid_core", "tasks", "flows")
# An identity key is 32 hex digits, as in store.secret, which is above this module; digests and stage keys have 64.
# Messages name the key of whom they concern.
_KEY = re.compile(r"(?<![0-9a-f])[0-9a-f]{32}(?![0-9a-f])")


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, message, run, stage, identity_key, and error if any.

    `stage` and `identity_key` are those of the record (`about`); else the stage is the present one, and the key is the
    one that the message names. What is unknown is left out.

    Attributes:
        run: The run of this process; empty before it is opened.
        stage: Its present stage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.run = self.stage = ""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        message = record.getMessage()
        named = _KEY.findall(message) if _is_ours(record) else []  # other packages write other digests
        line = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message,
            "run": self.run,
            "stage": getattr(record, "stage", "") or self.stage,
            "identity_key": getattr(record, "identity_key", "") or (named[0] if len(set(named)) == 1 else ""),
            "subject": getattr(record, "subject", ""),
            "error": self.formatException(record.exc_info) if record.exc_info else "",
        }
        return json.dumps({name: value for name, value in line.items() if value}, ensure_ascii=False)


class _JsonLines(logging.StreamHandler):
    """Writes JSON lines; of other packages, records from `others_from` on."""

    def __init__(self, others_from: int):
        super().__init__(sys.stderr)
        self.others_from, self.lines = others_from, JsonFormatter()
        self.setFormatter(self.lines)
        self.addFilter(self._is_wanted)

    def _is_wanted(self, record: logging.LogRecord) -> bool:
        return _is_ours(record) or record.levelno >= self.others_from


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] in OUR_LOGGERS


def about(stage: str, subject: str) -> dict[str, str]:
    """The `extra` of a log call that concerns one subject: an identity key, or the name of floor or ceiling."""
    return {"stage": stage, "identity_key" if _KEY.fullmatch(subject) else "subject": subject}


def write_json_lines(run: str = "") -> None:
    """Have all of this process' log written as JSON lines, in place of the root logger's lines of text.

    Call it again when a library (Prefect) may have set the root logger up anew, and when the run's id is known.

    Args:
        run: The run's id.
    """
    root = logging.getLogger()
    texts = [each for each in root.handlers if _writes_to_terminal(each)]
    before = next((each for each in texts if isinstance(each, _JsonLines)), None)
    levels = [each.others_from if isinstance(each, _JsonLines) else each.level for each in texts]
    handler = _JsonLines(max(levels, default=logging.NOTSET))
    handler.lines.run = run or (before.lines.run if before else "")
    root.handlers = [each for each in root.handlers if each not in texts] + [handler]
    logging.captureWarnings(True)
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)


def _writes_to_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


def enter_stage(stage: str) -> None:
    """Note the stage that this process is at, for lines that name none; nothing happens where lines are text."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _JsonLines):
            handler.lines.stage = stage
