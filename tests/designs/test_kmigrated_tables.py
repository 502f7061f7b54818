"""What is printed of kmigrated in the guest: where pages went, what idling costs, the model's curve."""

from __future__ import annotations

import json
from pathlib import Path

from guest.peers_table import idle_table, interleaved_table, speed_table
from kmigrated.loop import curves_table, equal_machine, measured, simulated
from vm.machine import Machine


def interleaved(right: int, wrong: int, at_end: float, cpu_s: float | None) -> dict[str, object]:
    moved = {"arrived_right_pages": right, "arrived_wrong_pages": wrong}
    return {"method": "kmigrated-1", "right_at_end": at_end, "cpu_s": cpu_s, **moved}


def test_wrong_nodes_are_a_share_of_what_moved_over_the_rounds() -> None:
    runs = [interleaved(60, 40, 0.5, 1.0), interleaved(90, 10, 0.7, 3.0), interleaved(80, 20, 0.6, 2.0)]
    runs.append({"method": "kmigrated-1", "failed": "it did"})
    *_, row = interleaved_table(runs).splitlines()
    assert row == "| kmigrated-1 | 3 of 4 | 100 | 20.0% | 10.0%-40.0% | 60.0% | 2.00 s |"
    *_, row = interleaved_table(runs[3:]).splitlines()
    assert row == "| kmigrated-1 | 1 | failed: it did | - | - | - | - |"


def test_times_and_cpu_time_are_medians_and_a_method_without_threads_has_none() -> None:
    run = {"method": "a", "time_to_95_s": 1.5, "arrived_pages": 10, "arrived_cold_pages": 1, "cpu_s": None}
    *_, row = speed_table(
        [run, {**run, "time_to_95_s": 2.5, "cpu_s": 0.5, "arrived_elsewhere_pages": 7}]
    ).splitlines()
    assert row == "| a | 2 | 2.00 s | 1.50-2.50 s | 10.0% | 10.0% | 7 | 0.50 s |"


def test_idle_threads_take_a_share_of_a_cpu() -> None:
    runs = [{"method": "m", "for_s": 10, "thread_cpu_s": {"0": cpu_s, "1": 0.2}} for cpu_s in (0.3, 0.5, 0.4)]
    *_, row = idle_table(runs).splitlines()
    assert row == "| m | 3 | 4.0% | 2.0% |"


def test_the_models_curve_stands_beside_the_kernels_second_by_second(tmp_path: Path) -> None:
    run = {"method": "kmigrated-2", "pattern": "fixed", "until_enough": False}
    runs = [{**run, "hot_near_each_s": [0.0, 0.5, 1.0]}, {**run, "hot_near_each_s": [0.2, 0.7]}]
    runs += [{**run, "until_enough": True}, {**run, "pattern": "uniform"}, {**run, "failed": "it did"}]
    (tmp_path / "runs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in runs))
    real = measured([tmp_path / "runs.jsonl"], 2)
    assert real == [[0.0, 0.5, 1.0], [0.2, 0.7]]
    model = simulated(equal_machine(Machine()), 2, 3, seed=1)
    assert len(model) == 3
    assert model[-1] == 1.0
    _, _, first, second = curves_table({"kernel": real, "model": [[0.25, 1.0]]}).splitlines()
    assert first == "| 1 s | 10.0% (0%-20%) | 25.0% |"
    assert second == "| 2 s | 60.0% (50%-70%) | 100.0% |"
    *_, last = curves_table({"model": [[0.5, 1.0, 1.0, 1.0]]}).splitlines()
    assert last == "| 2 s | 100.0% |", "what does not change any more is left out"
