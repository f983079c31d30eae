"""Standard output and error that never decide over the work: what cannot be shown is dropped, and the command goes on.

The reader may have gone (`faceid run | head -2`), the disk behind a redirection may be full, the terminal closed or
without the characters, a pipe that does not block may stay full. A command whose very product is its output waits for
its reader; where writing fails it ends: quietly if the reader has gone, else with an error.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys

import click

from faceid_core.errors import FaceidError

_FULL_SECONDS = 2.0  # for the reader of a non-blocking pipe to make room, unless it waits for a product


class OutputLost(FaceidError):
    """What a command was asked to print could not be written."""


class _Stream(io.FileIO):
    """The descriptor of a standard stream, as a file that fails once at most.

    Args:
        descriptor: 1 or 2.
        product: whether what is written is what the command was called for.
        lost: why it cannot be written, where that is known from the start.
    """

    def __init__(self, descriptor: int, *, product: bool = False, lost: OSError | None = None):
        super().__init__(descriptor, "w", closefd=False)
        self._product, self._lost, self._told = product, lost, False

    def write(self, data) -> int:
        """Write, or drop what cannot be written.

        Raises:
            click.exceptions.Exit: once, of a product whose reader has gone.
            OutputLost: once, of a product, for any other cause.
        """
        if self._lost is None:
            try:
                return self._try(data)
            except OSError as error:
                self._lost = error
            except BaseException as interruption:  # the end of the process would wait for the same reader
                self._lost, self._told = OSError(errno.EINTR, str(interruption)), True
                raise
        if not self._told:
            self._told = True
            self._tell(self._lost)
        return len(data)

    def _try(self, data) -> int:
        seconds = None if self._product else _FULL_SECONDS
        while (written := super().write(data)) is None:  # non-blocking, and full
            if not select.select([], [self], [], seconds)[1]:
                raise OSError(errno.EAGAIN, "its reader takes nothing")
        return written

    def _tell(self, error: OSError) -> None:
        left = error.errno == errno.EPIPE
        if self._product:
            if left:
                raise click.exceptions.Exit(0)
            raise OutputLost(f"standard output cannot be written: {error.strerror}")
        if self.fileno() == 1 and not left:
            sys.stderr.write(f"standard output cannot be written ({error.strerror}); the command goes on\n")


def keep_showing(*, product: bool) -> None:
    """Replace standard output and error by streams that fail no work; a test's own are left alone.

    Args:
        product: whether standard output is what the command was called for.
    """
    closed = _open_what_is_closed()
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


def _open_what_is_closed() -> set[int]:
    """Give closed standard descriptors to the null device, or the next file that is opened would get what is printed."""
    closed = set()
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
            os.set_inheritable(descriptor, True)
            closed.add(descriptor)
    return closed
