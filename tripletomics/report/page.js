"use strict";

// The page's own script: colours, legend, selection and hover of the maps, sorting of tables, confusion matrices.
(async () => {
  const $ = (id) => document.getElementById(id);
  const page = JSON.parse($("page").textContent);
  const label = page.columns[0];
  const NONE = 65535; // unlabelled
  const NO_NUMBER = 255;

  function make(tag, set = {}, ...children) { // an element; text is always text
    const { style, ...rest } = set;
    const element = Object.assign(document.createElement(tag), rest);
    Object.assign(element.style, style);
    element.append(...children);
    return element;
  }

  const blocks = $("blocks").firstChild;
  async function unpack({ at, length }) {
    const bytes = Uint8Array.from(atob(blocks.substringData(at, length)), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).arrayBuffer();
  }
  async function valuesOf(column) {
    const bytes = await unpack(column);
    return column.kind === "type" ? new Uint16Array(bytes) : new Uint8Array(bytes);
  }

  // WebGL that the CPU emulates is slower than a plain canvas
  const gpu = document.createElement("canvas").getContext("webgl", { failIfMajorPerformanceCaveat: true });
  const drawn = $("document").textContent.replaceAll('"output_backend":"webgl"', `"output_backend":"${gpu ? "webgl" : "canvas"}"`);
  const [types, names] = await Promise.all([
    valuesOf(label),
    unpack(page.cell_names).then((bytes) => JSON.parse(new TextDecoder().decode(bytes))),
    Bokeh.embed.embed_items(JSON.parse(drawn), page.items),
  ]);
  const bokeh = Bokeh.documents[Bokeh.documents.length - 1];
  const source = bokeh.get_model_by_name("cells");
  const visible = bokeh.get_model_by_name("visible");
  const plots = page.items[0].root_ids.map((id) => bokeh.get_model_by_id(id));
  const boxes = [...document.querySelectorAll(".plot")];
  const cells = types.length;
  const isHeld = (i) => source.data.held[i] > 0;

  // ---- colours
  const number = (hex) => parseInt(hex.slice(1), 16);
  const GREY = ((number(page.grey) << 8) | 255) >>> 0;
  const pale = (hex) => {
    const mixed = [16, 8, 0].map((shift) => Math.round(0.45 * ((number(hex) >> shift) & 255) + 0.55 * 255));
    return ((mixed[0] << 24) | (mixed[1] << 16) | (mixed[2] << 8) | 255) >>> 0;
  };
  const full = (hex) => ((number(hex) << 8) | 255) >>> 0;
  const scale = page.scale.map(full);
  const Colours = source.data.colour.constructor;
  let grouping = label; // the column of the legend
  let groups = types;
  const hidden = new Set(); // codes of the legend's column

  async function colourBy(column) {
    const values = column === label ? types : await valuesOf(column);
    const colour = new Colours(cells);
    if (column.kind === "type") {
      const strong = column.colours.map(full);
      const weak = column.colours.map(pale);
      for (let i = 0; i < cells; i++) {
        colour[i] = values[i] === NONE ? GREY : (isHeld(i) ? strong : weak)[values[i]];
      }
      if (grouping !== column) {
        [grouping, groups] = [column, values];
        hidden.clear();
        filter();
      }
    } else {
      for (let i = 0; i < cells; i++) colour[i] = values[i] === NO_NUMBER ? GREY : scale[values[i]];
    }
    source.data = { ...source.data, colour };
    $("colour").value = column.name;
    showScale(column);
    showLegend(column.kind === "type");
  }

  function showScale(column) {
    $("scale").hidden = column.kind === "type";
    if (column.kind === "type") return;
    const [bar, low, high] = $("scale").children;
    bar.style.background = `linear-gradient(to right, ${page.scale.join(",")})`;
    low.textContent = column.low.toPrecision(3).replace(/\.?0+$/, "");
    high.textContent = `${column.high.toPrecision(3)} ${column.kind === "gene" ? `(${column.name})` : ""}`;
  }

  // ---- legend and filter
  function filter() {
    const heldOnly = $("held").checked;
    visible.booleans = !heldOnly && !hidden.size ? null
      : Array.from(groups, (code, i) => !hidden.has(code) && (!heldOnly || isHeld(i)));
    showSelection();
  }

  function showLegend(coloured) {
    const counts = new Map();
    for (const code of groups) counts.set(code, (counts.get(code) ?? 0) + 1);
    const codes = [...counts.keys()].sort((a, b) => a - b);
    const toggle = (event, code) => {
      const others = codes.filter((other) => other !== code);
      if (event.shiftKey) {
        const alone = others.every((other) => hidden.has(other)) && !hidden.has(code);
        hidden.clear();
        if (!alone) others.forEach((other) => hidden.add(other));
      } else if (!hidden.delete(code)) {
        hidden.add(code);
      }
      filter();
      showLegend(coloured);
    };
    const hint = make("p", {}, make("span", { textContent: hidden.size ? `${hidden.size} hidden` : "click hides, shift-click isolates" }));
    if (hidden.size) {
      hint.append(make("button", { textContent: "show all", onclick: () => { hidden.clear(); filter(); showLegend(coloured); } }));
    }
    const place = $("legend").scrollTop;
    $("legend").replaceChildren(hint, ...codes.map((code) => {
      const colour = code === NONE ? page.grey : grouping.colours[code];
      const dot = make("i", { className: "dot", style: coloured ? { background: colour } : { border: `1.5px solid ${page.grey}` } });
      const name = code === NONE ? "unlabelled" : grouping.names[code];
      const item = make("button", { className: "type", onclick: (event) => toggle(event, code) },
        dot, make("span", { textContent: name }), make("small", { textContent: counts.get(code).toLocaleString("en") }));
      item.setAttribute("aria-pressed", !hidden.has(code));
      return item;
    }));
    $("legend").scrollTop = place;
  }

  // ---- selection
  const MOST = 8;
  function showSelection() {
    const chosen = [...source.selected.indices].filter((i) => visible.booleans?.[i] ?? true);
    if (!chosen.length) {
      $("selection").replaceChildren(make("span", { className: "null", textContent: "Draw around cells in a map: they light up in all maps. Shift adds, Esc clears." }));
      return;
    }
    const counts = new Map();
    let held = 0;
    for (const i of chosen) {
      counts.set(types[i], (counts.get(types[i]) ?? 0) + 1);
      held += isHeld(i);
    }
    const ranked = [...counts].sort((a, b) => b[1] - a[1]);
    const rest = ranked.slice(MOST).reduce((sum, [, count]) => sum + count, 0);
    const bar = (name, count, colour) => make("div", { className: "share" },
      make("span", { textContent: name }),
      make("span", { textContent: `${count.toLocaleString("en")} · ${Math.round((100 * count) / chosen.length)} %` }),
      make("i", { style: { background: colour, width: `${(100 * count) / ranked[0][1]}%` } }));
    const clear = () => { source.selected.indices = []; };
    $("selection").replaceChildren(
      make("header", {},
        make("b", { textContent: `${chosen.length.toLocaleString("en")} cells selected` }),
        make("button", { textContent: "clear", onclick: clear })),
      make("span", { className: "null", textContent: `${held.toLocaleString("en")} of them held out` }),
      ...ranked.slice(0, MOST).map(([code, count]) =>
        code === NONE ? bar("unlabelled", count, page.grey) : bar(label.names[code], count, label.colours[code])),
      ...(rest ? [bar(`${ranked.length - MOST} other types`, rest, "#8a8a8a")] : []));
  }
  source.selected.properties.indices.change.connect(showSelection);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") source.selected.indices = [];
  });

  // ---- hover: what a cell is, and where it lies in the other maps
  let pointer = { x: 0, y: 0 };
  document.addEventListener("pointermove", (event) => { pointer = { x: event.clientX, y: event.clientY }; }, true);
  function showCell(i) {
    $("tip").hidden = i === undefined;
    boxes.forEach((box, k) => {
      const { x_range, y_range } = plots[k];
      const x = (source.data[`x${k}`][i] - x_range.start) / (x_range.end - x_range.start);
      const y = (y_range.end - source.data[`y${k}`][i]) / (y_range.end - y_range.start);
      const ring = box.querySelector(".ring");
      ring.style.visibility = i !== undefined && x > 0 && x < 1 && y > 0 && y < 1 ? "visible" : "hidden";
      ring.style.transform = `translate(${x * box.clientWidth}px, ${y * box.clientHeight}px)`;
    });
    if (i === undefined) return;
    const type = types[i] === NONE ? "unlabelled" : label.names[types[i]];
    const lines = [make("b", { textContent: type }), isHeld(i) ? "held-out" : "training", ` · ${names[i]}`];
    if (grouping !== label) lines.push(` · ${grouping.name}: ${groups[i] === NONE ? "none" : grouping.names[groups[i]]}`);
    $("tip").replaceChildren(...lines);
    $("tip").style.left = `${Math.min(pointer.x + 14, innerWidth - $("tip").offsetWidth - 8)}px`;
    $("tip").style.top = `${Math.min(pointer.y + 14, innerHeight - $("tip").offsetHeight - 8)}px`;
  }
  const topmost = (hits) => (hits.length ? hits.reduce((a, b) => Math.max(a, b)) : undefined);
  source.inspect.connect(() => showCell(topmost(source.inspected.indices)));
  boxes.forEach((box) => box.addEventListener("pointerleave", () => showCell(undefined)));

  // ---- switches
  function drag(mode) {
    for (const plot of plots) {
      for (const tool of plot.toolbar.tools) {
        if (tool.type === "LassoSelectTool") tool.active = mode === "lasso";
        if (tool.type === "PanTool" || tool.type === "WheelZoomTool") tool.active = mode === "pan";
      }
    }
    for (const id of ["lasso", "pan"]) $(id).setAttribute("aria-pressed", id === mode);
  }
  $("lasso").onclick = () => drag("lasso");
  $("pan").onclick = () => drag("pan");
  const frames = plots.map(({ x_range: x, y_range: y }) => [x.start, x.end, y.start, y.end]);
  $("reset").onclick = () => {
    plots.forEach(({ x_range, y_range }, k) => {
      const [left, right, bottom, top] = frames[k];
      x_range.setv({ start: left, end: right });
      y_range.setv({ start: bottom, end: top });
    });
    source.selected.indices = [];
    hidden.clear();
    $("held").checked = false;
    filter();
    colourBy(label);
  };
  $("held").onchange = filter;
  for (const button of document.querySelectorAll(".grow")) {
    button.onclick = () => button.closest(".map").classList.toggle("grown");
  }

  // ---- search
  const WORDS = { type: "column", number: "column", gene: "gene" };
  let found = [];
  let at = 0;
  function search() {
    const text = $("colour").value.trim().toLowerCase();
    const score = ({ name }) => { const place = name.toLowerCase().indexOf(text); return place < 0 ? 9 : place > 0 ? 2 : name.length === text.length ? 0 : 1; };
    found = page.columns.map((column) => [score(column), column]).filter(([rank]) => rank < 9)
      .sort((a, b) => a[0] - b[0]).slice(0, 40).map(([, column]) => column);
    showFound(0);
  }
  function showFound(selected) {
    at = Math.max(0, Math.min(selected, found.length - 1));
    $("found").hidden = false;
    $("colour").setAttribute("aria-expanded", true);
    $("found").replaceChildren(...(found.length ? found.map((column, i) => {
      const item = make("li", { onpointerdown: (event) => { event.preventDefault(); choose(column); } },
        make("span", { textContent: column.name }), make("small", { textContent: WORDS[column.kind] }));
      item.role = "option";
      item.setAttribute("aria-selected", i === at);
      return item;
    }) : [make("li", { textContent: "nothing on this page has this name" })]));
    $("found").children[at].scrollIntoView({ block: "nearest" });
  }
  function closeSearch() {
    $("found").hidden = true;
    $("colour").setAttribute("aria-expanded", false);
  }
  let coloured = label;
  function choose(column) {
    coloured = column;
    closeSearch();
    $("colour").blur();
    return colourBy(column);
  }
  $("colour").onfocus = () => { $("colour").value = ""; search(); };
  $("colour").oninput = search;
  $("colour").onblur = () => { closeSearch(); $("colour").value = coloured.name; };
  $("colour").onkeydown = (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      showFound(at + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter" && found.length) {
      choose(found[at]);
    } else if (event.key === "Escape") {
      $("colour").blur();
    }
  };

  // ---- tables
  for (const button of document.querySelectorAll(".sort")) {
    button.onclick = () => {
      const table = button.closest("table");
      const column = button.parentElement.cellIndex;
      const order = button.dataset.order === "down" ? "up" : "down";
      table.querySelectorAll(".sort").forEach((other) => delete other.dataset.order);
      button.dataset.order = order;
      const sign = order === "down" ? -1 : 1;
      for (const body of table.tBodies) {
        const key = (row) => (column ? Number(row.cells[column].dataset.value ?? NaN) : row.cells[0].textContent);
        const rows = [...body.rows].filter((row) => !row.classList.contains("space"));
        rows.sort((a, b) => {
          const [one, two] = [key(a), key(b)];
          if (!column) return -sign * one.localeCompare(two);
          return Number.isNaN(one) - Number.isNaN(two) || sign * (one - two); // missing scores come last
        });
        body.append(...rows);
      }
    };
  }

  function showConfusion() {
    const { true: rows, predicted, counts, warning } = page.confusions[Number($("which").value)];
    const side = Math.max(12, Math.min(36, Math.floor(560 / predicted.length)));
    const head = make("tr", {}, make("th"), ...predicted.map((name) => make("th", { title: name }, make("span", { textContent: name }))));
    const body = rows.map((name, i) => {
      const sum = counts[i].reduce((a, b) => a + b, 0);
      return make("tr", {}, make("th", { textContent: name, title: name }), ...counts[i].map((count, j) => {
        const share = sum ? count / sum : 0;
        const rgb = name === predicted[j] ? "20, 92, 194" : "143, 0, 10";
        return make("td", {
          title: `${count} of ${sum} ${name} → ${predicted[j]}`,
          textContent: count && side >= 22 ? Math.round(100 * share) : "",
          style: { background: warning ? `rgba(107, 107, 107, ${0.6 * share})` : `rgba(${rgb}, ${share})`, color: share > 0.55 ? "#fff" : "" },
        });
      }));
    });
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
    table.style.setProperty("--side", `${side}px`);
    $("warning").textContent = warning;
    $("matrix").replaceChildren(table);
  }
  $("confusions").hidden = !page.confusions.length;
  if (page.confusions.length) {
    $("which").append(...page.confusions.map(({ title }, i) => make("option", { value: i, textContent: title })));
    $("which").onchange = showConfusion;
    showConfusion();
  }

  $("colour").value = label.name;
  showLegend(true);
  showSelection();
  document.body.dataset.ready = "yes"; // tests wait for it
})();
