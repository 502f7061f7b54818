"""What the service shows to Prometheus, on the simulated kernel; and what is shipped to look at it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from exposition import text_of
from gpuscan.cli.main import main
from gpuscan.cli.service import SHOWN
from gpuscan.engine.stages import MigrateStatus
from gpuscan.live.metrics import Exporter
from gpuscan.migrate.reasons import OTHER, label
from gpuscan.service.install import shipped
from gpuscan.service.load import config_of
from gpuscan.service.metrics import Shown, of_service
from gpuscan.service.session import ServiceSession
from livesim.machine import Machine
from livesim.run import run
from livesim.scenario import scenario
from livesim.service import Noted, Script, ScriptedInbox, script
from livesim.system import SimulatedSystem

RULES = [
    {"name": "db", "command": "data*", "policy": "both", "cold_after": "1s"},
    {"name": "held", "command": "cache", "policy": "promote", "rate": "40KiB/s"},
]
NAME = re.compile(r"\bgpuscan_[a-z_]+")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")


class Served:
    """A service on the simulated kernel; ``on_turn`` is called with the session at each turn."""

    def __init__(self, on_turn=lambda session: None, orders=(), end_ms=3_000, rules=RULES):
        self.machine = Machine(replace(script(4)[0], events=()))
        for command in ("database", "cache"):
            self.machine.world.spawn(200, command=command)
        system = SimulatedSystem(self.machine)
        config = config_of("x", {"service": {"monitor": "soft-dirty", "cpu": "50%"}, "rule": rules})

        def open_inbox(stop):
            return ScriptedInbox(self.machine, system, Script((), orders, end_ms), stop)

        with ServiceSession(config, lambda: config, open_inbox, system, open_recorder=Noted) as session:
            self.session = session
            session.run(lambda: None, lambda _: None, lambda: on_turn(session))
            self.text = text_of(of_service(session))
        self.samples = {
            (one.name, *sorted(one.labels.items())): one.value
            for family in text_string_to_metric_families(self.text)
            for one in family.samples
        }
        self.types = {family.name: family.type for family in text_string_to_metric_families(self.text)}

    def value(self, name, **labels):
        return self.samples[(f"gpuscan_{name}", *sorted(labels.items()))]

    def sum_of(self, name):
        return sum(value for (each, *_), value in self.samples.items() if each == f"gpuscan_{name}")


@pytest.fixture(scope="module")
def served():
    return Served(orders=((2_700, "drain", 1),))


@pytest.fixture(scope="module")
def helped():
    return Served(rules=[{"name": "all", "backend": "numa-balancing"}])


def test_a_helper_says_how_it_does(helped):
    assert helped.value("helper_in_trouble", helper="numa-balancing") == 0
    assert helped.value("helper_cpu_seconds_total", helper="numa-balancing") == 0


def test_figures_are_those_of_the_machine_and_of_the_status(served):
    totals, governor = served.session.totals, served.session.governor
    told = served.machine.world.confirmed_pages
    assert told > 0
    assert served.sum_of("moved_pages_total") == told
    assert served.sum_of("rule_moved_pages_total") == told
    assert served.value("demoted_pages_total") == totals.demoted_pages > 0
    assert served.value("rule_moved_pages_total", rule="held", direction="down") == 0
    assert served.value("planned_pages_total") == totals.planned_pages >= told
    assert served.sum_of("refusals_total") == sum(served.session.pipeline.engine.refusals.values()) > 0
    assert served.value("node_draining", node="1") == 1
    assert served.value("cpu_ceiling_ratio") == 0.5
    assert served.value("rule_processes", rule="db") == 1
    assert served.value("call_seconds_count") == governor.hold_ups.n_calls > 0


def test_histograms_count_what_happened(served):
    session = served.session
    assert served.value("seen_to_moved_seconds_count") == session.pipeline.engine.ledger.migrated > 0
    assert served.value("look_seconds_count") == session.totals.n_ticks > 0
    assert 0 < served.value("scan_seconds_count") <= session.totals.n_ticks
    assert served.value("batch_seconds_count") >= served.value("scan_seconds_count") / 4
    # A page is seen in two looks before it moves, 100 ms apart; within the run it cannot have waited longer.
    assert served.value("seen_to_moved_seconds_bucket", le="30.0") == session.pipeline.engine.ledger.migrated
    assert served.value("seen_to_moved_seconds_sum") > 0.05 * session.pipeline.engine.ledger.migrated


def test_types_are_right(served):
    counters = {name for name, kind in served.types.items() if kind == "counter"}
    histograms = {name for name, kind in served.types.items() if kind == "histogram"}
    assert histograms == {
        f"gpuscan_{what}_seconds" for what in ("look", "scan", "batch", "call", "seen_to_moved")
    }
    assert {"gpuscan_moved_pages", "gpuscan_refusals", "gpuscan_ticks", "gpuscan_planned_pages"} <= counters
    assert not {name for name in counters if name.endswith(("_ratio", "_ceiling_seconds"))}
    assert set(served.types.values()) == {"counter", "gauge", "histogram"}


def test_what_grows_never_falls_and_a_rest_is_shown():
    seen = []

    def look(session):
        seen.append(text_of(of_service(session)))

    Served(look, orders=((700, "pause", None), (1_900, "resume", None)))
    before: dict[tuple[object, ...], float] = {}
    for text in seen:
        for family in text_string_to_metric_families(text):
            if family.type == "gauge":
                continue
            for one in family.samples:
                key = (one.name, *sorted(one.labels.items()))
                assert one.value >= before.get(key, 0), key
                before[key] = one.value
    paused = [bool(re.search(r"^gpuscan_paused 1.0$", text, re.MULTILINE)) for text in seen]
    assert not paused[0]
    assert any(paused)
    assert not paused[-1]


@pytest.mark.parametrize("first", [0, 40, 80])
def test_all_reasons_are_known_ones(first, monkeypatch):
    """A reason is a label, so there must be an end of them; those that are made up as they go are one."""
    said: set[str] = set()
    from gpuscan.live import session as live_session

    class Heard(live_session.LiveSession):
        def run(self, *args):
            try:
                return super().run(*args)
            finally:
                said.update(self.engine.refusals)

    monkeypatch.setattr("livesim.run.LiveSession", Heard)
    for seed in range(first, first + 40):
        run(scenario(seed))
    assert said
    others = {reason for reason in said if label(reason) == OTHER}
    assert all("move_pages(2) failed with" in reason for reason in others), others


def test_what_is_no_reason_of_gpuscans_is_another():
    assert label("EAGAIN: target not balanced") == "EAGAIN: target not balanced"
    assert label("EAGAIN: /home/somebody") == OTHER
    assert label("EVIL: target not balanced") == OTHER
    assert label(f"EXDEV: {MigrateStatus.EIO}") == OTHER


def rules():
    return [rule for group in yaml.safe_load(shipped("alerts.yml"))["groups"] for rule in group["rules"]]


def dashboard():
    return json.loads(shipped("dashboard.json"))


def queries(document):
    if isinstance(document, dict):
        for key, value in document.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            else:
                yield from queries(value)
    elif isinstance(document, list):
        for each in document:
            yield from queries(each)


@pytest.mark.parametrize("what", ["alerts", "dashboard"])
def test_they_ask_for_metrics_that_there_are(served, helped, what):
    shown = {name for each in (served, helped) for name, *_ in each.samples} | {"gpuscan_"}
    asked = {
        name for text in queries(rules() if what == "alerts" else dashboard()) for name in NAME.findall(text)
    }
    assert len(asked) >= 9
    assert asked <= shown


def test_reasons_and_words_that_alerts_name_are_said():
    named = [rule["expr"] for rule in rules() if "reason=~" in rule["expr"]]
    assert named
    for text in named:
        found = re.search(r'reason=~"\.\*: \((.*?)\)"', text)
        assert found
        for words in found[1].split("|"):
            assert label(f"EAGAIN: {words}") != OTHER


def test_each_alert_says_what_to_look_at():
    for rule in rules():
        assert rule["alert"].startswith("Gpuscan")
        assert rule["labels"]["severity"] in ("info", "warning")
        assert rule["annotations"]["summary"]


def test_panels_of_the_dashboard_do_not_lie_on_each_other():
    places: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not places & mine
        assert at["x"] + at["w"] <= 24
        places |= mine


@pytest.mark.parametrize("name", SHOWN)
def test_shipped_files_are_printed_as_they_are(name, capsys):
    assert main(["service", "--show", name]) == 0
    assert capsys.readouterr().out == shipped(name)


def test_a_file_that_is_not_shipped_is_named(capsys):
    assert main(["service", "--show", "gpuscan.pem"]) == 2
    assert "choose one of alerts.yml" in capsys.readouterr().err


DATA = Path(__file__).parents[1] / "data"


@needs_promtool
@pytest.mark.slow
def test_promtool_takes_the_alerts_and_they_fire_when_they_should(tmp_path):
    (tmp_path / "alerts.yml").write_text(shipped("alerts.yml"))
    (tmp_path / "test.yml").write_text((DATA / "service_alerts_test.yml").read_text())
    for command in (["check", "rules", "alerts.yml"], ["test", "rules", "test.yml"]):
        found = subprocess.run(
            ["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout + found.stderr


@needs_promtool
@pytest.mark.slow
def test_promtool_has_nothing_to_say_against_names_and_types(served):
    found = subprocess.run(
        ["promtool", "check", "metrics"], input=served.text, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_command_serves_them_until_it_ends(monkeypatch, tmp_path):
    port = free_port()
    texts: list[str] = []
    machine = Machine(replace(script(4)[0], events=()))
    machine.world.spawn(60, command="database")
    system = SimulatedSystem(machine)
    place = f"http://127.0.0.1:{port}/metrics"

    class Simulated(ServiceSession):
        def __init__(self, config, reload, *_, **__):
            def open_inbox(stop):
                return ScriptedInbox(machine, system, Script((), (), 2_000), stop)

            super().__init__(config, reload, open_inbox, system, open_recorder=Noted)

        def run(self, on_start, on_tick, on_turn=lambda: None):
            def turn():
                on_turn()
                if not texts:
                    with urllib.request.urlopen(place, timeout=10) as found:
                        texts.append(found.read().decode())

            return super().run(on_start, on_tick, turn)

    monkeypatch.setattr("gpuscan.service.session.ServiceSession", Simulated)
    config = tmp_path / "service.toml"
    config.write_text(
        f'[service]\nmonitor = "kpageflags"\nmetrics = "127.0.0.1:{port}"\n[[rule]]\nname = "all"\n'
    )
    assert main(["service", str(config), "--quiet"]) == 0
    assert 'gpuscan_service_info{monitor="kpageflags"' in texts[0]
    n = float(len(machine.world.processes))
    assert f'gpuscan_rule_processes{{rule="all"}} {n}' in texts[0]
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(place, timeout=10)


def answer(url):
    with urllib.request.urlopen(url, timeout=10) as found:
        return json.load(found)


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus here")
@pytest.mark.slow
def test_a_prometheus_scrapes_the_service_and_evaluates_all_it_is_asked(tmp_path):
    port, own = free_port(), free_port()
    (tmp_path / "alerts.yml").write_text(shipped("alerts.yml"))
    scrape = {"job_name": "gpuscan", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    (tmp_path / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {
                    "scrape_interval": "200ms",
                    "scrape_timeout": "150ms",
                    "evaluation_interval": "200ms",
                },
                "rule_files": ["alerts.yml"],
                "scrape_configs": [scrape],
            }
        )
    )
    command = ["prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    command += [f"--web.listen-address=127.0.0.1:{own}"]
    api = f"http://127.0.0.1:{own}/api/v1"

    def value(query):
        found = answer(f"{api}/query?query={urllib.parse.quote(query)}")["data"]["result"]
        return [float(one["value"][1]) for one in found]

    with (
        closing(Exporter("127.0.0.1", port)) as exporter,
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log) as prometheus,
    ):
        try:
            done = Served(lambda session: Shown(session, exporter)())
            pages = float(done.machine.world.confirmed_pages)
            exporter.show(of_service(done.session))
            deadline = time.monotonic() + 120
            while True:
                try:
                    if value("sum(gpuscan_moved_pages_total)") == [pages]:
                        break
                except OSError:
                    pass
                waits = time.monotonic() < deadline and prometheus.poll() is None
                assert waits, (tmp_path / "log").read_text()
                time.sleep(0.3)
            assert value('up{job="gpuscan"}') == [1]
            assert value("histogram_quantile(0.9, gpuscan_seen_to_moved_seconds_bucket)")[0] > 0
            for panel in dashboard()["panels"]:
                for target in panel["targets"]:
                    asked = target["expr"].replace("$__rate_interval", "1m")
                    asked = re.sub(r"\$(job|instance)", ".*", asked)
                    assert answer(f"{api}/query?query={urllib.parse.quote(asked)}")["status"] == "success"
            groups = answer(f"{api}/rules")["data"]["groups"]
            health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
            assert set(health) == {rule["alert"] for rule in rules()}
            assert not [name for name, how in health.items() if how == "err"]
        finally:
            prometheus.terminate()
