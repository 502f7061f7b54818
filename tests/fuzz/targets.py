"""The readers: each makes a hostile file of a good one and reads it.

A target is made once in a worker, below an empty directory, and then tried with one seed after another. What
may come of an attempt is a value or a GpuscanError of one line; the worker judges.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import random
import shutil
import stat
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fuzz import mutate
from fuzz.machines import MACHINE_TARGETS
from gpuscan.base.errors import GpuscanError
from gpuscan.checkpoint import arrays
from gpuscan.checkpoint.directory import STATE_FILE, CheckpointDirectory
from gpuscan.checkpoint.state import canonical
from gpuscan.checkpoint.store_state import KIND, load_store, save_store
from gpuscan.engine.tick import Engine
from gpuscan.files.chunks import METADATA
from gpuscan.heatmap.layer import Layer
from gpuscan.heatmap.map import HeatMap, create_map, read_map
from gpuscan.heatmap.nodes import create_nodes, empty_nodes, read_nodes
from gpuscan.heatmap.request import window_of
from gpuscan.heatmap.space import Space
from gpuscan.heatmap.text import labels, levels, scale, time_axis, title
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.report.run_parts import plot_of_nodes
from gpuscan.run.checkpoints import RunCheckpoints
from gpuscan.run.resume import ResumedRun
from gpuscan.shards.log import RequestLog
from gpuscan.snapshot.cgroups import PageCgroups, shares
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.snapshot.struct_pages import FLAG_NAMES, PageLayout, page_words
from gpuscan.store.plan_file import PlanRows, PlanWriter, parse_rows, read_plans
from gpuscan.store.single import Store
from gpuscan.topology import MemoryKind, Topology
from gpuscan.topology.resolve import resolve_topology
from gpuscan.topology.toml import from_toml, to_toml
from gpuscan.traces import open_trace
from gpuscan.traces.catalogue import TRACES
from gpuscan.traces.page_table_file import write_page_table
from gpuscan.traces.source import survey
from gpuscan.workload.files import load_workload
from machines import node, tiered
from plans import make_plan
from runs import Case
from trace_texts import CASES, lz4, zstd

_DISTANCE = np.array([[10, 20], [20, 10]], dtype=np.uint8)
_SPARSE_BYTES = 10 << 30


class Tree:
    """A directory of good files, of which some are replaced for one attempt.

    Args:
        path: of the directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = {
            str(file.relative_to(path)): file.read_bytes()
            for file in sorted(path.rglob("*"))
            if file.is_file()
        }

    @contextmanager
    def put(self, contents: dict[str, bytes]) -> Iterator[None]:
        """Let files have other contents inside the block."""
        for name, content in contents.items():
            (self.path / name).write_bytes(content)
        try:
            yield
        finally:
            for name in contents:
                self._restore(name)

    @contextmanager
    def spoil(self, rng: random.Random, name: str) -> Iterator[None]:
        """Let something else have the place of a file, or its directory be odd, inside the block."""
        place = self.path / name
        kind = rng.randrange(8)
        extra = place.parent / rng.choice((".zarray", ".zgroup", ".zattrs", "c", "0", "extra"))
        if kind == 7:
            made = not extra.exists()
            if made:
                extra.write_bytes(b"{}")
        else:
            place.unlink()
            self._odd(kind, place)
        try:
            yield
        finally:
            if kind == 7:
                if made:
                    extra.unlink()
            else:
                with suppress(OSError):
                    place.rmdir()
                place.unlink(missing_ok=True)
                self._restore(name)

    def _odd(self, kind: int, place: Path) -> None:
        if kind == 1:
            os.mkfifo(place)
        elif kind == 2:
            place.symlink_to("/dev/zero")
        elif kind == 3:
            place.mkdir()
        elif kind == 4:
            with place.open("wb") as file:
                file.truncate(_SPARSE_BYTES)
        elif kind == 5:
            os.mknod(place, stat.S_IFSOCK | 0o600)
        elif kind == 6:
            place.symlink_to("zarr.json")

    def _restore(self, name: str) -> None:
        place = self.path / name
        if name in self.files:
            place.write_bytes(self.files[name])
        else:
            place.unlink(missing_ok=True)


class SnapshotTarget:
    """Snapshots: metadata, chunks and file types; what is read is looked through as ``gpuscan scan`` does."""

    def __init__(self, directory: Path) -> None:
        nodes = (node(0, (0, SECTION_PAGES), cpus=(0,)), node(1, cpus=(1,)))
        machine = Topology("small", nodes, _DISTANCE)
        rng = np.random.default_rng(1)
        n_pages = machine.page_map.n_pages
        flags = rng.choice(
            np.array([0, 1 << 5, 1 << 5 | 1 << 12, 1 << 10, 1 << 15], dtype=np.uint64), n_pages
        )
        counts = rng.integers(0, 3, n_pages).astype(np.uint32)
        cgroups = PageCgroups(("none", "/", "/a"), rng.integers(0, 3, n_pages).astype(np.uint16))
        self.good = Snapshot(
            machine, flags, counts, "6.18", 250, True, "2026-01-01T00:00:00+00:00", ("a note",), cgroups
        )
        self.good.write(directory / "a.zarr")
        self.tree = Tree(directory / "a.zarr")
        self.chunks = [name for name in self.tree.files if "/c/" in name]
        self.metadata = [name for name in self.tree.files if name.endswith("zarr.json")]
        self.documents = {name: json.loads(self.tree.files[name]) for name in self.metadata}

    def attempt(self, rng: random.Random) -> None:
        kind = rng.randrange(100)
        if kind < 45:
            name = rng.choice(["zarr.json", "zarr.json", *self.metadata])
            changed = mutate.in_document(rng, self.documents[name])
            with self.tree.put({name: mutate.json_text(rng, changed)}):
                self.read(rng)
        elif kind < 75:
            name = rng.choice(self.chunks)
            with self.tree.put({name: mutate.in_bytes(rng, self.tree.files[name])}):
                self.read(rng)
        elif kind < 85:
            name = rng.choice(list(self.tree.files))
            with self.tree.put({name: mutate.in_bytes(rng, self.tree.files[name])}):
                self.read(rng)
        elif kind < 97:
            with self.tree.spoil(rng, rng.choice(list(self.tree.files))):
                self.read(rng)
        else:
            self.signed(rng)

    def signed(self, rng: random.Random) -> None:
        """Read flags that nobody's kernel has, under the right checksum."""
        from numcodecs.blosc import Blosc

        words = np.frombuffer(rng.randbytes(512), dtype=np.uint64)
        flags = np.tile(np.where(rng.random() < 0.5, words, words & np.uint64(0xFFFF)), SECTION_PAGES // 64)
        document = json.loads(self.tree.files["node0/kpageflags/zarr.json"])
        document["attributes"]["crc32"] = [zlib.crc32(flags.data)]
        chunk = Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE).encode(flags)
        with self.tree.put(
            {
                "node0/kpageflags/zarr.json": json.dumps(document).encode(),
                "node0/kpageflags/c/0": bytes(chunk),
            }
        ):
            self.read(rng)

    def read(self, rng: random.Random) -> None:
        snapshot = Snapshot.read(self.tree.path)
        if rng.random() < 0.1:
            frames = snapshot.frames()
            snapshot.zone_pages(frames)
            if snapshot.cgroups is not None:
                shares(snapshot.cgroups, frames)


class StructPagesTarget:
    """The kernel's records of pages in a dump of memory, under layouts of other kernels."""

    def __init__(self, directory: Path) -> None:
        with np.load(Path(__file__).parents[1] / "data/struct_pages.npz") as data:
            self.raw: bytes = data["raw"][:512].tobytes()

    def attempt(self, rng: random.Random) -> None:
        offsets = {
            name: rng.choice((0, 8, 24, 40, 48, 56))
            for name in ("flags", "compound_head", "mapping", "mapcount", "private", "memcg_data")
        }
        layout = PageLayout(
            size=64,
            **offsets,
            entire_mapcount=rng.choice((None, 84, 20, 1000)),
            bits={name: rng.randrange(64) for name in rng.sample(FLAG_NAMES, rng.randrange(len(FLAG_NAMES)))},
            types={"buddy": rng.choice((0xF0000000, 0xFFFFFF7F)), "slab": 0xF5000000},
        )
        raw = mutate.in_bytes(rng, self.raw)
        address = rng.choice((0xFFFFFB4D40000000 + 64 * 256, 0, 1 << 63, (1 << 64) - 64))
        found = page_words(raw, address, layout)
        assert len(found.flags) == len(found.mapcounts) == len(found.memcg) == len(raw) // 64


def _two_nodes() -> Topology:
    near = node(0, (0, SECTION_PAGES), cpus=(0,))
    far = node(1, (SECTION_PAGES, 2 * SECTION_PAGES), kind=MemoryKind.CXL, tier=1)
    return Topology("two", (near, far), _DISTANCE)


class CheckpointTarget:
    """Checkpoints of a run, and of a store alone."""

    def __init__(self, directory: Path) -> None:
        arrays.CHUNK_BYTES = 1 << 17
        self.kinds = [StoreCheckpoint(directory), RunCheckpoint(directory)]

    def attempt(self, rng: random.Random) -> None:
        rng.choice(self.kinds).attempt(rng)


class _Checkpoint(ABC):
    """One good generation, and what hostile ones are made of it; signed anew where that takes it.

    Args:
        path: of the directory of checkpoints.
        logs: files beside the generations.
    """

    def __init__(self, path: Path, logs: tuple[str, ...]) -> None:
        self.tree = Tree(path)
        self.generation = max(name.split("/")[0] for name in self.tree.files if "/" in name)
        self.place = f"{self.generation}/{STATE_FILE}"
        self.document = json.loads(self.tree.files[self.place])
        inside = [name for name in self.tree.files if name.startswith(f"{self.generation}/arrays/")]
        self.names = [self.place, *logs, *inside]

    @abstractmethod
    def resume(self, rng: random.Random) -> None:
        """Read it, and go on with what it has."""

    def attempt(self, rng: random.Random) -> None:
        kind = rng.randrange(100)
        if kind < 70:
            body = mutate.in_document(rng, self.document["body"])
            with self.tree.put({self.place: self.signed(rng, body)}):
                self.resume(rng)
        elif kind < 80:
            self.chunk(rng)
        elif kind < 92:
            name = rng.choice(self.names)
            with self.tree.put({name: mutate.in_bytes(rng, self.tree.files[name])}):
                self.resume(rng)
        else:
            with self.tree.spoil(rng, rng.choice(self.names)):
                self.resume(rng)

    def signed(self, rng: random.Random, body: Any) -> bytes:
        try:
            sha256 = hashlib.sha256(canonical(body).encode()).hexdigest()
        except (ValueError, AttributeError):
            sha256 = ""
        document = {**self.document, "body": body, "sha256": sha256}
        if rng.random() < 0.05:
            document = mutate.in_document(rng, document)
        return mutate.json_text(rng, document)

    def described(self, fact: dict[str, Any]) -> bytes:
        """Return what would describe an array if there were more in it than zeros."""
        place = self.tree.path.with_name(f"{self.tree.path.name}-described")
        shutil.rmtree(place, ignore_errors=True)
        writer = arrays.ArrayWriter(arrays.ArrayPlace.make(place, None, {}))
        writer.write("one", np.ones(fact["length"], dtype=fact["dtype"]))
        return (place / "one" / METADATA).read_bytes()

    def chunk(self, rng: random.Random) -> None:
        """Change elements of an array, all signatures right: what is behind them is reached."""
        from numcodecs.blosc import Blosc

        path, fact = rng.choice([(p, f) for p, f in self.document["body"]["arrays"].items() if f["length"]])
        dtype = np.dtype(fact["dtype"])
        elements = np.frombuffer(mutate.in_bytes(rng, bytes(64)) * 9, dtype=np.uint8)
        array = np.resize(elements, fact["length"] * dtype.itemsize).view(dtype)
        if rng.random() < 0.6:
            array = array % min(np.iinfo(dtype).max, rng.choice((2, 16, 1000, fact["length"])))
        array = array.astype(dtype)
        body = json.loads(json.dumps(self.document["body"]))
        changed: dict[str, bytes] = {}
        sha256 = []
        folder = f"{self.generation}/arrays/{path}"
        (self.tree.path / folder / "c").mkdir(parents=True, exist_ok=True)
        if f"{folder}/{METADATA}" not in self.tree.files:  # of zeros, which have no folder
            changed[f"{folder}/{METADATA}"] = self.described(fact)
        for number, start in enumerate(range(0, len(array), fact["chunk"])):
            chunk = np.zeros(fact["chunk"], dtype=dtype)
            part = array[start : start + fact["chunk"]]
            chunk[: len(part)] = part
            sha256.append(hashlib.sha256(part.tobytes()).hexdigest())
            encoded = bytes(Blosc(cname="zstd", clevel=1, shuffle=Blosc.SHUFFLE).encode(chunk))
            changed[f"{folder}/c/{number}"] = encoded
        body["arrays"][path]["sha256"] = sha256
        with self.tree.put({self.place: self.signed(rng, body), **changed}):
            self.resume(rng)


class StoreCheckpoint(_Checkpoint):
    """What :func:`gpuscan.checkpoint.store_state.save_store` writes; what is taken is scanned."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(_two_nodes(), device="cpu", large_folios=True, n_threads=1)
        self.store.load_pages(self.store.page_map.present_bits())
        self.store.request(np.arange(0, 2 * SECTION_PAGES, 37), 1)
        with CheckpointDirectory(directory / "store", KIND) as kept:
            save_store(kept, self.store, {"sequence": 7})
        super().__init__(directory / "store", ())

    def resume(self, rng: random.Random) -> None:
        load_store(self.tree.path, self.store)
        if rng.random() < 0.1:
            for _ in self.store.drain(capacity=100):
                pass


class RunCheckpoint(_Checkpoint):
    """What a run writes; what is taken goes into a run, which ticks."""

    def __init__(self, directory: Path) -> None:
        workload = directory / "small.toml"
        workload.write_text(_WORKLOAD.replace('"20%"', '"60%"'))
        case = Case(str(workload), topology=_two_nodes(), n_ticks=6)
        scenario = case.build()
        checkpoints = RunCheckpoints(directory / "state")
        checkpoints.begin(scenario, case.request("100"))
        for _ in range(3):
            checkpoints.on_tick(scenario.engine.tick())
        checkpoints._save()
        checkpoints.close()
        # Of a damaged one it is asked whether the other is whole, which is no shorter than this one.
        shutil.rmtree(directory / "state/checkpoint-00000001")
        super().__init__(directory / "state", ("ticks.log",))
        self.scenario = case.build()

    def attempt(self, rng: random.Random) -> None:
        if rng.random() < 0.05:
            self.log(rng)
        else:
            super().attempt(rng)

    def log(self, rng: random.Random) -> None:
        """Change the reports of ticks, under the right checksum."""
        reports = []
        log = self.tree.files["ticks.log"]
        while log:
            end = 8 + int.from_bytes(log[:8], "little")
            reports.append(json.loads(log[8:end]))
            log = log[end:]
        changed = mutate.in_document(rng, reports)
        parts = [mutate.json_text(rng, report) for report in (changed if isinstance(changed, list) else [])]
        log = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
        log = mutate.in_bytes(rng, log) if rng.random() < 0.2 else log
        body = json.loads(json.dumps(self.document["body"]))
        body["state"]["ticks"] = {"n_bytes": len(log), "crc32": zlib.crc32(log)}
        with self.tree.put({self.place: self.signed(rng, body), "ticks.log": log}):
            self.resume(rng)

    def resume(self, rng: random.Random) -> None:
        resumed = ResumedRun(self.tree.path)
        try:
            resumed._restore(self.scenario)
        finally:
            resumed.close()
        engine = self.scenario.engine
        assert isinstance(engine, Engine)
        if rng.random() < 0.2:
            engine.tick()


class ShardLogTarget:
    """Logs of shards, signed anew where that takes it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "shard-0.log"
        rng = np.random.default_rng(1)
        with RequestLog(self.path) as log:
            for seq in range(1, 6):
                log.append(seq, [rng.integers(0, 256, n, dtype=np.uint8) for n in (40, 0, 300)])
        self.good = self.path.read_bytes()

    def attempt(self, rng: random.Random) -> None:
        self.path.unlink(missing_ok=True)
        data = mutate.in_bytes(rng, self.good)
        if rng.random() < 0.1:
            data *= rng.choice((2, 50))
        self.path.write_bytes(data)
        with RequestLog(self.path, must_exist=True) as log:
            for _ in log.after(rng.choice((0, 0, 2, 1 << 63))):
                pass


class PlanTarget:
    """Plan files in Parquet, and plans as a checkpoint keeps them."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "plan.parquet"
        plan = make_plan([[0] * 40, [9] * 3], with_order=True)
        with PlanWriter(self.path, "rfc", 2) as writer:
            writer.append(0, plan, plan.batches(2))
            writer.append(1, plan, plan.batches(2))
        self.good = self.path.read_bytes()
        self.footer = int.from_bytes(self.good[-8:-4], "little")
        self.rows = PlanRows().rows(0, plan, plan.batches(2)).serialize().to_pybytes()
        self.table = pq.read_table(self.path)

    def attempt(self, rng: random.Random) -> None:
        kind = rng.randrange(10)
        if kind < 2:
            parse_rows(mutate.in_bytes(rng, self.rows))
            return
        if kind < 6:
            data = mutate.in_bytes(rng, self.good)
        elif kind < 9:
            split = len(self.good) - 8 - self.footer
            footer = mutate.in_bytes(rng, self.good[split:-8])
            data = self.good[:split] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        else:
            data = self.foreign(rng)
        self.path.write_bytes(data)
        read_plans(self.path)

    def foreign(self, rng: random.Random) -> bytes:
        """Return a sound Parquet file of other columns, or metadata."""
        table = self.table
        at = rng.randrange(table.num_columns)
        column = rng.choice([pa.array([None] * len(table)), table.column(at).cast(pa.string())])
        if rng.random() < 0.5:
            table = table.set_column(at, table.schema.names[at], column)
        metadata = {b"gpuscan.schema": rng.choice([b"", b"1", b"9" * 5000, b"\xff", b"-1"])}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(metadata), sink)
        return bytes(sink.getvalue())


class _TableTarget(ABC):
    """Parquet files that describe themselves in their metadata.

    Args:
        path: of a good one.
        key: of its metadata.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self.key = path, key
        self.good = path.read_bytes()
        self.footer = int.from_bytes(self.good[-8:-4], "little")
        self.table = pq.read_table(path)
        self.document = json.loads(self.table.schema.metadata[key])

    @abstractmethod
    def read(self) -> None:
        """Read the file, and use what was read."""

    def attempt(self, rng: random.Random) -> None:
        kind = rng.randrange(10)
        if kind < 2:
            data = mutate.in_bytes(rng, self.good)
        elif kind < 4:
            split = len(self.good) - 8 - self.footer
            footer = mutate.in_bytes(rng, self.good[split:-8])
            data = self.good[:split] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        else:
            data = self._changed(rng)
        self.path.write_bytes(data)
        self.read()

    def _changed(self, rng: random.Random) -> bytes:
        """Return a sound Parquet file with another document, or other cells."""
        table, document = self.table, self.document
        if rng.random() < 0.6:
            document = mutate.in_document(rng, document)
        else:
            at = rng.choice([at for at, of in enumerate(table.schema.types) if pa.types.is_integer(of)])
            values = table.column(at).to_numpy().astype(np.int64)
            values[rng.randrange(len(values))] = rng.choice([-1, 0, 1 << 20, 1 << 40, 1 << 62, -(1 << 63)])
            column = pa.array(values).cast(table.schema.types[at], safe=False)
            table = table.set_column(at, table.schema.names[at], column)
        text = json.dumps(document, default=str).encode("utf-8", "surrogatepass")
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({b"gpuscan.schema": b"1", self.key: text}), sink)
        return bytes(sink.getvalue())


class MapTarget(_TableTarget):
    """Maps of where and when; what is read is drawn as a terminal shows it, whole and in part."""

    def __init__(self, directory: Path) -> None:
        path = directory / "map.parquet"
        topology = resolve_topology("two-socket-cxl", 1 << 30)
        cells = np.arange(20, dtype=np.int64)
        layer = Layer.of(cells * 1000, cells, cells + 1, 2, 1)
        create_map(path, HeatMap(Space.of(topology, 10**8, 60), {"moves": layer, "marks": layer}))
        super().__init__(path, b"gpuscan.map")

    def read(self) -> None:
        heat = read_map(self.path)
        for name, layer in heat.layers.items():
            for window in (window_of(heat, None, None), window_of(heat, "0x1000-0x2000", "1s-2s")):
                image = window.image(layer, (20, 60))
                levels(image), labels(heat, image), scale(heat, image), time_axis(heat, image)
            title(heat, name, layer)


class NodesTarget(_TableTarget):
    """How full nodes were."""

    def __init__(self, directory: Path) -> None:
        path = directory / "nodes.parquet"
        nodes = empty_nodes(resolve_topology("two-socket-cxl", 1 << 30))
        for fill in nodes.values():
            fill.now_ns.extend(range(10))
            for counts in (fill.free_pages, fill.room_pages, fill.no_room):
                counts.extend(range(10))
        create_nodes(path, nodes)
        super().__init__(path, b"gpuscan.nodes")

    def read(self) -> None:
        plot_of_nodes(read_nodes(self.path), "time (s)")


class WorkloadTarget:
    """Workloads in TOML."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "w.toml"
        self.texts = [_WORKLOAD, _WORKLOAD.replace('"hint-faults"', '"sampler"')]

    def attempt(self, rng: random.Random) -> None:
        self.path.write_bytes(mutate.in_toml(rng, rng.choice(self.texts)))
        load_workload(str(self.path)).engine_policy()


_WORKLOAD = """name = "small"
shows = "this"
seed = 1
ticks = 10
tick = "100ms"

[topology]
machine = "two-socket-cxl"
memory = "4GiB"

[producer]
kind = "hint-faults"
hint_faults = { scan_period = "1s", scan_size = "3%" }

[policy]
rate_limit = "100MB/s"

[cost]
copy_failures = "10%"

[[processes]]
name = "p"
memory = "20%"
cpus_of = [0]
placement = "spill"
accesses_per_gib_s = 100000
pattern = { kind = "zipf", hot = "15%", hot_accesses = "90%", skew = 0.6 }
"""


class TopologyTarget:
    """Machines in TOML, with their index of pages."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "m.toml"
        small = tiered(n_sections=2)
        self.texts = [
            to_toml(replace(small, nodes=small.nodes[:2], distance=small.distance[:2, :2], links={}))
        ]
        self.texts.append(_TOPOLOGY)

    def attempt(self, rng: random.Random) -> None:
        self.path.write_bytes(mutate.in_toml(rng, rng.choice(self.texts)))
        machine = from_toml(self.path)
        with suppress(GpuscanError):
            _ = machine.page_map.n_pages


_TOPOLOGY = """schema = 1
name = "m"
distances = ["10 20", "20 10"]
[[nodes]]
nid = 0
cpus = "0-3"
memory = "8GiB"
[[nodes]]
nid = 1
kind = "cxl"
tier = 1
memory = "4GiB"
[[links]]
initiator = 0
memory = 1
latency = "250ns"
bandwidth = "50GB/s"
"""


class TraceTarget:
    """Traces of one format, plain and compressed; what is read is looked through as a run would.

    Args:
        directory: an empty one.
        kind: the name of the format, empty for all by turns.
    """

    def __init__(self, directory: Path, kind: str = "") -> None:
        from gpuscan.traces.built_in import damo, perf_data

        perf_data._perf = lambda: None  # no child for each input
        damo._SMALL_BYTES = 0  # the scanner of large files first; what is odd is read as a whole
        self.path = directory / "trace"
        self.machine = _two_nodes()
        texts = [(case.kind, case.text.encode()) for case in CASES.values()]
        texts += [
            ("damo" if place.suffix == ".json" else "perf", place.read_bytes())
            for place in sorted(_TRACES.iterdir())
        ]
        texts += [("comma-separated", text.encode()) for text in _TABLES]
        texts.append(("parquet", self._parquet()))
        self.good = [text for name, text in texts if kind in ("", name)]
        pages = directory / "pages.csv"
        pages.write_text("virtual_address,pfn,n_pages\n0x1ffefff000,700,9\n0x100000000,0,65536\n")
        lists = {"unit": "64KiB", "base": "0x8000000", "epoch": "1ms"}
        interleaved = {**lists, "ways": "3", "granularity": "4KiB", "way": "1"}
        by_table: dict[str, str] = {"pages": str(pages)}
        self.given = {"": [{}, {}, by_table, lists], "cxl-hmu": [lists, interleaved]}.get(
            kind, [{}, by_table]
        )

    def _parquet(self) -> bytes:
        sink = pa.BufferOutputStream()
        numbers = pa.array(range(100), pa.int64())
        table = pa.table({"time_ns": numbers, "pfn": numbers, "cpu": numbers.cast(pa.int32())})
        pq.write_table(table.replace_schema_metadata({"gpuscan.trace": _FACTS}), sink)
        return bytes(sink.getvalue())

    def attempt(self, rng: random.Random) -> None:
        data = rng.choice(self.good)
        if data[:1] == b"[" and rng.random() < 0.5:
            data = mutate.json_text(rng, mutate.in_document(rng, json.loads(data)))
        elif data[:4] == b"PAR1" and rng.random() < 0.5:
            split = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            footer = mutate.in_bytes(rng, data[split:-8])
            data = data[:split] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        elif rng.random() < 0.85:
            data = mutate.in_bytes(rng, data * rng.choice((1, 1, 1, 3)))
        else:
            pack = rng.choice((gzip.compress, zlib.compress, bz2.compress, _xz, zstd, lz4))
            data = pack(data)
            data = mutate.in_bytes(rng, data)
        self.path.write_bytes(data)
        survey(open_trace(self.path, rng.choice(self.given)), self.machine)


class PageTableTarget:
    """Page tables as CSV and Parquet, plain and compressed; a trace is read by what is taken."""

    def __init__(self, directory: Path) -> None:
        self.path, self.trace = directory / "pages", directory / "trace"
        self.trace.write_text(CASES["memtierd"].text)
        part = {"pid": [7, 4711], "virtual_page": [5, 0x7F0000001], "pfn": [50, 40], "n_pages": [2, 1]}
        columns = {name: np.array(values, dtype=np.int64) for name, values in part.items()}
        self.good = [b"virtual_address,address\n0x7f0000001000,4096\n0x9000,8192\n# end\n"]
        for name in ("a.csv", "a.parquet"):
            write_page_table(directory / name, [columns])
            self.good.append((directory / name).read_bytes())

    def attempt(self, rng: random.Random) -> None:
        data = rng.choice(self.good)
        if data[:4] == b"PAR1" and rng.random() < 0.5:
            split = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
            footer = mutate.in_bytes(rng, data[split:-8])
            data = data[:split] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        else:
            data = mutate.in_bytes(rng, data)
        if rng.random() < 0.1:
            data = mutate.in_bytes(rng, rng.choice((gzip.compress, zstd, lz4))(data))
        self.path.write_bytes(data)
        for samples in open_trace(self.trace, {"pages": str(self.path)}).blocks():
            assert int(samples.n_pages.sum()) <= 2


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def one_format(kind: str) -> Callable[[Path], TraceTarget]:
    """Return what makes a target of one format."""
    return lambda directory: TraceTarget(directory, kind)


_TRACES = Path(__file__).parents[1] / "data/traces"
_FACTS = '{"gpuscan_trace": 1, "n_unresolved": 0, "n_repeated": 0, "n_idle": 3, "highest_pfn": -1}'
_TABLES = [
    "time_ns,pfn,cpu,n_pages,weight\n5,7,0,1,3\n6,0x10,1,2,4\n# " + _FACTS + "\n",
    "time_s,virtual_address,share\n1.5,4096,0.5\n1.75,8192,nan\n",
]


TARGETS: dict[str, Any] = {
    "snapshot": SnapshotTarget,
    "struct-pages": StructPagesTarget,
    "checkpoint": CheckpointTarget,
    "shard-log": ShardLogTarget,
    "plan": PlanTarget,
    "map": MapTarget,
    "nodes": NodesTarget,
    "workload": WorkloadTarget,
    "topology": TopologyTarget,
    **MACHINE_TARGETS,
    "trace": TraceTarget,
    "page-table": PageTableTarget,
}
TRACE_TARGETS = {f"trace-{name}": one_format(name) for name in TRACES.names if name != "perf-data"}
"""One format each, to be run by hand."""
