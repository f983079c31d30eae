"""The store: readable, writable, and its two conditional writes raced by threads on scratch names."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from faceid_core.config import NightlyConfig
from faceid_core.errors import Conflict
from faceid_core.run.store_access import is_shared
from faceid_core.store import ObjectStore, open_store
from faceid_core.store.layout import check_secret, exists, read_layout
from faceid_core.store.open import is_folder, is_s3
from faceid_core.store.s3_address import refuse_unfit_for_tables
from faceid_core.store.secret import VARIABLE, IdentitySecret, has_secret, secret_file

from .finding import Finding
from .folder import folder

PREFIX = "doctor"
RACERS = 8
ROUNDS = 10


def storage(config: NightlyConfig) -> Iterator[Finding]:
    """Everything that a run asks of its store."""
    store = open_store(config.store, config.s3.settings())
    refuse_unfit_for_tables(store)
    there = exists(store)
    yield Finding("store", "ok", f"{store.url}: {'there' if there else 'will be made by the first run'}")
    yield from _secret(config, store, there)
    if is_folder(store) and store.root.exists():
        yield from folder(store)
    yield from examine(store)
    yield examine_tables(store)


def _secret(config: NightlyConfig, store: ObjectStore, exists: bool) -> Iterator[Finding]:
    if exists:
        secret = IdentitySecret.load(config.store, make=False)
        check_secret(store, read_layout(store), secret)
        yield Finding("identity secret", "ok", f"the store's own, from {secret.source}")
        return
    shared = is_shared(config)
    if not has_secret():
        yield (
            Finding(
                "identity secret",
                "fail",
                "there is none, and a store that others share is never given one unasked: the first run refuses",
                f"make it once with faceid secret init, or set {VARIABLE}",
            )
            if shared
            else Finding("identity secret", "ok", f"the first run makes it, in {secret_file()}")
        )
        return
    secret = IdentitySecret.load(config.store, make=False)
    yield Finding(
        "identity secret",
        "ok",
        f"the store will belong to the one from {secret.source}, fingerprint {secret.fingerprint}",
        "keep a copy: without it the store cannot be used" if shared else "",
    )


def examine(store: ObjectStore) -> Iterator[Finding]:
    """Read, write, list, and both races, below a scratch prefix that is removed again."""
    scratch = f"{PREFIX}/{uuid.uuid4().hex}"
    try:
        yield _plain(store, f"{scratch}/plain")
        yield _race_create(store, f"{scratch}/create")
        yield _race_swap(store, f"{scratch}/swap")
    finally:
        for info in list(store.list(f"{scratch}/")):
            store.delete(info.name)
    left = [info.name for info in store.list(f"{scratch}/")]
    if left:
        yield Finding("store: delete", "fail", f"{len(left)} scratch objects stayed", "allow DeleteObject")


def examine_tables(store: ObjectStore) -> Finding:
    """Whether what the tables' library writes below a scratch prefix is what the store sees; it is removed again."""
    import pyarrow as pa
    from deltalake import DeltaTable, write_deltalake
    from deltalake.exceptions import DeltaError

    from faceid_core.tables.storage import in_one_line, storage_options, table_address

    scratch = f"{PREFIX}/{uuid.uuid4().hex}"
    mark, began = uuid.uuid4().hex, time.perf_counter()
    try:
        options = storage_options(store) if is_s3(store) else None
        address = table_address(store, scratch)
        write_deltalake(address, pa.table({"mark": [mark]}), storage_options=options)
        back = DeltaTable(address, storage_options=options).to_pyarrow_table()["mark"].to_pylist()
        seen = [info.name for info in store.list(f"{scratch}/_delta_log/")]
    except (DeltaError, OSError) as error:
        advice = "see the service's message"
        if is_s3(store):
            from faceid_core.store.s3_advice import advise_words

            advice = advise_words(in_one_line(error)).text
        return Finding("store: tables", "fail", in_one_line(error), advice)
    finally:
        for info in list(store.list(f"{scratch}/")):
            store.delete(info.name)
    if back != [mark] or not seen:
        return Finding(
            "store: tables",
            "fail",
            "what the tables' library wrote the store does not see",
            "look for proxies and for AWS_ variables that only one of the two reads; choose a plain prefix",
        )
    seconds = time.perf_counter() - began
    return Finding("store: tables", "ok", f"a table written, read and seen in {seconds * 1000:.0f} ms")


def _plain(store: ObjectStore, name: str) -> Finding:
    began = time.perf_counter()
    data = uuid.uuid4().bytes * 4096  # 64 KB
    store.put_if_absent(name, data)
    back, listed = store.get(name), [info.name for info in store.list(name)]
    seconds = time.perf_counter() - began
    if back != data or listed != [name]:
        return Finding(
            "store: read and write",
            "fail",
            "what was read or listed is not what was written",
            "see the store",
        )
    state = "ok" if seconds < 3 else "warn"
    advice = "" if state == "ok" else "a slow store makes a cached run slow; look at the network"
    return Finding(
        "store: read and write", state, f"write, read and list 64 KB in {seconds * 1000:.0f} ms", advice
    )


def _race_create(store: ObjectStore, name: str) -> Finding:
    """Create-if-absent: of several writers of one name exactly one wins, and what stands there is his."""
    for number in range(ROUNDS):
        target = f"{name}-{number}"
        wins = _together(lambda who, target=target: store.put_if_absent(target, b"%d" % who))
        winners = [who for who, won in enumerate(wins) if won]
        if len(winners) != 1 or store.get(target) != b"%d" % winners[0]:
            return _unsafe(
                "create if absent",
                f"{len(winners)} of {RACERS} writers of one name got the answer that they won",
            )
    return Finding("store: create if absent", "ok", f"{ROUNDS} races of {RACERS} writers, one winner each")


def _race_swap(store: ObjectStore, name: str) -> Finding:
    """Compare-and-swap: of several writers that read one version exactly one replaces it."""
    store.put_if_absent(name, b"start")
    for _ in range(ROUNDS):
        etag = store.get_with_etag(name)[1]
        mark = uuid.uuid4().hex.encode()

        def swap(who: int, etag: str = etag, mark: bytes = mark) -> bool:
            try:
                store.replace_if_match(name, mark + b"%d" % who, etag)
            except Conflict:
                return False
            return True

        winners = [who for who, won in enumerate(_together(swap)) if won]
        if len(winners) != 1 or store.get(name) != mark + b"%d" % winners[0]:
            return _unsafe("compare and swap", f"{len(winners)} of {RACERS} writers replaced one version")
    return Finding("store: compare and swap", "ok", f"{ROUNDS} races of {RACERS} writers, one winner each")


def _together(act: Callable[[int], bool]) -> list[bool]:
    """What each of several threads, started at the same moment, came to."""
    barrier = Barrier(RACERS)

    def one(who: int) -> bool:
        barrier.wait()
        return act(who)

    with ThreadPoolExecutor(RACERS) as threads:
        return list(threads.map(one, range(RACERS)))


def _unsafe(what: str, found: str) -> Finding:
    return Finding(
        f"store: {what}", "fail", found, "this store is not safe for a run: use AWS S3, or a local folder"
    )
