"""Standard streams that cannot end a run: output that cannot be written is dropped, and the command goes on.

The reader may have gone (`faceid run | head -2`), the disk behind a redirection may be full, the terminal may be closed
or lack the characters, a non-blocking pipe may stay full. A command whose product is its output waits for its reader
instead, and ends if writing fails: quietly if the reader has gone, else with an error.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys

import click

from faceid_core.errors import FaceidError

# Of Ray's jobs and of a Kubernetes pod: what a process prints there goes into a log.
LOGGED_BY = ("RAY_JOB_CONFIG_JSON_ENV_VAR", "KUBERNETES_SERVICE_HOST")
_FULL_SECONDS = 2.0  # for the reader of a full, non-blocking pipe; for a product there is no limit


class OutputLost(FaceidError):
    """The output that a command was called for could not be written."""


class _Stream(io.FileIO):
    """The descriptor of a standard stream as a file whose failure is reported once.

    Args:
        descriptor: 1 or 2.
        product: whether the command was called for what is written.
        lost: why nothing can be written, if that is known from the start.
    """

    def __init__(self, descriptor: int, *, product: bool = False, lost: OSError | None = None):
        super().__init__(descriptor, "w", closefd=False)
        self._product, self._lost, self._is_reported = product, lost, False

    def write(self, data) -> int:
        """Write, or drop what cannot be written.

        Raises:
            click.exceptions.Exit: once, if this is a product and its reader has gone.
            OutputLost: once, if this is a product and writing fails for another cause.
        """
        if self._lost is None:
            try:
                return self._write_or_wait(data)
            except OSError as error:
                self._lost = error
            except BaseException as interruption:  # or flushing at exit would wait for the same reader
                self._lost, self._is_reported = OSError(errno.EINTR, str(interruption)), True
                raise
        if not self._is_reported:
            self._is_reported = True
            self._report(self._lost)
        return len(data)

    def _write_or_wait(self, data) -> int:
        seconds = None if self._product else _FULL_SECONDS
        while (written := super().write(data)) is None:  # non-blocking, and full
            if not select.select([], [self], [], seconds)[1]:
                raise OSError(errno.EAGAIN, "its reader takes nothing")
        return written

    def _report(self, error: OSError) -> None:
        is_reader_gone = error.errno == errno.EPIPE
        if self._product:
            if is_reader_gone:
                raise click.exceptions.Exit(0)
            raise OutputLost(f"standard output cannot be written: {error.strerror}")
        if self.fileno() == 1 and not is_reader_gone:
            sys.stderr.write(f"standard output cannot be written ({error.strerror}); the command goes on\n")


def is_logged() -> bool:
    """Whether what is printed goes into a log, which names people by key, and not to the one who has the manifest."""
    if sys.stdout.isatty():
        return False
    return any(name in os.environ for name in LOGGED_BY) or _is_of_systemd()


def _is_of_systemd() -> bool:
    """Whether standard output is systemd's own: the variable is inherited by a desktop's terminals, too."""
    try:
        here = os.fstat(1)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{here.st_dev}:{here.st_ino}"


def protect_standard_streams(*, product: bool) -> None:
    """Replace standard output and error by streams whose failure does not end the work; replaced ones are left alone.

    Args:
        product: whether the command was called for its standard output.
    """
    closed = _open_closed_descriptors()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__"):
            continue
        is_product = product and descriptor == 1
        lost = OSError(errno.EBADF, "it is closed") if descriptor in closed else None
        raw = _Stream(descriptor, product=is_product, lost=lost)
        screen = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=stream.encoding if stream else "utf-8",
            errors="backslashreplace" if is_product or descriptor == 2 else "replace",
            line_buffering=stream.line_buffering if stream else True,
        )
        setattr(sys, name, screen)


def _open_closed_descriptors() -> set[int]:
    """Open the null device at closed standard descriptors: the next file opened would otherwise get the output."""
    closed = set()
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
            os.set_inheritable(descriptor, True)
            closed.add(descriptor)
    return closed
