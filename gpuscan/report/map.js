"use strict";
// Draws a window of a map from its cells, as gpuscan/heatmap/layer.py does: a pixel is a whole number of cells,
// so nothing is counted twice. Window and pixels change with the ranges of the plot; the cells never do.
const gpuscanMap = (() => {
  const PLANES = 4, TICKS = 8, FACTOR = 0.5, NAMED = 0.035;
  const maps = JSON.parse(document.getElementById("gpuscan-map").textContent).maps;
  let given = maps[0], nodeNames = new Map(given.nodes), layers = new Map(), which = 0;
  let plot = null, source = null, bands = null, colours = null, current = null, shown = null, due = false;

  async function decode({ n, planes, packed }) {
    const bits = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
    const stream = new Blob([bits]).stream().pipeThrough(new DecompressionStream("gzip"));
    const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
    const numbers = [new Uint32Array(n), new Uint32Array(n), new Uint32Array(n)];
    let from = 0;
    planes.forEach((alike, which) => {
      if (alike === 0) return;
      const words = numbers[Math.floor(which / PLANES)], factor = 2 ** (8 * (which % PLANES));
      for (let at = 0; at < n; at++) words[at] += (alike === null ? bytes[from + at] : alike) * factor;
      if (alike === null) from += n;
    });
    const [steps, columns, counts] = numbers;
    const rows = new Float64Array(n);
    for (let at = 0, row = 0; at < n; at++) rows[at] = row += steps[at];
    return { rows, columns, counts };
  }

  function firstFrom(rows, row) {
    let low = 0, high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle] < row) low = middle + 1; else high = middle;
    }
    return low;
  }

  function draw() {
    due = false;
    const layer = layers.get(current), image = source.data.image[0], [height, width] = image.shape;
    const pages = 2 ** layer.row_shift, seconds = 2 ** layer.column_shift * given.step_ns / 1e9;
    const nRows = Math.ceil(given.n_pages / pages), nColumns = Math.ceil(given.n_steps * given.step_ns / 1e9 / seconds);
    const bounded = (value, most) => Math.min(Math.max(value, 0), most);
    const row = bounded(Math.floor(Math.min(plot.y_range.start, plot.y_range.end) / pages), nRows - 1);
    const endRow = bounded(Math.ceil(Math.max(plot.y_range.start, plot.y_range.end) / pages), nRows);
    const column = bounded(Math.floor(plot.x_range.start / seconds + 1e-9), nColumns - 1);
    const endColumn = bounded(Math.ceil(plot.x_range.end / seconds - 1e-9), nColumns);
    const rowsEach = Math.max(1, Math.ceil((endRow - row) / height));
    const columnsEach = Math.max(1, Math.ceil((endColumn - column) / width));
    image.fill(0);
    let most = 1, total = 0;
    const end = firstFrom(layer.rows, endRow);
    for (let at = firstFrom(layer.rows, row); at < end; at++) {
      const x = Math.floor((layer.columns[at] - column) / columnsEach);
      if (layer.columns[at] < column || layer.columns[at] >= endColumn) continue;
      const pixel = Math.floor((layer.rows[at] - row) / rowsEach) * width + x;
      image[pixel] += layer.counts[at];
      total += layer.counts[at];
      if (image[pixel] > most) most = image[pixel];
    }
    shown = {
      layer: current, total, most, pages_each: rowsEach * pages, seconds_each: columnsEach * seconds,
      first_page: row * pages, first_s: column * seconds,
    };
    const data = source.data;
    data.x[0] = shown.first_s;
    data.y[0] = shown.first_page;
    data.dw[0] = width * shown.seconds_each;
    data.dh[0] = height * shown.pages_each;
    colours.high = Math.max(2, most);
    source.change.emit();
    nameBands();
    mark();
    tell(layer);
  }

  // Ticks at multiples of a power of two of what is written there: page frame numbers, or addresses.
  function mark() {
    const low = Math.max(0, Math.min(plot.y_range.start, plot.y_range.end));
    const high = Math.min(given.n_pages, Math.max(plot.y_range.start, plot.y_range.end));
    let step = 2 ** Math.ceil(Math.log2(Math.max(1, (high - low) / TICKS))), ticks = roundOf(low, high, step);
    while (ticks.length < 3 && step > 1) ticks = roundOf(low, high, step /= 2);
    plot.yaxes[0].ticker.ticks = ticks;
  }

  function roundOf(low, high, step) {
    const found = [], apart = (high - low) / (2 * TICKS);
    for (const [flat, pfn, count] of given.extents) {
      if (flat >= high) break;
      if (flat + count <= low) continue;
      const first = Math.ceil((pfn + Math.max(0, low - flat)) / step) * step;
      for (let at = first; at < pfn + count && flat + at - pfn < high; at += step) {
        const tick = flat + at - pfn;
        if (!found.length || tick - found[found.length - 1] >= apart) found.push(tick);
      }
    }
    return found;
  }

  function tell(layer) {
    document.getElementById("gpuscan-most").textContent = Math.max(2, shown.most).toLocaleString("en");

    const bytes = shown.pages_each * 4096;
    const unit = Math.min(Math.floor(Math.log2(bytes) / 10), 4);
    const size = `${+(bytes / 1024 ** unit).toPrecision(4)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
    const noun = given.kind === "addresses" ? "page" : "page frame";
    const one = shown.pages_each === 1 ? `a single ${noun}` : `${shown.pages_each.toLocaleString("en")} ${noun}s (${size})`;
    const sampled = layer.one_in > 1 ? ` One in ${layer.one_in} was looked at, and counts as that many.` : "";
    document.getElementById("gpuscan-pixel").textContent =
      `Shown: ${layer.what}. A pixel is ${one} for ${+shown.seconds_each.toPrecision(4)} s.${sampled}`;
  }

  function extentOf(page) {
    let found = given.extents[0];
    for (const extent of given.extents) if (extent[0] <= page) found = extent; else break;
    return found;
  }

  function pfnOf(page) {
    const [flat, pfn, count] = extentOf(page);
    return pfn + Math.min(Math.max(Math.floor(page) - flat, 0), count);
  }

  // A page frame by its number, a page of a process by its address.
  function named(pfn, after = 0) {
    return "0x" + (given.kind === "addresses" ? pfn * 4096 + after : pfn).toString(16);
  }

  function where(page) {
    if (shown === null) return "";
    const first = shown.first_page + Math.floor((page - shown.first_page) / shown.pages_each) * shown.pages_each;
    const end = first + shown.pages_each;
    const inside = given.extents.filter(([flat, , count]) => flat < end && flat + count > first);
    if (!inside.length) return "hole";
    const [flat, pfn, count] = inside[inside.length - 1];
    const low = pfnOf(Math.max(first, inside[0][0])), high = pfn + Math.min(end - flat, count) - 1;
    const present = inside.reduce((sum, [at, , n]) => sum + Math.min(end, at + n) - Math.max(first, at), 0);
    const holes = high - low + 1 > present ? " with holes" : "";
    const nodes = [...new Set(inside.map((extent) => nodeNames.get(extent[3])))];
    const zones = [...new Set(inside.map((extent) => extent[4]))];
    if (given.kind === "addresses") {
      if (nodes.length > 1) return `${nodes.join(", ")}`; // each has addresses of its own
      return `${named(low)} to ${named(high, 4095)}${holes}, ${nodes[0]}, ${zones.join(", ")}`;
    }
    const parts = `zone${zones.length > 1 ? "s" : ""} ${zones.join(", ")}`;
    return `${named(low)} to ${named(high)}${holes}, ${nodes.join(", ")}, ${parts}`;
  }

  // A band's name stands in the middle of what is seen of it, if there is room for it.
  function nameBands() {
    const data = bands.data, low = Math.min(plot.y_range.start, plot.y_range.end);
    const high = Math.max(plot.y_range.start, plot.y_range.end);
    for (let at = 0; at < data.start.length; at++) {
      const from = Math.max(data.start[at], low), to = Math.min(data.end[at], high);
      data.y[at] = (from + to) / 2;
      data.text[at] = to - from >= NAMED * (high - low) ? data.label[at] : "";
    }
    bands.change.emit();
  }

  function update() {
    if (!due && current !== null && plot !== null) {
      due = true;
      setTimeout(draw, 0); // once for all ranges that change together
    }
  }

  // Shows the map of other pages, all of it, at the same time; what was counted stays the same if both have it.
  function show(at, drawn) {
    which = at;
    given = maps[at];
    nodeNames = new Map(given.nodes);
    layers = new Map(given.layers.map((layer) => [layer.name, layer]));
    const space = drawn.get("spaces")[at];
    const pages = { start: space.n_pages, end: 0 };
    plot.y_range.setv({ ...pages, reset_start: pages.start, reset_end: pages.end });
    plot.yaxes[0].axis_label = space.y_label;
    drawn.get("edge").xaxes[0].axis_label = space.label;
    drawn.get("bands").data = space.bands;
    drawn.get("holes").data = space.holes;
    drawn.get("spans").forEach((spans, of) => spans.forEach((span) => { span.visible = of === at; }));
    for (const button of document.querySelectorAll("[data-map]"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.map) === at));
    for (const button of document.querySelectorAll("[data-layer]")) button.disabled = !layers.has(button.dataset.layer);
    choose(layers.has(current) ? current : given.layers[0].name);
  }

  function choose(name) {
    current = name;
    for (const button of document.querySelectorAll("[data-layer]"))
      button.setAttribute("aria-pressed", String(button.dataset.layer === name));
    update();
  }

  function move(x, y, zoom) {
    for (const [range, by] of [[plot.x_range, x], [plot.y_range, y]]) {
      const half = (range.end - range.start) / 2, centre = range.start + half + by * half;
      range.setv({ start: centre - half * zoom, end: centre + half * zoom });
    }
  }

  async function begin(drawn) {
    for (const map of maps) {
      const cells = await Promise.all(map.cells.map(decode));
      map.layers = map.layers.map((layer) => ({ ...layer, ...cells[layer.cells] }));
      map.cells = null;
    }
    plot = drawn.get("map");
    const shows = plot.renderers[0];
    source = shows.data_source;
    colours = shows.glyph.color_mapper;
    bands = drawn.get("bands");
    for (const range of [plot.x_range, plot.y_range])
      for (const end of ["start", "end"]) range.properties[end].change.connect(update);
    for (const button of document.querySelectorAll("[data-layer]"))
      button.addEventListener("click", () => choose(button.dataset.layer));
    for (const button of document.querySelectorAll("[data-map]"))
      button.addEventListener("click", () => show(Number(button.dataset.map), drawn));
    const moves = {
      in: [0, 0, FACTOR], out: [0, 0, 1 / FACTOR], left: [-FACTOR, 0, 1], right: [FACTOR, 0, 1],
      up: [0, -FACTOR, 1], down: [0, FACTOR, 1],
    };
    for (const button of document.querySelectorAll("[data-move]"))
      button.addEventListener("click", () => move(...moves[button.dataset.move]));
    document.getElementById("gpuscan-whole").addEventListener("click", () => {
      plot.x_range.reset();
      plot.y_range.reset();
    });
    show(0, drawn);
  }

  const textOf = (page) => named(pfnOf(page));
  return { begin, update, choose, move, where, textOf, state: () => (shown === null ? null : { ...shown, map: which }) };
})();
