"""Workload files: whatever is in one, two outcomes only."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from gpuscan.workload.files import load_workload
from gpuscan.workload.model import MODELS, Workload
from workload_files import BUILTIN, MINIMAL


def loads(path: Path, overrides: list[str] | None = None) -> None:
    """Two outcomes are right: a workload, or an InputError of one line."""
    try:
        load_workload(str(path), overrides or []).engine_policy()
    except InputError as error:
        message = str(error)
    else:
        message = ""
    assert "\n" not in message


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "fuzz.toml"


@given(text=st.text(alphabet=st.sampled_from("abs.=[]{}\"\n#0123456789%_-,' :\\u"), max_size=80))
@settings(max_examples=150, deadline=None)
def test_fuzz_arbitrary_text(scratch: Path, text: str) -> None:
    scratch.write_text(text, encoding="utf-8")
    loads(scratch)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_fuzz_mutated_built_ins(scratch: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(BUILTIN))
    text = files("gpuscan.workload.built_in").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(st.text(max_size=6)) + text[end:]
    scratch.write_bytes(text.encode("utf-8", "surrogatepass"))
    loads(scratch)


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Return lists and tables of values."""
    keys = st.sampled_from(["0", "1", "kind", "memory", ""])
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=2))


toml_values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(
            ["1GiB", "50%", "1s", "0s", "5MB/s", "zipf", "spill", "rfc", "9" * 40 + "s", "1970-01-01"]
        ),
    ),
    nested,
    max_leaves=4,
)


def to_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08X}" for c in value if not 0xD800 <= ord(c) < 0xE000) + '"'
    if isinstance(value, list):
        return f"[{', '.join(map(to_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{to_toml(k)} = {to_toml(v)}' for k, v in value.items())}}}"
    return repr(value)


ALL_KEYS = [
    *Workload.model_fields,
    *(
        f"{table}.{key}"
        for table in ("topology", "source", "policy", "cost")
        for key in MODELS[table].model_fields
    ),
    *(f"processes.0.{key}" for key in MODELS["processes"].model_fields),
    *(f"processes.0.pattern.{key}" for key in MODELS["pattern"].model_fields),
]


@given(key=st.sampled_from(ALL_KEYS), value=toml_values)
@settings(max_examples=400, deadline=None)
def test_fuzz_any_value_for_any_key(scratch: Path, key: str, value: Any) -> None:
    scratch.write_text(MINIMAL, encoding="utf-8")
    text = to_toml(value)
    assert tomllib.loads(f"value = {text}")
    loads(scratch, [f"{key}={text}"])
