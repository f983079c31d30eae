"""Runs a small night in a child process that dies, as by SIGKILL, at the n-th write to its folder store."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import traceback
from dataclasses import dataclass

from faceid_core.config import NightlyConfig

_WRITES = ("put_if_absent", "replace_if_match", "delete")
KILLED = 137
_IMPORTED_ONCE = ["tests.helpers.killed", "torch", "diffusers", "transformers", "faceid_core.night.drive"]
_CHILD_SECONDS = 300


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, and what it saw if it lived to tell."""

    exit_code: int
    report: dict | None


def night_in_a_child(config: NightlyConfig, *, die_at: int | None = None, after: bool = False) -> Ended:
    """Run a night to its end, or until its write number `die_at`, just before or just after it is carried out.

    The child is forked from a server that has imported the libraries, which costs seconds, and done nothing else:
    delta-rs's threads, which other tests of this process may have started, do not survive a fork.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED_ONCE)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, config, die_at, after))
    child.start()
    theirs.close()
    report = None
    if ours.poll(_CHILD_SECONDS):
        try:
            report = json.loads(ours.recv_bytes())
        except EOFError:  # it died without a word
            report = None
    child.join(_CHILD_SECONDS)
    if child.is_alive():
        child.kill()
        raise AssertionError(f"the child that was to die at write {die_at} hangs")
    return Ended(child.exitcode, report)


def _child(pipe, config: NightlyConfig, die_at: int | None, after: bool) -> None:
    try:
        writes = _count_writes(die_at, after)
        report = _night(config) | {"writes": writes()}
        pipe.send_bytes(json.dumps(report).encode())
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    pipe.close()
    os._exit(code)  # pytest's own exit handlers are the parent's business


def _count_writes(die_at: int | None, after: bool):
    from faceid_core.store.folder import FolderStore

    lock, count = threading.Lock(), [0]

    def counted(whole):
        def write(self, *args, **kwargs):
            with lock:
                count[0] += 1
                mine = count[0]
            if mine == die_at and not after:
                os._exit(KILLED)
            result = whole(self, *args, **kwargs)
            if mine == die_at:
                os._exit(KILLED)
            return result

        return write

    for name in _WRITES:
        setattr(FolderStore, name, counted(getattr(FolderStore, name)))
    return lambda: count[0]


def _night(config: NightlyConfig) -> dict:
    from faceid_core.night.drive import drive_inline
    from faceid_core.night.opening import open_night
    from faceid_core.night.reporter import LogReporter
    from faceid_core.store import StageCache
    from faceid_core.tables import Tables

    night = open_night(config, LogReporter())
    ended = drive_inline(night)
    tables = Tables(night.store)
    contents, blobs = {}, {}
    for subject in night.subjects.values():
        cache = StageCache(night.store, subject.scope)
        for result, manifest in subject.manifests.items():
            contents[f"{subject.name} {result}"] = manifest.content
            for name in manifest.outputs:
                blobs[f"{subject.name} {result} {name}"] = len(
                    cache.read(manifest, name)
                )  # hashed on reading
    summary = tables.query(
        f"select * exclude (run_id, run_date, seconds) from identity_summary where run_id = '{night.run_id}'"
    )
    return {
        "exit_status": ended.exit_status,
        "outcomes": {a.identity_id: str(a.outcome) for a in night.accounts.values()},
        "computed": dict(night.computed),
        "contents": contents,
        "blobs": blobs,
        "summary": json.loads(summary.to_pandas().to_json(orient="records")),
        "pictures": tables.query(
            "select count(*) n, count(distinct (generate_key, prompt_id, seed)) d from images"
        ).to_pylist()[0],
        "index": len(night.store.get(ended.published.index)),
    }
