"""Nothing in the tree opens a file for writing, renames or removes but the one writer: a closed list."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREES = ("gpuscan", "cli", "kernels", "benchmarks")

WRITER = {"gpuscan/files/owned.py", "gpuscan/files/writing.py"}
"""May do anything of this kind; ``tests/files/test_writing.py`` says what it does."""

ALLOWED = {
    ("gpuscan/service/control.py", "mkdir"): "the directory of the socket, which stays",
    ("gpuscan/service/control.py", "unlink"): "a socket that nobody listens at, and its own",
    ("gpuscan/service/control.py", "chmod"): "its own socket",
    ("gpuscan/service/control.py", "chown"): "its own socket",
    ("gpuscan/history/database.py", "mkdir"): "the directory of the history, which stays",
    ("gpuscan/history/database.py", "chmod"): "its own database",
    ("gpuscan/service/install.py", "mkdir"): "directories below /etc, which stay",
    # Files of the kernel: a value written is a command, there is nothing to rename.
    ("gpuscan/bench/host.py", "write_text"): "/proc/self/clear_refs",
    ("gpuscan/linux/system.py", "write_text"): "what live asks of sysfs and /proc",
    ("gpuscan/linux/system.py", "open"): "what live asks of tracefs and its state file",
    ("gpuscan/linux/system.py", "mkdir"): "what live asks: a trace instance, the directory of its state file",
    ("gpuscan/linux/system.py", "rmdir"): "what live asks: a trace instance, which its state file names",
    ("gpuscan/linux/kernel_settings.py", "write_text"): "sysctl and sysfs, what was there is noted before",
    ("gpuscan/linux/damon_state.py", "write_text"): "sysfs",
    ("gpuscan/linux/damon_state.py", "rmdir"): "a trace instance, which its state file names",
    ("gpuscan/linux/damon_trace.py", "write_text"): "tracefs",
    ("gpuscan/linux/damon_trace.py", "mkdir"): "a trace instance",
    ("gpuscan/linux/damon_trace.py", "rmdir"): "a trace instance of its own",
    ("gpuscan/linux/process.py", "write_text"): "/proc/PID",
    ("gpuscan/monitors/built_in/soft_dirty.py", "write_text"): "/proc/PID/clear_refs",
    ("cli/main.py", "open"): "/dev/null",
    # What stays and changes, opened by open_kept().
    ("gpuscan/checkpoint/directory.py", "open"): "the lock",
    ("gpuscan/checkpoint/log.py", "open"): "a log",
    ("gpuscan/files/parquet.py", "ParquetWriter"): "into a file of new_file()",
    # Directories, which lose nobody anything.
    ("gpuscan/checkpoint/arrays.py", "mkdir"): "in a generation that is being filled",
    ("gpuscan/checkpoint/arrays.py", "link"): "in a generation that is being filled",
    ("gpuscan/checkpoint/directory.py", "mkdir"): "the directory of checkpoints itself",
    ("gpuscan/checkpoint/directory.py", "rename"): "of generations, below the directory's handle, locked",
    ("gpuscan/shards/group.py", "mkdir"): "the directory of shards itself",
    ("gpuscan/shards/local.py", "mkdir"): "in a scratch directory",
    ("gpuscan/base/code_cache.py", "mkdir"): "/var/cache/gpuscan, the user's cache",
    ("gpuscan/shards/unix_comm.py", "open"): "O_PATH",
    ("gpuscan/shards/unix_comm.py", "unlink"): "a socket of its own in a scratch directory",
    ("gpuscan/files/scratch.py", "open"): "a new file in a directory of its own, which is removed at once",
    ("gpuscan/files/reading.py", "open"): "to read: its flags have no O_WRONLY, O_RDWR or O_CREAT",
    ("gpuscan/topology/file_tree.py", "open"): "to read",
    ("cli/compare.py", "mkdir"): "in a scratch directory",
    ("gpuscan/compare/equal_cost_runs.py", "unlink"): "a list of its own in a scratch directory",
    ("benchmarks/accept/record.py", "mkdir"): "where the record is kept",
    ("benchmarks/rfc_answers.py", "mkdir"): "docs/answers",
    # Nobody else sees these directories.
    ("benchmarks/answers/bench_machine.py", "TemporaryDirectory"): "private",
    ("benchmarks/instructions.py", "TemporaryDirectory"): "private",
    # To a file that the writer opened.
    ("gpuscan/bench/plots.py", "savefig"): "what opening() gave",
    ("gpuscan/compare/recording.py", "save"): "what create() gave",
    ("gpuscan/compare/start.py", "save"): "what create() gave",
    ("gpuscan/compare/request_list.py", "save"): "what new_file() gave",
    ("gpuscan/files/parquet.py", "write_table"): "memory",
    ("gpuscan/report/picture.py", "savefig"): "what new_file() gave",
    ("gpuscan/store/plan_file.py", "ParquetWriter"): "what create() gave",
    # Zarr makes files below a directory that the writer made.
    ("gpuscan/checkpoint/arrays.py", "create_array"): "in a generation that is being filled",
    ("gpuscan/checkpoint/arrays.py", "create_group"): "in a generation that is being filled",
    ("gpuscan/snapshot/snapshot.py", "create_array"): "in what new_directory() gave",
    ("gpuscan/snapshot/snapshot.py", "create_group"): "in what new_directory() gave",
}

CHANGES = {
    "write_text",
    "write_bytes",
    "mkdir",
    "makedirs",
    "rmdir",
    "removedirs",
    "unlink",
    "remove_file",
    "rename",
    "renames",
    "rmtree",
    "copyfile",
    "copy2",
    "copytree",
    "link",
    "symlink",
    "symlink_to",
    "hardlink_to",
    "mkfifo",
    "chmod",
    "chown",
    "truncate",
    "mkdtemp",
    "mkstemp",
    "TemporaryDirectory",
    "NamedTemporaryFile",
    "TemporaryFile",
    "savefig",
    "write_table",
    "write_parquet",
    "to_parquet",
    "to_csv",
    "sink_parquet",
    "ParquetWriter",
    "OSFile",
    "tofile",
    "savez",
    "save_array",
    "memmap",
    "create_array",
    "create_group",
}
OF_A_MODULE = {
    ("os", "remove"),
    ("os", "replace"),
    ("shutil", "copy"),
    ("shutil", "move"),
    ("np", "save"),
    ("zarr", "save"),
}
"""Names that mean something else as a method: ``list.remove``, ``str.replace``, ``dataclasses.replace``."""
READING_FLAGS = {"os", "O_RDONLY", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"}


def changes(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the calls of a module that may change something on the disk: name, line."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        owner = function.value if isinstance(function, ast.Attribute) else None
        owner_name = owner.id if isinstance(owner, ast.Name) else ""
        if name in CHANGES or (owner_name, name) in OF_A_MODULE or _is_of_a_path(node, owner_name):
            yield name, node.lineno
        elif name in ("open", "fdopen") and _opens_for_writing(node, owner_name):
            yield "open", node.lineno


def _is_of_a_path(call: ast.Call, owner: str) -> bool:
    """Whether it is ``path.touch()`` or ``path.replace(other)``; a text's replace() has two arguments."""
    if not isinstance(call.func, ast.Attribute) or call.keywords or owner == "dataclasses":
        return False
    return (call.func.attr, len(call.args)) in (("touch", 0), ("replace", 1))


def _opens_for_writing(call: ast.Call, owner: str) -> bool:
    if owner == "os" and isinstance(call.func, ast.Attribute) and call.func.attr == "open":
        names = {
            node.attr if isinstance(node, ast.Attribute) else node.id
            for node in ast.walk(call.args[1])
            if isinstance(node, ast.Attribute | ast.Name)
        }
        return not names <= READING_FLAGS
    is_function = isinstance(call.func, ast.Name) or owner in ("os", "io")
    position = 1 if is_function else 0
    modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    modes += call.args[position : position + 1]
    return any(
        isinstance(mode, ast.Constant) and isinstance(mode.value, str) and set(mode.value) & set("wax+")
        for mode in modes
    )


def found() -> dict[tuple[str, str], list[int]]:
    calls: dict[tuple[str, str], list[int]] = {}
    for top in TREES:
        for path in sorted((ROOT / top).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if name in WRITER or name.startswith(("gpuscan/cli/", "gpuscan/kernels/")):  # links
                continue
            for call, line in changes(ast.parse(path.read_text(encoding="utf-8"))):
                calls.setdefault((name, call), []).append(line)
    return calls


def test_nothing_else_opens_for_writing_renames_or_removes() -> None:
    calls = found()
    assert len(calls) > 10
    others = {call: lines for call, lines in calls.items() if call not in ALLOWED}
    assert not others, "use gpuscan.files.writing, or say in ALLOWED why not"
    assert not ALLOWED.keys() - calls.keys(), "nobody does that any more"


@pytest.mark.parametrize(
    "line",
    [
        "open(path, 'w')",
        "open(path, mode='ab')",
        "path.open('r+b')",
        "io.open(path, 'x')",
        "os.fdopen(handle, 'wb')",
        "os.open(path, os.O_RDWR | os.O_CREAT)",
        "os.open(path, flags | os.O_WRONLY)",
        "os.open(path, flags)",
        "path.write_text('x')",
        "beside.replace(path)",
        "os.replace(beside, path)",
        "os.remove(path)",
        "path.unlink()",
        "shutil.rmtree(path)",
        "shutil.copy(a, b)",
        "np.save(path, array)",
        "figure.savefig(path)",
        "pq.write_table(table, path)",
        "frame.write_parquet(path)",
        "tempfile.mkdtemp()",
        "path.touch()",
    ],
)
def test_what_is_looked_for_is_found(line: str) -> None:
    assert [name for name, _ in changes(ast.parse(line))]


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "path.open('rb')",
        "os.open(path, os.O_RDONLY | os.O_CLOEXEC)",
        "text.replace('a', 'b')",
        "dataclasses.replace(policy)",
        "items.remove(one)",
        "stream.open()",
    ],
)
def test_reading_and_other_things_are_not(line: str) -> None:
    assert not [name for name, _ in changes(ast.parse(line))]
