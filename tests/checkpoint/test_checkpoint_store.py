"""Checkpoints of a store: what is saved comes back, whole or not at all, whatever breaks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import resource
import shutil

import numpy as np
import pytest

from crashes import in_child, kill_at
from gpuscan import Store
from gpuscan.base.errors import CheckpointError, InputError, RunFailedError
from gpuscan.checkpoint import arrays as arrays_module
from gpuscan.checkpoint import directory as directory_module
from gpuscan.checkpoint.directory import CheckpointDirectory, generations, load
from gpuscan.checkpoint.store_state import KIND, load_store, save_store
from machines import tiered
from stores import ARRAYS

FORMATS = ["rfc", "pghot", "pghot-compact"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(arrays_module, "CHUNK_BYTES", 1 << 16)


@pytest.fixture
def topology():
    return tiered(n_sections=2)


def filled(topology, format_name="rfc", device="cpu", large_folios=False):
    """Return a store with requests, stale bits, a cursor and tie positions in the middle."""
    store = Store(topology, format_name, device, large_folios=large_folios, n_threads=1)
    order = None
    if large_folios:
        order = np.zeros(store.n_pages, dtype=np.uint8)
        order[512:1024] = 9
    store.load_pages(topology.page_map.present_bits(), order)
    pfns = topology.page_map.pfn_of_flat(np.arange(0, store.n_pages, 37))
    store.record(pfns, 0, now_jiffies=5, window_jiffies=10, threshold=1, drop_top_tier=False)
    for plan in store.drain(capacity=512, budget_pages=600, now_jiffies=9):
        store.release(plan.flat[:3], plan.words[:3])
        break
    return store


def names(directory):
    return sorted(entry.name for entry in directory.iterdir())


def assert_same(store, other):
    for name in ARRAYS:
        assert np.array_equal(getattr(store.dump(), name), getattr(other.dump(), name)), name
    assert store.cursor == other.cursor
    assert np.array_equal(store._resume_flat, other._resume_flat)
    assert np.array_equal(store._order, other._order)


@pytest.mark.parametrize("large_folios", [False, True])
@pytest.mark.parametrize("format_name", FORMATS)
def test_a_store_comes_back_as_it_was(topology, tmp_path, format_name, large_folios):
    store = filled(topology, format_name, large_folios=large_folios)
    assert store.cursor
    assert store._resume_flat.any()
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        save_store(directory, store, {"sequence": 7, "held": np.arange(5), "deep": {"share": 0.1}})
    other = Store(topology, format_name, "reference", large_folios=large_folios)
    extra = load_store(tmp_path / "c", other)
    assert_same(store, other)
    assert extra["sequence"] == 7
    assert extra["held"].tolist() == [0, 1, 2, 3, 4]
    assert extra["deep"] == {"share": 0.1}
    for plan, again in zip(store.drain(capacity=512), other.drain(capacity=512), strict=True):
        assert np.array_equal(plan.pfn, again.pfn)
        assert np.array_equal(plan.words, again.words)


def test_only_what_changed_is_written_again(topology, tmp_path):
    store = filled(topology)
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        first = save_store(directory, store)
        assert save_store(directory, store).n_written == 0
        pfn = topology.page_map.pfn_of_flat(np.array([5 * (1 << 14) + 5]))  # in the sixth chunk of records
        store.record(pfn, 0, now_jiffies=6, window_jiffies=10, threshold=7, drop_top_tier=False)
        again = save_store(directory, store)
    assert 1 < again.n_chunks == first.n_chunks
    assert again.n_written == 1
    assert again.raw_bytes == 1 << 16
    old, new = (tmp_path / "c" / f"checkpoint-0000000{n}/arrays/store.parts.0.records/c" for n in (2, 3))
    shared = [name for name in names(new) if (old / name).samefile(new / name)]
    assert names(new) == names(old)
    assert sorted(set(names(new)) - set(shared)) == ["5"]


def test_at_most_two_generations_are_kept(topology, tmp_path):
    store = Store(topology, device="cpu")
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        for number in range(1, 5):
            save_store(directory, store, {"number": number})
            assert generations(tmp_path / "c") == list(range(max(1, number - 1), number + 1))
    assert load_store(tmp_path / "c", store) == {"number": 4}
    assert load_store(tmp_path / "c/checkpoint-00000003", store) == {"number": 3}
    assert names(tmp_path / "c") == ["checkpoint-00000003", "checkpoint-00000004", "lock"]


def test_without_hard_links_chunks_are_copied(topology, tmp_path, monkeypatch):
    def refused(old, new):
        raise PermissionError(1, "no links here")

    store = filled(topology)
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        save_store(directory, store)
        monkeypatch.setattr(os, "link", refused)
        assert save_store(directory, store).n_written == 0
    other = Store(topology, device="cpu")
    load_store(tmp_path / "c", other)
    assert_same(store, other)


def saved_twice(topology, path):
    """Write two generations that share chunks; return the stores they are of."""
    stores = [filled(topology), filled(topology)]
    stores[1].request(topology.page_map.pfn_of_flat(np.array([40])), 1)
    with CheckpointDirectory(path, KIND) as directory:
        for number, store in enumerate(stores):
            save_store(directory, store, {"number": number})
    return stores


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    replace(path, bytes(content))


def replace(path, content):
    path.unlink()  # or the generation that shares the file would be damaged too
    path.write_bytes(content)


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, remove])
@pytest.mark.parametrize("name", ["arrays/store.parts.0.records/c/0", "state.json"])
def test_damage_is_found_and_the_one_before_is_whole(topology, tmp_path, name, damage):
    stores = saved_twice(topology, tmp_path / "c")
    damage(tmp_path / "c/checkpoint-00000002" / name)
    store = Store(topology, device="cpu")
    with pytest.raises(CheckpointError, match=rf"00000002/{name}.*00000001 is whole: resume that$"):
        load_store(tmp_path / "c", store)
    load_store(tmp_path / "c/checkpoint-00000001", store)
    assert_same(stores[0], store)


def test_a_damaged_array_description_is_found(topology, tmp_path):
    saved_twice(topology, tmp_path / "c")
    place = tmp_path / "c/checkpoint-00000002/arrays/store.parts.0.records/zarr.json"
    document = json.loads(place.read_text())
    document["shape"] = [64]
    replace(place, json.dumps(document).encode())
    with pytest.raises(CheckpointError, match=r"has the shape \[64\], not \[262144\]"):
        load(tmp_path / "c", KIND)


def test_zeros_and_nothing_have_no_folder_whatever_was_there_before(tmp_path):
    values = [np.zeros(70_000, "<u4"), np.arange(70_000, dtype="<u4"), np.zeros(70_000, "<u4")]
    values.append(values[2].copy())
    values[3][-1] = 1  # a first chunk of zeros
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        for number, value in enumerate(values, 1):
            directory.save({"values": value, "nothing": np.zeros(0, "<i8")})
            arrays = tmp_path / f"c/checkpoint-0000000{number}/arrays"
            assert names(arrays) == (["values", "zarr.json"] if value.any() else ["zarr.json"])
            state, _ = load(tmp_path / "c", KIND)
            assert np.array_equal(state["values"], value)
            assert (state["nothing"].dtype, len(state["nothing"])) == (np.int64, 0)
            later, _ = load(tmp_path / "c", KIND, later="values")
            assert np.array_equal(later["values"][:][16_000:17_000], value[16_000:17_000])


@pytest.mark.parametrize("name", ["arrays/values", "arrays/values/zarr.json"])
def test_a_lost_folder_is_found_where_there_were_not_only_zeros(tmp_path, name):
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        directory.save({"values": np.arange(3)})
    lost = tmp_path / "c/checkpoint-00000001" / name
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    with pytest.raises(
        CheckpointError, match=f"{tmp_path / 'c/checkpoint-00000001/arrays/values'} cannot be read"
    ):
        load(tmp_path / "c", KIND)


def test_a_folder_for_zeros_that_an_earlier_gpuscan_wrote_is_as_good_as_none(tmp_path, monkeypatch):
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        with monkeypatch.context() as patch:
            patch.setattr(arrays_module, "_digest_of_zeros", lambda n_bytes: "")
            directory.save({"zeros": np.zeros(3, "<u4"), "ones": np.ones(3, "<u4")})
        assert "zeros" in names(tmp_path / "c/checkpoint-00000001/arrays")
        assert load(tmp_path / "c", KIND)[0]["zeros"].tolist() == [0, 0, 0]
        assert directory.save({"zeros": np.zeros(3, "<u4"), "ones": np.ones(3, "<u4")}).n_written == 0
        assert names(tmp_path / "c/checkpoint-00000002/arrays") == ["ones", "zarr.json"]


def test_a_chunk_both_share_is_lost_to_both(topology, tmp_path):
    saved_twice(topology, tmp_path / "c")
    place = tmp_path / "c/checkpoint-00000002/arrays/store.parts.0.records/c/7"
    with place.open("r+b") as file:  # in place: the file both are linked to
        file.write(b"damaged")
    with pytest.raises(CheckpointError, match="no other one here is whole: run again from the start"):
        load(tmp_path / "c", KIND)


def test_a_newer_schema_and_another_kind_are_refused(topology, tmp_path, monkeypatch):
    store = Store(topology, device="cpu")
    with monkeypatch.context() as patch, CheckpointDirectory(tmp_path / "new", KIND) as directory:
        patch.setattr(directory_module, "SCHEMA", 4)
        save_store(directory, store)
    with pytest.raises(CheckpointError, match=r"is of schema 4, and this gpuscan reads up to 3"):
        load_store(tmp_path / "new", store)
    with CheckpointDirectory(tmp_path / "run", "run") as directory:
        directory.save({"a": 1})
    with pytest.raises(CheckpointError, match="a checkpoint of a run, not of a store"):
        load_store(tmp_path / "run", store)


def test_a_store_of_something_else_is_refused(topology, tmp_path):
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        save_store(directory, filled(topology))
    for other in (
        Store(topology, "pghot", "cpu"),
        Store(tiered(n_sections=3), device="cpu"),
        Store(topology, device="cpu", large_folios=True),
    ):
        with pytest.raises(CheckpointError, match="does not fit this store"):
            load_store(tmp_path / "c", other)
        assert not other.dump().records.any()


def test_what_is_no_directory_of_checkpoints_is_refused(topology, tmp_path):
    with pytest.raises(CheckpointError, match="is not a directory of checkpoints"):
        load(tmp_path / "missing", KIND)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load(tmp_path / "empty", KIND)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    with pytest.raises(InputError, match="did not write"):
        CheckpointDirectory(tmp_path / "thesis", KIND)
    with pytest.raises(InputError, match="is not there; make it"):
        CheckpointDirectory(tmp_path / "no/where", KIND)
    with pytest.raises(InputError, match="is not a directory"):
        CheckpointDirectory(tmp_path / "thesis/chapter.tex", KIND)


def test_a_file_system_without_locks_is_called_that(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunFailedError, match=r"^cannot lock .*/c/lock: No locks available; give a place"):
        CheckpointDirectory(tmp_path / "c", KIND)


def test_one_writes_at_a_time(tmp_path):
    refused = pytest.raises(InputError, match="another process writes checkpoints to")
    with CheckpointDirectory(tmp_path / "c", KIND), refused:
        CheckpointDirectory(tmp_path / "c", KIND)
    CheckpointDirectory(tmp_path / "c", KIND).close()


def test_one_that_was_forgotten_locks_nobody_out(tmp_path):
    forgotten = CheckpointDirectory(tmp_path / "forgotten", KIND)
    with pytest.warns(ResourceWarning, match="unclosed file"):
        del forgotten
    CheckpointDirectory(tmp_path / "forgotten", KIND).close()


def test_generations_can_be_given_up(topology, tmp_path):
    saved_twice(topology, tmp_path / "c")
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        directory.go_back_to(tmp_path / "c/checkpoint-00000001")
        assert generations(tmp_path / "c") == [1]
        directory.go_back_to(None)
        assert generations(tmp_path / "c") == []


def test_a_full_disk_is_one_sentence_and_the_one_before_is_whole(topology, tmp_path):
    store = filled(topology)
    with CheckpointDirectory(tmp_path / "c", KIND) as directory:
        save_store(directory, store, {"number": 1})

    def fill_up():
        rng = np.random.default_rng(0)
        store.kernels.arrays.eligible_bits[:] = rng.integers(0, 1 << 63, store.n_pages // 64, np.uint64)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        refused = pytest.raises(RunFailedError, match=r"File too large; the one before is whole \(.*0001\)")
        with CheckpointDirectory(tmp_path / "c", KIND) as directory, refused:
            save_store(directory, store, {"number": 2})

    assert in_child(fill_up) == 0
    assert names(tmp_path / "c") == ["checkpoint-00000001", "lock"]
    other = Store(topology, device="cpu")
    assert load_store(tmp_path / "c", other) == {"number": 1}
    assert_same(store, other)


@pytest.mark.parametrize("stride", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_operation_one_of_the_two_states_is_there(topology, tmp_path, stride):
    stores = saved_twice(topology, tmp_path / "before")
    found = set()
    for step in range(1, 10_000, stride):
        path = tmp_path / "c"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tmp_path / "before", path)

        def save_and_die(step=step, path=path):
            stores[0].request(topology.page_map.pfn_of_flat(np.array([99])), 2)
            kill_at(step, path)
            with CheckpointDirectory(path, KIND) as directory:
                save_store(directory, stores[0], {"number": 2})

        status = in_child(save_and_die)
        assert status in (0, -9)
        other = Store(topology, device="cpu", n_threads=1)
        number = load_store(path, other)["number"]
        found.add(number)
        with CheckpointDirectory(path, KIND) as directory:  # and the next writer is not disturbed
            save_store(directory, other, {"number": 3})
        assert len(generations(path)) == 2
        assert len(names(path)) == 3
        if status == 0:
            break
    assert found == {1, 2}
