"""A page in a real browser: nothing on its console, nothing requested, zoom and layers do what they say."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.base.units import format_bytes
from gpuscan.heatmap.addresses import AddressRecorder
from gpuscan.heatmap.map import read_map
from gpuscan.report.catalogue import page_of
from gpuscan.report.contract import About, Bars, Flow, Line, Multiples, Page, Plot, Table, Zoomed
from gpuscan.report.page import page_html
from optional import browser_or_skip, opened
from results import small_result

_PROBE = """<script>
const violations = [];
document.addEventListener("securitypolicyviolation", (event) => violations.push(event.blockedURI));
(async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  while (gpuscanMap.state() === null) await pause(20);
  const plot = gpuscanFigures.drawn.get("map"), seen = {};
  const step = async (name, what) => { what(); await pause(50); seen[name] = gpuscanMap.state(); };
  const click = (which) => document.querySelector(which).click();
  const named = () => edge.filter((name) => name);
  const holes = gpuscanFigures.drawn.get("holes");
  const edge = gpuscanFigures.drawn.get("bands").data.text;
  await step("first", () => {});
  seen.whereFirst = gpuscanMap.where(0.5);
  seen.whereEnd = gpuscanMap.where(N_PAGES - 1);
  await step("odd", () => plot.y_range.setv({ start: N_PAGES, end: 1 }));
  seen.whereOdd = gpuscanMap.where(BORDER - 0.5);
  await step("again", () => click("#gpuscan-whole"));
  seen.named = named();
  const axis = plot.yaxes[0];
  seen.ticks = axis.ticker.ticks.map((tick) => [tick, gpuscanMap.textOf(tick)]);
  const ramp = document.querySelector(".scale .ramp").style.background;
  seen.scale = [ramp, document.getElementById("gpuscan-most").textContent];
  seen.untitled = [...document.querySelectorAll("button")].filter((button) => !button.title).length;
  seen.edge = [innerWidth, gpuscanFigures.drawn.get("edge").visible];
  seen.holes = holes.data.name.map((name, at) => [name, holes.data.size[at], holes.data.pfns[at]]);
  await step("moves", () => click("[data-layer=moves]"));
  await step("zoomed", () => click("[data-move=in]"));
  await step("single", () => plot.y_range.setv({ start: PAGE + 50, end: PAGE - 50 }));
  seen.where = gpuscanMap.where(PAGE + 0.5);
  seen.namedNear = named();
  seen.says = document.getElementById("gpuscan-pixel").textContent;
  await step("whole", () => click("#gpuscan-whole"));
  seen.violations = violations;
  seen.plots = document.querySelectorAll(".plot > div").length;
  seen.title = document.title;
  const said = document.createElement("pre");
  said.id = "probe";
  said.textContent = JSON.stringify(seen);
  document.body.append(said);
})();
</script>"""

NAMED = [
    "node 0 (dram), 256 MiB",
    "node 1 (dram), 256 MiB",
    "node 2 (cxl), 256 MiB",
    "node 3 (cxl), 256 MiB",
]
"""At the edge of the map."""


@pytest.fixture(scope="module")
def browser() -> str:
    return browser_or_skip()


def probed(text: str) -> Any:
    found = re.search(r'<pre id="probe">(.*?)</pre>', text, re.DOTALL)
    assert found is not None, text[-2000:]
    return json.loads(unescape(found[1]))


@pytest.mark.slow
def test_a_page_draws_zooms_and_requests_nothing(browser: str, tmp_path: Path) -> None:
    """About 10 s."""
    result = small_result(tmp_path)
    heat = read_map(result / "map.parquet")
    moves = heat.layers["moves"]
    border = next(flat for flat, *_, nid, _ in heat.space.extents if nid == 1)
    page = int(moves.rows[len(moves.rows) // 2])
    text = (
        page_html(page_of(result), result)[0]
        .decode()
        .replace(
            "</body>",
            _PROBE.replace("N_PAGES", str(heat.space.n_pages))
            .replace("BORDER", str(border))
            .replace("PAGE", str(page))
            + "</body>",
        )
    )
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    after, console = opened(browser, (tmp_path / "page.html").as_uri(), tmp_path / "profile")
    assert [line for line in console if "[bokeh " not in line] == []  # its greeting
    seen = probed(after)
    assert seen["violations"] == []
    assert seen["plots"] == sum(not isinstance(figure, Table) for figure in page_of(result).figures)
    assert seen["first"]["layer"] == "accesses"
    assert seen["first"]["total"] == heat.layers["accesses"].counts.sum()
    assert seen["moves"]["total"] == seen["whole"]["total"] == moves.counts.sum()
    image = moves.image((0, heat.space.n_pages), (0, heat.space.n_steps), (512, 1024))
    assert seen["moves"]["pages_each"] == image.pages_each > 1
    assert seen["moves"]["most"] == image.pixels.max()
    assert seen["zoomed"]["pages_each"] * 2 <= seen["moves"]["pages_each"] + 2
    near = (moves.rows >= page - 50) & (moves.rows < page + 50) & (moves.columns >= 3) & (moves.columns < 9)
    assert seen["single"]["pages_each"] == 1
    assert seen["single"]["total"] == moves.counts[near].sum() > 0
    assert "a single page frame" in seen["says"]
    pfn = f"0x{heat.space.pfn_of(page):x}"
    assert seen["named"] == ["DMA32", "Normal", "Movable", "Movable", *NAMED]
    assert seen["namedNear"] == ["Movable", NAMED[2]]
    holes = [(hole.pfn, hole.pfn + hole.n_pages - 1, hole.n_pages) for hole in heat.space.holes()]
    assert seen["holes"] == [
        ["hole, left out", format_bytes(n * 4096), f"{first:#x} to {last:#x}"] for first, last, n in holes
    ]
    pfns = [int(text, 16) for _, text in seen["ticks"]]
    assert 3 <= len(pfns) <= 16
    assert all(pfn % 0x1000 == 0 for pfn in pfns)
    assert pfns == [heat.space.pfn_of(int(tick)) for tick, _ in seen["ticks"]]
    gradient, most = seen["scale"]
    assert gradient.count("rgb(") == 9
    assert most == f"{seen['again']['most']:,}"
    assert seen["untitled"] == 0
    width, edge_is_shown = seen["edge"]
    assert edge_is_shown == (width > 640)
    last = heat.space.pfn_of(heat.space.n_pages - 1)
    assert f"to {last:#x}" in seen["whereEnd"]  # and no page after the last
    assert "node 0" in seen["whereFirst"]
    low, high, of_nodes = (heat.space.pfn_of(border - 1), heat.space.pfn_of(border), "node 0 (dram), node 1")
    said_low, said_high = (int(word, 16) for word in re.findall("0x[0-9a-f]+", seen["whereOdd"]))
    assert said_low <= low < high <= said_high
    assert of_nodes in seen["whereOdd"]
    assert seen["where"] == f"{pfn} to {pfn}, node 2 (cxl), zone Movable"


_COUNT = """<script>
(async () => {
  const drawn = () => [...document.querySelectorAll(".plot > *")].filter((each) => each.clientHeight > 50);
  for (let at = 0; at < 200 && drawn().length < 6; at++) await new Promise((done) => setTimeout(done, 20));
  const said = document.createElement("pre");
  said.id = "probe";
  said.textContent = JSON.stringify(drawn().map((each) => each.clientHeight));
  document.body.append(said);
})();
</script>"""


@pytest.mark.slow
def test_every_kind_of_figure_is_drawn(browser: str, tmp_path: Path) -> None:
    """About 6 s."""
    about = About("a title", "A sentence.", "a command")
    lines = (Line("one", [0.1, 1.0, 10.0], [1.0, None, 3.0]), Line("</script>${x}", [0.1, 1.0], [0.5, 2.0]))
    figures = (
        Plot(about, "x (s)", "y (s)", lines, log_x=True, log_y=True, has_points=True),
        Plot(about, "x (s)", "y (s)", (), shares_time=True),
        Multiples(about, "x (s)", "y (s)", (*lines, *lines), log_x=True),
        Bars(about, "ours over theirs", (("a", 1.0), ("a", 2.0), ("b", 0.5)), (0.9, 1.1)),
        Bars(about, "of all (%)", (("a", 1.0),)),
        Table(about, ("what", "how"), (("a", "b"),)),
        Flow(about, "folios", "requested", (("moved", 3), ("dropped", 0), ("pending", 1))),
    )
    text = page_html(Page("a page", "of all kinds", (), figures), None)[0].decode()
    (tmp_path / "page.html").write_text(text.replace("</body>", _COUNT + "</body>"), encoding="utf-8")
    after, console = opened(browser, (tmp_path / "page.html").as_uri(), tmp_path / "profile")
    assert [line for line in console if "[bokeh " not in line] == []
    assert probed(after) == [280, 280, 340, 146, 102, 160]


_SWITCH = """<script>
(async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  while (gpuscanMap.state() === null) await pause(20);
  const plot = gpuscanFigures.drawn.get("map"), seen = [];
  for (const at of [1, 0, 1]) {
    document.querySelector(`[data-map="${at}"]`).click();
    await pause(50);
    const { map, total, pages_each } = gpuscanMap.state();
    const names = gpuscanFigures.drawn.get("bands").data.text.filter((name) => name);
    const off = [...document.querySelectorAll("[data-layer]:disabled")].map((one) => one.dataset.layer);
    const label = plot.yaxes[0].axis_label, first = gpuscanMap.where(0.5), end = plot.y_range.start;
    seen.push({ map, total, pages_each, names, off, label, first, end });
  }
  const said = document.createElement("pre");
  said.id = "probe";
  said.textContent = JSON.stringify(seen);
  document.body.append(said);
})();
</script>"""


_WIDTHS = """<script>
(async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  while (gpuscanMap.state() === null) await pause(20);
  await pause(200);
  const { width } = document.querySelector(".plot").getBoundingClientRect();
  const map = gpuscanFigures.drawn.get("map"), edge = gpuscanFigures.drawn.get("edge");
  const said = document.createElement("pre");
  said.id = "probe";
  said.textContent = JSON.stringify([innerWidth, width, map.inner_width, edge.visible]);
  document.body.append(said);
})();
</script>"""


@pytest.mark.slow
def test_in_a_narrow_window_the_map_has_the_room(browser: str, tmp_path: Path) -> None:
    """About 8 s."""
    heat = read_map(small_result(tmp_path) / "map.parquet")
    about = About("a title", "A sentence.", "a command")
    page = Page("a page", "of a map", (), (Zoomed(about, (heat,), "time (s)"),))
    text = page_html(page, None)[0].decode().replace("</body>", _WIDTHS + "</body>")
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    address = (tmp_path / "page.html").as_uri()
    after, _ = opened(browser, address, tmp_path / "profile", "--window-size=500,800")
    window, plot, map_width, edge_is_shown = probed(after)
    assert window <= 640
    assert map_width > 0.6 * plot
    assert not edge_is_shown  # in a wide one it is, see above


@pytest.mark.slow
def test_a_page_switches_to_addresses_of_processes_and_back(browser: str, tmp_path: Path) -> None:
    """About 6 s."""
    heat = read_map(small_result(tmp_path) / "map.parquet")
    recorder = AddressRecorder("host", heat.space.step_ns, 1 << 10, lambda flats: flats)
    start = 0x7F00_0000_0000
    recorder.mapped(0, "redis (11)", [(start, start + (1 << 20), "/lib/</script>.so")])
    recorder.accessed(0, 0, np.array([start, start + 4096, start + 4096]))
    by_address = recorder.map(heat.space.n_steps * heat.space.step_ns)
    assert by_address is not None
    about = About("a title", "A sentence.", "a command")
    figure = Zoomed(about, (heat, by_address), "time (s)")
    text = page_html(Page("a page", "of two maps", (), (figure,)), None)[0].decode()
    (tmp_path / "page.html").write_text(text.replace("</body>", _SWITCH + "</body>"), encoding="utf-8")
    after, console = opened(browser, (tmp_path / "page.html").as_uri(), tmp_path / "profile")
    assert [line for line in console if "[bokeh " not in line] == []
    first, back, again = probed(after)
    assert first == again
    assert (first["map"], first["total"], first["pages_each"], first["end"]) == (1, 96, 1, 256)
    assert first["names"] == ["script>.so", "redis (11), 1 MiB"]
    assert first["off"] == ["marks", "claims", "moves"]
    assert first["label"].startswith("address;")
    assert first["first"] == f"{start:#x} to {start + 4095:#x}, redis (11), /lib/</script>.so"
    assert (back["map"], back["end"], back["off"]) == (0, heat.space.n_pages, [])
    assert back["total"] == heat.layers["accesses"].counts.sum()
    assert back["names"] == ["DMA32", "Normal", "Movable", "Movable", *NAMED]
