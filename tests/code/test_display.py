"""What a command prints may be lost; its work and its exit status are not."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time

import pytest

from flows import display

# The real entry point with a command whose work is to print a lot and then to leave a mark.
SCRIPT = """
import logging, os, pathlib, sys, types
import click
from rich.console import Console
from flows import cli
from flows.console import ConsoleReporter, final_table

@click.command()
@click.argument("mark")
def work(mark):
    console = Console(highlight=False)
    with ConsoleReporter(console) as reporter:
        reporter.looked_up("detect", hits=1, misses=1)
        for number in range(3000):
            reporter.note(f"line {number}: \\u00e9\\u2713")
    logging.getLogger("faceid").warning("a warning \\u2713")
    click.echo("to standard error", err=True)
    console.print(final_table([{"identity": "ann", "outcome": "done", "seconds": 1.0}]))
    with open(mark, "w") as file:
        file.write(f"worked, as file {file.fileno() > 2}")
    raise click.exceptions.Exit(2)

sys.modules["worker"] = types.SimpleNamespace(work=work)
cli.COMMANDS[sys.argv[1]] = ("worker", "work", "")
cli.main()
"""
LOST = {
    "a reader that leaves": "{} | head -2",
    "a reader that leaves, of both": "{} 2>&1 | head -2",
    "a full device": "{} > /dev/full",
    "full devices": "{} > /dev/full 2> /dev/full",
    "closed": "{} >&-",
    "all closed": "{} <&- >&- 2>&-",
    "a terminal without the characters": "PYTHONIOENCODING=ascii LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {}",
}


def shell(line: str, command: str, mark, **environment) -> subprocess.CompletedProcess:
    script = f'"{sys.executable}" -c "$SCRIPT" {command} {mark}'
    return subprocess.run(
        ["bash", "-c", "set -o pipefail; " + line.format(script)],
        env=os.environ | {"SCRIPT": SCRIPT} | environment, capture_output=True, check=False, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("how", LOST)
def test_display_does_not_decide_over_work(how, tmp_path):
    ended = shell(LOST[how], "run", tmp_path / "mark")
    assert (tmp_path / "mark").read_text() == "worked, as file True"
    assert ended.returncode == 2, ended.stderr
    assert b"Traceback" not in ended.stderr
    if how == "a full device":
        assert ended.stderr.count(b"cannot be written (No space left on device)") == 1


@pytest.mark.parametrize(
    ("how", "status", "says"),
    [
        ("a reader that leaves", 0, b""),
        ("a full device", 2, b"error: standard output cannot be written: No space left on device\n"),
        ("closed", 2, b"error: standard output cannot be written: it is closed\n"),
    ],
)
def test_a_product_that_cannot_be_written_ends_its_command(how, status, says, tmp_path):
    ended = shell(LOST[how], "query", tmp_path / "mark")
    assert not (tmp_path / "mark").exists(), "it has nothing else to do"
    assert (ended.returncode, ended.stderr) == (status, says)


def test_a_product_of_a_few_bytes_is_missed_as_well():
    command = f'"{sys.executable}" -m flows --version > /dev/full'
    ended = subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=60)
    assert ended.returncode == 2 and b"No space left" in ended.stderr


@pytest.fixture
def full_pipe():
    """Both ends of a pipe that does not wait for its reader."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    yield reads, writes
    for descriptor in (reads, writes):
        os.close(descriptor)


def test_a_product_waits_for_a_slow_reader_of_a_pipe_that_does_not(full_pipe, monkeypatch):
    monkeypatch.setattr(display, "_FULL_SECONDS", 0.01)
    reads, writes = full_pipe
    whole, got = os.urandom(300_000), bytearray()

    def read_slowly():
        while len(got) < len(whole):
            time.sleep(0.05)
            got.extend(os.read(reads, 65_536))

    reader = threading.Thread(target=read_slowly, daemon=True)
    reader.start()
    with io.BufferedWriter(display._Stream(writes, product=True)) as screen:
        screen.write(whole)
    reader.join(10)
    assert bytes(got) == whole


def test_a_reader_that_takes_nothing_is_waited_for_once(full_pipe, monkeypatch):
    monkeypatch.setattr(display, "_FULL_SECONDS", 0.2)
    waited, select = [], display.select.select
    monkeypatch.setattr(display.select, "select", lambda *given: waited.append(given[3]) or select(*given))
    with io.BufferedWriter(display._Stream(full_pipe[1])) as screen:
        for _ in range(20):
            screen.write(bytes(65_536))
    assert waited == [0.2]


def test_an_interrupted_product_is_not_waited_for_again(full_pipe, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(display.select, "select", interrupted)
    stream = display._Stream(full_pipe[1], product=True)
    with pytest.raises(KeyboardInterrupt):
        while True:
            stream.write(bytes(65_536))
    assert stream.write(b"the rest") == len(b"the rest")
