"""The logger `deepseek`, at the level of DS_LOG_LEVEL.

In flow messages; they go to standard error, or to the application's handlers where it has set any.
"""

from __future__ import annotations

import functools
import logging
import sys

from deepseek.config import handed_on, misspelt, options


class StandardError(logging.Handler):
    """Writes to whatever standard error is at the moment, unless the application has handlers."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(self.format(record), file=sys.stderr)


@functools.cache
def logger() -> logging.Logger:
    """The logger; the first call warns of variables that look like ours and are not."""
    log = logging.getLogger("deepseek")
    log.setLevel(options.log_level.upper())
    handler = StandardError()
    handler.setFormatter(logging.Formatter("deepseek %(levelname)s: %(message)s"))
    log.addHandler(handler)
    for name, meant in misspelt().items():
        log.warning("the environment variable %s is not known; did you mean %s?", name, meant)
    return log


handed_on["log_level"] = lambda level: logger().setLevel(level.upper())
