"use strict";
// Draws the figures of the page by BokehJS, of the plain data that gpuscan/report/drawing.py made of them.
const gpuscanFigures = (() => {
  const given = JSON.parse(document.getElementById("gpuscan-figures").textContent);
  const P = Bokeh.Plotting, drawn = new Map();
  const numbers = (values) => values.map((value) => (value === null ? NaN : value));
  let time = null; // the range of a map, which other figures follow

  function colourOf(word) { // of a palette: a CSS colour, or 0xRRGGBBAA
    return typeof word === "string" ? word : "#" + (word >>> 8).toString(16).padStart(6, "0");
  }

  function fresh(options) {
    const made = P.figure({ sizing_mode: "stretch_width", ...options });
    made.toolbar.logo = null;
    return made;
  }

  function hover(plot, renderers, tooltips, more = {}) {
    plot.add_tools(new Bokeh.HoverTool({ renderers, tooltips, ...more }));
  }

  function plot(figure) {
    const options = { x_axis_type: figure.log_x ? "log" : "linear", y_axis_type: figure.log_y ? "log" : "linear" };
    if (figure.shares_time && time !== null) options.x_range = time;
    const made = fresh({
      ...options, height: figure.height, x_axis_label: figure.x_label, y_axis_label: figure.y_label,
      tools: "xpan,xwheel_zoom,box_zoom,reset,save",
    });
    const all = [], items = [];
    for (const line of figure.lines) {
      const data = { x: numbers(line.x), y: numbers(line.y) };
      const source = new Bokeh.ColumnDataSource({ data });
      const style = { line_color: line.colour, line_dash: line.dash, line_width: 2 };
      const renderers = [made.line({ field: "x" }, { field: "y" }, { source, name: line.name, ...style })];
      if (figure.has_points) {
        const point = { size: 7, line_color: line.colour, fill_color: line.colour };
        renderers.push(made.scatter({ field: "x" }, { field: "y" }, { source, name: line.name, ...point }));
      }
      items.push(new Bokeh.LegendItem({ label: { value: line.name }, renderers }));
      all.push(...renderers);
    }
    hover(made, all, [["", "$name"], [figure.x_label, "$x{0,0.000}"], [figure.y_label, "$y{0,0.00}"]]);
    if (items.length) made.add_layout(new Bokeh.Legend({ items, click_policy: "hide" }), "right");
    return made;
  }

  // The same lines in small, each once before the others, which are grey.
  function multiples(figure) {
    const sources = figure.lines.map((line) => new Bokeh.ColumnDataSource({ data: { x: numbers(line.x), y: numbers(line.y) } }));
    const rows = [];
    let ranges = {};
    figure.lines.forEach((line, at) => {
      const made = fresh({
        ...ranges, height: figure.height, x_axis_type: figure.log_x ? "log" : "linear", tools: "", toolbar_location: null,
        title: line.name, x_axis_label: figure.x_label.replace(/^.*\(/, "("), y_axis_label: figure.y_label.replace(/^.*\(/, "("),
      });
      if (at === 0) ranges = { x_range: made.x_range, y_range: made.y_range };
      sources.forEach((source, other) => {
        if (other !== at) made.line({ field: "x" }, { field: "y" }, { source, line_color: "#bbbbbb", line_width: 1 });
      });
      made.line({ field: "x" }, { field: "y" }, { source: sources[at], line_color: line.colour, line_dash: line.dash, line_width: 3 });
      if (at % 3 === 0) rows.push([]);
      rows[rows.length - 1].push(made);
    });
    const all = rows.map((children) => new Bokeh.Row({ children, sizing_mode: "stretch_width" }));
    return new Bokeh.Column({ children: all, sizing_mode: "stretch_width" });
  }

  function bars(figure) {
    const made = fresh({
      height: figure.height, y_range: new Bokeh.FactorRange({ factors: [...figure.names].reverse() }),
      x_axis_label: figure.label, tools: "save",
    });
    if (figure.band !== null) {
      const [left, right] = figure.band;
      made.add_layout(new Bokeh.BoxAnnotation({ left, right, fill_color: figure.band_colour, fill_alpha: 0.2 }));
    }
    const source = new Bokeh.ColumnDataSource({ data: { name: figure.names, length: figure.lengths } });
    const colour = { line_color: figure.colour, fill_color: figure.colour };
    const shown = made.hbar({
      y: { field: "name" }, left: 0, right: { field: "length" }, height: 0.6, source, ...colour,
    });
    hover(made, [shown], [["", "@name"], [figure.label, "@length{0,0.00}"]]);
    for (const grid of made.ygrids) grid.visible = false;
    return made;
  }

  function flow(figure) {
    const made = fresh({
      height: figure.height, tools: "save", toolbar_location: "above",
      x_range: new Bokeh.Range1d({ start: figure.x_range[0], end: figure.x_range[1] }),
      y_range: new Bokeh.Range1d({ start: figure.y_range[0], end: figure.y_range[1] }),
    });
    const source = new Bokeh.ColumnDataSource({ data: figure.bands });
    const shown = made.patches({ field: "xs" }, { field: "ys" }, {
      source, fill_color: { field: "colour" }, line_color: null, fill_alpha: 0.75,
    });
    hover(made, [shown], [["", "@name"], [figure.unit, "@count{0,0}"], ["of all", "@share{0.0%}"]]);
    for (const { x, y, text, align } of figure.texts)
      made.text([x], [y], [text], { text_align: align, text_baseline: "middle", text_font_size: "13px" });
    for (const part of [...made.axes, ...made.xgrids, ...made.ygrids]) part.visible = false;
    made.outline_line_color = null;
    return made;
  }

  function map(figure) {
    time = new Bokeh.Range1d({ start: 0, end: figure.end_s });
    const first = figure.spaces[0];
    const pages = new Bokeh.Range1d({ start: first.n_pages, end: 0 });
    const size = { height: figure.height, min_border_top: figure.above, min_border_bottom: figure.below, y_range: pages };
    const made = fresh({
      ...size, name: "gpuscan-map", x_range: time, x_axis_label: figure.x_label, y_axis_label: first.y_label,
      tools: "pan,wheel_zoom,box_zoom,reset,save", background_fill_color: "#f4f4f4",
    });
    made.toolbar.active_scroll = made.toolbar.tools.find((tool) => tool instanceof Bokeh.WheelZoomTool);
    const [height, width] = figure.pixels;
    const Array2 = Bokeh.LinAlg.np.arange(0, 1).constructor; // BokehJS names no class of its arrays
    const data = { image: [new Array2(height * width, [height, width])], x: [0], y: [0], dw: [figure.end_s], dh: [first.n_pages] };
    const colours = new Bokeh.LogColorMapper({
      palette: Bokeh.Palettes.Cividis256, low: 1, high: 2, low_color: "rgba(0,0,0,0)",
    });
    const fields = Object.fromEntries(Object.keys(data).map((field) => [field, { field }]));
    const shown = made.image({ ...fields, source: new Bokeh.ColumnDataSource({ data }), color_mapper: colours });
    hover(made, [shown], [["pages", "$y{custom}"], ["time (s)", "$x{0,0.000}"], ["how many", "@image{0,0}"]], {
      formatters: { $y: new Bokeh.CustomJSHover({ code: "return gpuscanMap.where(value)" }) },
    });
    made.yaxes[0].formatter = new Bokeh.CustomJSTickFormatter({
      code: "return gpuscanMap.textOf(tick)",
    });
    const spans = figure.spaces.map(({ lines }, at) => lines.map((location) => {
      const span = new Bokeh.Span({ location, dimension: "width", line_color: "#777777", line_width: 1, visible: at === 0 });
      made.add_layout(span);
      return span;
    }));
    const beside = edge(figure, size), narrow = matchMedia("(max-width: 40rem)"); // hover says what it says
    const fit = () => { beside.visible = !narrow.matches; };
    narrow.addEventListener("change", fit);
    fit();
    made.yaxes[0].ticker = new Bokeh.FixedTicker({ ticks: [] }); // map.js: round numbers of the window
    const ramp = document.querySelector(".scale .ramp");
    const stops = Array.from(colours.palette).filter((_, at) => at % 32 === 0 || at === 255).map((word) => colourOf(word));
    ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    drawn.set("map", made).set("edge", beside).set("spaces", figure.spaces).set("spans", spans);
    return new Bokeh.Row({ children: [made, beside], sizing_mode: "stretch_width" });
  }

  // Zones, nodes and holes along the pages of the map; map.js puts names where their bands are seen.
  function edge(figure, size) {
    const { width, end, colour } = figure.edge, { label, holes } = figure.spaces[0];
    const made = fresh({
      ...size, width, sizing_mode: "fixed", name: "gpuscan-edge", x_range: new Bokeh.Range1d({ start: 0, end }),
      x_axis_label: label, tools: "", toolbar_location: null,
    });
    const fields = (names) => Object.fromEntries(Object.entries(names).map(([name, field]) => [name, { field }]));
    const bands = new Bokeh.ColumnDataSource({ data: figure.spaces[0].bands, name: "gpuscan-bands" });
    const sides = fields({ left: "left", right: "right", top: "start", bottom: "end", fill_color: "shade" });
    const shown = [made.quad({ ...sides, line_color: "#777777", source: bands })];
    const words = { text_baseline: "middle", text_font_size: "12px", source: bands };
    made.text({ ...fields({ x: "x", y: "y", text: "text" }), ...words });
    const left = new Bokeh.ColumnDataSource({ data: holes, name: "gpuscan-holes" });
    const mark = { marker: "triangle", angle: Math.PI / 2, size: 9, line_color: colour, fill_color: colour };
    shown.push(made.scatter({ ...fields({ x: "x", y: "y" }), ...mark, source: left }));
    hover(made, shown, [["", "@name"], ["size", "@size"], ["from", "@pfns"]]);
    made.xaxes[0].ticker = new Bokeh.FixedTicker({ ticks: [] });
    for (const part of [...made.yaxes, ...made.xgrids, ...made.ygrids]) part.visible = false;
    drawn.set("bands", bands).set("holes", left);
    return made;
  }

  async function begin() {
    const kinds = { plot, multiples, bars, flow, map }, whole = new Bokeh.Document();
    for (const figure of given) whole.add_root(kinds[figure.kind](figure));
    const places = [...document.querySelectorAll("figure.plot")];
    await Bokeh.embed.add_document_standalone(whole, document.body, places);
    if (drawn.has("map")) await gpuscanMap.begin(drawn);
  }

  return { begin, drawn };
})();
gpuscanFigures.begin();
