"""A wall clock that is set while a process runs: `time.time` and `datetime.now` jump, `time.monotonic` does not."""

from __future__ import annotations

import datetime
import sys
import time

_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime
_PACKAGES = ("faceid_core", "flows", "tasks", "data_contracts")


class SteppedClock:
    """Every wall clock of our own code, from `install` on; `seconds` says how far it is from the true one.

    `datetime.datetime` cannot be patched in place, so a class of the same behavior takes its place where our modules
    look it up.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def install(self, setattr_=setattr) -> SteppedClock:
        """Put the clock in the place of the true one.

        Args:
            setattr_: `monkeypatch.setattr` where the true clock is to come back.
        """
        setattr_(time, "time", lambda: _time() + self.seconds)
        setattr_(time, "time_ns", lambda: _time_ns() + int(self.seconds * 1e9))
        stepped = _datetime_of(self)
        setattr_(datetime, "datetime", stepped)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in _PACKAGES:
                for attribute, value in list(vars(module).items()):
                    if value is _datetime:
                        setattr_(module, attribute, stepped)
        return self


def _datetime_of(clock: SteppedClock) -> type:
    class Meta(type):
        def __instancecheck__(cls, value):
            return isinstance(value, _datetime)

        def __subclasscheck__(cls, other):
            return issubclass(other, _datetime)

    class Stepped(_datetime, metaclass=Meta):
        def __new__(cls, *args, **more):
            return _datetime(*args, **more)

        @classmethod
        def now(cls, tz=None):
            return _datetime.fromtimestamp(_time() + clock.seconds, tz)

        @classmethod
        def fromisoformat(cls, text):
            return _datetime.fromisoformat(text)

        @classmethod
        def combine(cls, *args, **more):
            return _datetime.combine(*args, **more)

        @classmethod
        def fromtimestamp(cls, *args, **more):
            return _datetime.fromtimestamp(*args, **more)

    return Stepped
