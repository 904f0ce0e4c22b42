"use strict";

// The page's own script: colours, legend, selection, hover and keys of the maps, sorting of tables, confusion matrices.
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
  let last = {}; // the block that was unpacked last: genes that lie together are often asked for together
  function unpack(place) {
    if (last.at !== place.at) last = { at: place.at, bytes: inflate(place) };
    return last.bytes;
  }
  async function inflate({ at, length }) {
    const signs = atob(blocks.substringData(at, length));
    const bytes = new Uint8Array(signs.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = signs.charCodeAt(i);
    const stream = new DecompressionStream("deflate");
    const writer = stream.writable.getWriter();
    writer.write(bytes);
    writer.close();
    return new Response(stream.readable).arrayBuffer();
  }
  async function valuesOf(column) {
    const bytes = await unpack(column);
    return column.kind === "type" ? new Uint16Array(bytes) : new Uint8Array(bytes, column.row * cells, cells);
  }
  const textOf = async (place) => new TextDecoder().decode(await inflate(place));
  for (const library of page.libraries) (0, eval)(await textOf(library));

  // WebGL that the CPU emulates is slower than a plain canvas
  const gpu = document.createElement("canvas").getContext("webgl", { failIfMajorPerformanceCaveat: true });
  const drawn = $("document").textContent.replaceAll('"output_backend":"webgl"', `"output_backend":"${gpu ? "webgl" : "canvas"}"`);
  const [types, names, genes] = await Promise.all([
    valuesOf(label),
    textOf(page.cell_names).then(JSON.parse),
    textOf(page.genes).then(JSON.parse),
    Bokeh.embed.embed_items(JSON.parse(drawn), page.items),
  ]);
  page.columns.push(...genes);
  const bokeh = Bokeh.documents[Bokeh.documents.length - 1];
  const source = bokeh.get_model_by_name("cells");
  const visible = bokeh.get_model_by_name("visible");
  const plots = page.items[0].root_ids.map((id) => bokeh.get_model_by_id(id));
  const boxes = [...document.querySelectorAll(".plot")];
  const cells = types.length;
  const methods = page.maps;
  const count = (n) => n.toLocaleString("en");
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

  const rounded = (value) => Number(value.toPrecision(3));
  function showScale(column) {
    $("scale").hidden = column.kind === "type";
    if (column.kind === "type") return;
    const [name, bar, low, high] = $("scale").children;
    name.textContent = column.kind === "gene" ? `${column.name}, ${page.unit}` : column.name;
    bar.style.background = `linear-gradient(to right, ${page.scale.join(",")})`;
    [low.textContent, high.textContent] = [String(rounded(column.low)), `${rounded(column.high)} and more`];
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
    const focused = $("legend").contains(document.activeElement) ? document.activeElement.dataset.code ?? "" : null;
    $("legend").replaceChildren(hint, ...codes.map((code) => {
      const colour = code === NONE ? page.grey : grouping.colours[code];
      const dot = make("i", { className: "dot", style: coloured ? { background: colour } : { border: `1.5px solid ${page.grey}` } });
      const name = code === NONE ? "unlabelled" : grouping.names[code];
      const item = make("button", { className: "type", onclick: (event) => toggle(event, code) },
        dot, make("span", { textContent: name }), make("small", { textContent: count(counts.get(code)) }));
      item.dataset.code = code;
      item.setAttribute("aria-pressed", !hidden.has(code));
      return item;
    }));
    $("legend").scrollTop = place;
    if (focused !== null) ($("legend").querySelector(`[data-code="${focused}"]`) ?? $("legend").querySelector(".type")).focus();
  }

  // ---- selection
  const MOST = 8;
  const FEWEST = 3; // cells on each side of a comparison
  const HINT = "Draw around cells in a map: they light up in all maps. Shift adds, Esc clears.";
  const SCROLLS = "A finger scrolls the page now. Press Lasso, then draw around cells in a map; press it again to scroll.";
  const EMPTY = "No cell lies inside this line: draw around some cells.";
  let mode = "lasso"; // what a drag does
  let missed = false; // whether the last lasso held no cell
  const isVisible = (i) => visible.booleans?.[i] ?? true;
  const select = (indices) => { source.selected.indices = indices; };
  function showSelection() {
    const all = [...source.selected.indices];
    const chosen = all.filter(isVisible);
    $("selection").className = chosen.length ? "some" : "";
    if (!chosen.length) {
      $("selection").replaceChildren(make("span", { className: "null", textContent: all.length ? "All selected cells are hidden." : missed ? EMPTY : mode ? HINT : SCROLLS }));
      return;
    }
    const counts = new Map();
    let held = 0;
    for (const i of chosen) {
      counts.set(types[i], (counts.get(types[i]) ?? 0) + 1);
      held += isHeld(i);
    }
    const ranked = [...counts].sort((a, b) => b[1] - a[1]);
    const rest = ranked.slice(MOST).reduce((sum, [, n]) => sum + n, 0);
    const bar = (name, n, colour) => make("div", { className: "share" },
      make("span", { textContent: name }),
      make("span", { textContent: `${count(n)} · ${Math.round((100 * n) / chosen.length)} %` }),
      make("i", { style: { background: colour, width: `${(100 * n) / ranked[0][1]}%` } }));
    const found = make("div", { id: "markers" });
    const acts = make("div", { className: "acts" },
      make("button", { id: "csv", textContent: "Download CSV", title: "Name, type, split and coordinates of the selected cells", onclick: () => download(chosen) }),
      make("button", { id: "copy", textContent: "Copy names", title: "Names of the selected cells, one a line", onclick: (event) => copy(chosen, event.target) }));
    if (genes.length) {
      acts.append(make("button", { id: "mark", textContent: `Find ${page.features} that mark them`, onclick: () => showMarkers(chosen, found) }));
    }
    $("selection").replaceChildren(
      make("header", {},
        make("b", { textContent: `${count(chosen.length)} cells selected` }),
        make("button", { textContent: "clear", onclick: () => select([]) })),
      make("span", { className: "null", textContent: `${count(held)} of them held out` }),
      ...ranked.slice(0, MOST).map(([code, n]) =>
        code === NONE ? bar("unlabelled", n, page.grey) : bar(label.names[code], n, label.colours[code])),
      ...(rest ? [bar(`${ranked.length - MOST} other types`, rest, "#8a8a8a")] : []), acts, found);
  }
  source.selected.properties.indices.change.connect(showSelection);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") select([]);
  });
  let way = -1; // of the pointer since it went down in a map, in pixels; -1 while it is up
  for (const box of boxes) box.addEventListener("pointerdown", () => { [way, missed] = [0, false]; }, true);
  document.addEventListener("pointermove", ({ movementX: x, movementY: y }) => { if (way >= 0) way += Math.abs(x) + Math.abs(y); }, true);
  document.addEventListener("pointerup", () => {
    const drawn = way > 20 && mode === "lasso";
    way = -1;
    if (drawn) setTimeout(() => { // after the lasso
      missed = !source.selected.indices.length;
      showSelection();
    });
  }, true);

  // ---- the selected cells for other programs; ' stands before what a spreadsheet would take for a formula
  const harmless = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
  const field = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const typeOf = (i) => (types[i] === NONE ? "unlabelled" : label.names[types[i]]);
  function csvOf(chosen) {
    const head = ["cell", label.name, "split", ...methods.flatMap((method) => [`${method}_1`, `${method}_2`])];
    const coordinate = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(7))) : "");
    const rows = chosen.map((i) => [
      ...[names[i], typeOf(i), isHeld(i) ? "held-out" : "train"].map(harmless),
      ...methods.flatMap((_, k) => [source.data[`x${k}`][i], source.data[`y${k}`][i]].map(coordinate)),
    ]);
    return [head.map(harmless), ...rows].map((row) => row.map(field).join(",")).join("\n") + "\n";
  }
  function download(chosen) {
    const address = URL.createObjectURL(new Blob([csvOf(chosen)], { type: "text/csv" }));
    make("a", { href: address, download: `${page.title.replace(/[^\w.-]+/g, "_")}-selected.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }
  async function copy(chosen, button) {
    const text = chosen.map((i) => harmless(names[i])).join("\n");
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = `${count(chosen.length)} copied`;
    } catch { // the browser forbids it for pages from disk
      const area = make("textarea", { value: text });
      document.body.append(area);
      area.select();
      button.textContent = document.execCommand("copy") ? `${count(chosen.length)} copied` : "not allowed: use the CSV";
      area.remove();
    }
  }

  // Mean difference and AUROC of each gene between the selected cells and the other visible ones, from histograms.
  async function markersOf(chosen) {
    const start = Uint16Array.from({ length: cells }, (_, i) => (isVisible(i) ? 256 : 512)); // of the histogram of a cell's side
    for (const i of chosen) start[i] = 0;
    const rows = [];
    const counts = new Uint32Array(768);
    const [inside, others] = [counts.subarray(0, 256), counts.subarray(256, 512)];
    for (const gene of [...genes].sort((a, b) => a.at - b.at)) { // as they lie in the page
      const values = await valuesOf(gene);
      counts.fill(0);
      for (let i = 0; i < cells; i++) counts[start[i] + values[i]]++;
      let [n, m, sum, other, wins] = [0, 0, 0, 0, 0];
      for (let v = 0; v < NO_NUMBER; v++) {
        wins += inside[v] * (m + others[v] / 2);
        n += inside[v];
        m += others[v];
        sum += v * inside[v];
        other += v * others[v];
      }
      if (!n || !m) continue;
      const step = (gene.high - gene.low) / (NO_NUMBER - 1);
      rows.push({ gene, auroc: wins / (n * m), difference: (sum / n - other / m) * step });
    }
    return rows.sort((a, b) => b.auroc - a.auroc).slice(0, 10).filter(({ auroc }) => auroc > 0.5);
  }
  async function showMarkers(chosen, found) {
    const others = Array.from({ length: cells }, (_, i) => isVisible(i)).filter(Boolean).length - chosen.length;
    const word = (text) => found.replaceChildren(make("p", { className: "null", textContent: text }));
    if (Math.min(chosen.length, others) < FEWEST) {
      word(`A comparison needs ${FEWEST} selected cells or more, and ${FEWEST} other visible ones.`);
      return;
    }
    word(`Comparing ${count(genes.length)} ${page.features} …`);
    await new Promise((done) => setTimeout(done)); // the words appear first
    const rows = await markersOf(chosen);
    word(rows.length ? `The ${page.features} that are most often higher in the selected cells than in the ${count(others)} other visible ones. Difference: of mean values (${page.unit}). AUROC: how often the selected one of two cells has more; 0.5 is chance. The cells were chosen by eye, so there is no p-value.`
      : `None of the ${page.features} is higher in the selected cells.`);
    if (!rows.length) return;
    const head = ["", "difference", "AUROC"].map((textContent) => make("th", { textContent, scope: "col" }));
    found.prepend(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {},
      ...rows.map(({ gene, auroc, difference }) => make("tr", {},
        make("th", { scope: "row" }, make("button", { textContent: gene.name, title: "Colour by it", onclick: () => choose(gene) })),
        make("td", { textContent: difference.toLocaleString("en", { minimumSignificantDigits: 3, maximumSignificantDigits: 3 }) }), make("td", { textContent: auroc.toFixed(2) }))))));
  }

  // ---- hover: what a cell is, and where it lies in the other maps
  let pointer = { x: 0, y: 0 };
  let walking = false; // by keys: a pointer that rests on a map has no say until it moves
  document.addEventListener("pointermove", (event) => {
    pointer = { x: event.clientX, y: event.clientY };
    if (event.movementX || event.movementY) walking = false;
  }, true);
  function showCell(i, near) { // near: the map in which the keyboard moves
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
    const lines = [make("b", { textContent: typeOf(i) }), isHeld(i) ? "held-out" : "training", ` · ${names[i]}`];
    if (grouping !== label) lines.push(` · ${grouping.name}: ${groups[i] === NONE ? "none" : grouping.names[groups[i]]}`);
    $("tip").replaceChildren(...lines);
    if (near) {
      const { x, y } = near.querySelector(".ring").getBoundingClientRect();
      pointer = { x: x + 7, y: y + 7 };
    }
    $("tip").style.left = `${Math.min(pointer.x + 14, innerWidth - $("tip").offsetWidth - 8)}px`;
    $("tip").style.top = `${Math.min(pointer.y + 14, innerHeight - $("tip").offsetHeight - 8)}px`;
  }
  const topmost = (hits) => (hits.length ? hits.reduce((a, b) => Math.max(a, b)) : undefined);
  const point = (i) => { if (!walking) showCell(i); };
  source.inspect.connect(() => point(topmost(source.inspected.indices)));
  boxes.forEach((box) => box.addEventListener("pointerleave", () => point(undefined)));

  // ---- keys: left and right move through the types, up and down through the cells of one, from its middle outwards
  function cellsOf(code, k) {
    const [x, y] = [source.data[`x${k}`], source.data[`y${k}`]];
    const own = Array.from(groups.keys()).filter((i) => groups[i] === code && isVisible(i) && !Number.isNaN(x[i]));
    const middle = (values) => own.map((i) => values[i]).sort((a, b) => a - b)[own.length >> 1];
    const [left, top] = [middle(x), middle(y)];
    const far = new Map(own.map((i) => [i, Math.hypot(x[i] - left, y[i] - top)]));
    return own.sort((a, b) => far.get(a) - far.get(b));
  }
  const walk = { code: undefined, step: 0 };
  boxes.forEach((box, k) => {
    box.addEventListener("blur", () => { walking = false; showCell(undefined); });
    box.addEventListener("keydown", (event) => {
      const codes = [...new Set(groups)].sort((a, b) => a - b).filter((code) => !hidden.has(code));
      const [side, along] = [{ ArrowLeft: -1, ArrowRight: 1 }[event.key], { ArrowUp: -1, ArrowDown: 1 }[event.key]];
      if (!codes.length || !(side || along || event.key === "Enter")) return;
      event.preventDefault();
      walking = true;
      const at = codes.indexOf(walk.code);
      if (side || at < 0) {
        walk.code = codes[at < 0 ? (side < 0 ? codes.length - 1 : 0) : (at + side + codes.length) % codes.length];
        walk.step = 0;
      }
      const own = cellsOf(walk.code, k);
      const name = walk.code === NONE ? "unlabelled" : grouping.names[walk.code];
      if (!own.length) {
        showCell(undefined);
        $("spoken").textContent = `${name}, no visible cell`;
        return;
      }
      if (along) walk.step = (walk.step + along + own.length) % own.length;
      if (event.key === "Enter") select(event.shiftKey ? [...new Set([...source.selected.indices, ...own])] : own);
      const i = own[walk.step % own.length];
      showCell(i, box);
      $("spoken").textContent = event.key === "Enter" ? `${count(source.selected.indices.length)} cells selected`
        : along ? `${names[i]}, ${isHeld(i) ? "held-out" : "training"}, ${name}` : `${name}, ${count(own.length)} cells`;
    });
  });
  const withShadows = (root) => [...root.querySelectorAll("*")].flatMap((e) => [e, ...(e.shadowRoot ? withShadows(e.shadowRoot) : [])]);
  for (const box of boxes) withShadows(box).filter((e) => e.tabIndex >= 0).forEach((e) => { e.tabIndex = -1; }); // one stop a map

  // ---- switches
  function drag(wanted) { // once more switches it off, so that a finger scrolls the page
    mode = wanted === mode ? "" : wanted;
    for (const plot of plots) {
      for (const tool of plot.toolbar.tools) {
        if (tool.type === "LassoSelectTool") tool.active = mode === "lasso";
        if (tool.type === "PanTool" || tool.type === "WheelZoomTool") tool.active = mode === "pan";
      }
    }
    for (const id of ["lasso", "pan"]) $(id).setAttribute("aria-pressed", id === mode);
    showSelection();
  }
  $("lasso").onclick = () => drag("lasso");
  $("pan").onclick = () => drag("pan");
  if (matchMedia("(pointer: coarse)").matches) drag("lasso");
  const frames = plots.map(({ x_range: x, y_range: y }) => [x.start, x.end, y.start, y.end]);
  $("reset").onclick = () => {
    plots.forEach(({ x_range, y_range }, k) => {
      const [left, right, bottom, top] = frames[k];
      x_range.setv({ start: left, end: right });
      y_range.setv({ start: bottom, end: top });
    });
    missed = false;
    select([]);
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
      item.id = `found${i}`;
      item.setAttribute("aria-selected", i === at);
      return item;
    }) : [make("li", { textContent: "nothing on this page has this name" })]));
    if (found.length) $("colour").setAttribute("aria-activedescendant", `found${at}`);
    else $("colour").removeAttribute("aria-activedescendant");
    $("found").children[at].scrollIntoView({ block: "nearest" });
  }
  function closeSearch() {
    $("found").hidden = true;
    $("colour").setAttribute("aria-expanded", false);
    $("colour").removeAttribute("aria-activedescendant");
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
      table.querySelectorAll("thead th").forEach((head) => head.removeAttribute("aria-sort"));
      button.parentElement.setAttribute("aria-sort", order === "down" ? "descending" : "ascending");
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
    const longest = Math.min(innerWidth <= 560 ? 110 : 156, 7 * Math.max(...rows.map((name) => name.length)) + 12); // pixels of the names
    const side = Math.max(14, Math.min(40, Math.floor(($("confusions").clientWidth - longest) / predicted.length)));
    const paper = matchMedia("(prefers-color-scheme: dark)").matches ? [22, 24, 28] : [255, 255, 255];
    const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, w, k) => sum + w * (rgb[k] <= 10 ? rgb[k] / 3295 : ((rgb[k] / 255 + 0.055) / 1.055) ** 2.4), 0);
    const head = make("tr", {}, make("th"), ...predicted.map((name) => make("th", { title: name }, make("span", { textContent: name }))));
    const body = rows.map((name, i) => {
      const sum = counts[i].reduce((a, b) => a + b, 0);
      return make("tr", {}, make("th", { textContent: name, title: name }), ...counts[i].map((count, j) => {
        const share = sum ? count / sum : 0;
        const full = warning ? [107, 107, 107] : name === predicted[j] ? [20, 92, 194] : [143, 0, 10];
        const rgb = full.map((channel, k) => Math.round(share * channel + (1 - share) * paper[k]));
        return make("td", {
          title: `${count} of ${sum} ${name} → ${predicted[j]}`,
          textContent: count && side >= 22 ? Math.round(100 * share) : "",
          style: { background: `rgb(${rgb})`, color: light(rgb) > 0.179 ? "#000" : "#fff" }, // the one of more contrast
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
    addEventListener("resize", showConfusion);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showConfusion);
    showConfusion();
  }

  $("colour").value = label.name;
  showLegend(true);
  showSelection();
  document.body.dataset.ready = "yes"; // tests wait for it
})();
