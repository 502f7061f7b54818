"""Which backend is taken, and what is said where one cannot be had."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gpuscan.base.errors import DeviceError, InputError
from gpuscan.kernels import cuda, registry
from gpuscan.kernels.catalogue import BACKENDS
from gpuscan.kernels.contract import Probe
from gpuscan.kernels.cuda.cupy_device import CupyDevice


def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, Probe(False, False, "no NVIDIA driver: /dev/nvidiactl is not there"))


def probed(monkeypatch: pytest.MonkeyPatch, probe: Probe) -> None:
    kind = replace(BACKENDS.get("cuda"), probe=lambda: probe)
    monkeypatch.setitem(BACKENDS._loaded, "cuda", kind)


def test_what_was_asked_for_is_opened() -> None:
    opened, why = registry.open_backend("cpu", 2)
    assert (opened.name, why) == ("cpu", "cpu: as asked")
    assert "2 threads" in opened.describe()
    assert registry.open_backend("reference")[0].name == "reference"


def test_what_cannot_be_opened() -> None:
    with pytest.raises(InputError, match="unknown device 'tpu'"):
        registry.open_backend("tpu")
    with pytest.raises(InputError, match="n_threads is 0; give 1 to"):
        registry.open_backend("cpu", 0)


def test_without_a_driver_auto_says_why_and_cuda_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    no_driver(monkeypatch)
    opened, why = registry.open_backend()
    assert opened.name == "cpu"
    assert why.startswith("cpu: no CUDA: no NVIDIA driver: /dev/nvidiactl is not there; use")
    assert registry.available_devices() == ("cpu", "reference")
    with pytest.raises(DeviceError, match=r"^no NVIDIA driver: .*; use --device cpu, or auto$") as error:
        registry.open_backend("cuda")
    assert error.value.exit_code == 3


def test_auto_prefers_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    probed(monkeypatch, Probe(True, True, "NVIDIA driver and CuPy present"))
    monkeypatch.setattr(cuda, "CudaBackend", lambda: SimpleNamespace(name="cuda"))
    opened, why = registry.open_backend()
    assert (opened.name, why) == ("cuda", "cuda: there is a GPU")
    assert registry.available_devices()[0] == "cuda"


def test_another_backend_of_auto_has_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    no_driver(monkeypatch)
    fast = replace(
        BACKENDS.get("cpu"),
        place_in_auto=5,
        because="it is there",
        can_fail=True,
        open=lambda n_threads: SimpleNamespace(name="fast"),
        probe=lambda: Probe(True, True, "a fast one"),
    )
    monkeypatch.setitem(BACKENDS._loaded, "fast", fast)
    monkeypatch.setitem(BACKENDS.__dict__, "_modules", {**BACKENDS._modules, "fast": "fast"})
    assert registry.available_devices() == ("fast", "cpu", "reference")
    assert registry.open_backend()[1] == "fast: it is there"
    assert (registry.can_fail("fast"), registry.takes_over()) == (True, "cpu")
    assert registry.was_passed_over("cpu")
    assert not registry.was_passed_over("fast")
    lost = replace(fast, probe=lambda: Probe(False, True, "its driver is too old"))
    monkeypatch.setitem(BACKENDS._loaded, "fast", lost)
    why = registry.open_backend()[1]
    assert why.startswith(
        "cpu: no FAST: its driver is too old; use --device cpu, or auto; no CUDA: no NVIDIA"
    )
    other = replace(fast, open=lambda n_threads: SimpleNamespace(name="slow"))
    monkeypatch.setitem(BACKENDS._loaded, "fast", other)
    with pytest.raises(DeviceError, match="the backend fast calls itself 'slow'; let it have one name"):
        registry.open_backend("fast")


class FakeCupy:
    """As much of CuPy as is asked before a GPU is opened; versions are CUDA's, 13000 for 13.0."""

    def __init__(
        self, driver: int, available: bool = True, capability: str = "90", has_nvrtc: bool = True
    ) -> None:
        def nvrtc_version() -> tuple[int, int]:
            if not has_nvrtc:  # cuda-pathfinder 1.9 under CuPy 14.2: no OSError, several lines
                raise RuntimeError('Failure finding "libnvrtc.so.13": No such file\n')
            return 13, 0

        self.is_available = lambda: available
        self.cuda = SimpleNamespace(
            runtime=SimpleNamespace(
                driverGetVersion=lambda: driver,
                runtimeGetVersion=lambda: 13000,
                getDeviceCount=lambda: 2,
                CUDARuntimeError=RuntimeError,
            ),
            nvrtc=SimpleNamespace(getVersion=nvrtc_version),
            Device=lambda number=None: SimpleNamespace(compute_capability=capability),
        )


@pytest.mark.parametrize(
    ("cupy", "message"),
    [
        (None, r"CuPy cannot be imported .*; .*pip install .*\[cuda13\]'"),
        (FakeCupy(0), "there is no NVIDIA driver; install one"),
        (FakeCupy(12080), r"supports CUDA 12\.8, this CuPy needs 13\.0; .*pip install .*\[cuda12\]'"),
        (FakeCupy(13010, has_nvrtc=False), r'no NVRTC.*\.13": No such file\); .*\[cuda13\]\''),
        (FakeCupy(13010, available=False), "finds no GPU; check nvidia-smi"),
        (FakeCupy(13010, capability="70"), r"compute capability 7\.0, the kernels need 7\.5"),
    ],
)
def test_what_a_gpu_lacks(cupy: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(DeviceError, match=message):
        CupyDevice()


@pytest.mark.parametrize("number", [-1, 2])
def test_a_gpu_that_is_not_there(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy(13010))
    with pytest.raises(DeviceError, match=f"there is no GPU {number}; give 0 to 1"):
        CupyDevice(number)
