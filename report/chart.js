// The picture at the head of the page, drawn from its data for all cells, a model or a task. Without this script the
// page shows the same picture for all cells. Points can be reached with the keyboard.
{
  const source = document.getElementById("headline-data");
  if (source) drawChart(JSON.parse(source.textContent), document.getElementById("headline"));
}

function drawChart(data, figure) {
  const SVG = figure.querySelector("svg").namespaceURI;
  const chosen = { model: "", task: "" };
  const box = document.createElement("div");
  box.className = "chart";
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  const details = document.createElement("p");
  details.className = "chosen";
  details.setAttribute("aria-live", "polite");
  figure.querySelector(".picture").replaceWith(choices(), box);
  box.after(details);

  function choices() {
    const bar = document.createElement("div");
    bar.className = "choices";
    for (const kind of ["model", "task"]) {
      if (data[kind].length < 2) continue;
      const select = document.createElement("select");
      select.ariaLabel = `Show one ${kind}`;
      select.add(new Option(`All ${kind}s`, ""));
      for (const name of data[kind]) select.add(new Option(name, name));
      select.addEventListener("input", () => { chosen[kind] = select.value; draw(); });
      bar.append(select);
    }
    return bar;
  }

  function element(parent, name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  const labelOf = point => data.methods.find(method => method.name === point.method).label;
  let placed = [];
  const signed = value => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  const percent = share => `${Number((100 * share).toPrecision(2))} %`;
  const cells = point => (point.cells === 1 ? "1 cell" : `${point.cells} cells`);

  function sentence(point, label) {
    const spread = point.ends.length ? `95 % interval ${signed(point.ends[0])} to ${signed(point.ends[1])}`
      : point.cells > 1 ? `cells from ${signed(point.range[0])} to ${signed(point.range[1])}` : "";
    return [
      point.method === "full" ? label : `${label}, ${point.budget}`,
      `File: ${point.size}, ${percent(point.x)} of the full model's`,
      `Weighted F1: ${point.f1}, ${signed(point.y)} points to full${spread ? ` (${spread})` : ""}`,
      `Mean over ${cells(point)}${point.cells < point.of ? ` of ${point.of}` : ""}`,
    ];
  }

  // The tip of a point also has those that lie under it.
  function showTip(point, x, y) {
    const near = placed.filter(other => Math.hypot(other.x - x, other.y - y) < 8).map(other => other.point);
    const shown = [point, ...near.filter(other => other !== point)];
    tip.replaceChildren(...shown.flatMap(one => sentence(one, labelOf(one)).map((line, index) => {
      const part = document.createElement(index ? "div" : "strong");
      part.textContent = line;
      return part;
    })));
    tip.hidden = false;
    const left = Math.min(Math.max(0, x - tip.offsetWidth / 2), box.clientWidth - tip.offsetWidth);
    tip.style.left = `${left}px`;
    tip.style.top = `${y + tip.offsetHeight + 24 > box.clientHeight ? y - tip.offsetHeight - 12 : y + 14}px`;
  }

  function pin(point, label) {
    const row = document.createElement("a");
    row.href = `appendix.html#${point.row}`;
    row.textContent = "Its row in the tables";
    const command = document.createElement("code");
    command.textContent = `python -m study.trace ${data.results} ${point.traced}`;
    if (point.model || point.task) row.textContent += " over all cells";
    details.replaceChildren(`${sentence(point, label).join(". ")}. `, row, `. Where ${point.cells > 1 ? "one of its cells" : "it"} comes from: `, command);
  }

  function draw() {
    details.replaceChildren();
    placed = [];
    const points = data.points.filter(point => point.model === chosen.model && point.task === chosen.task);
    const width = box.clientWidth || 600, height = Math.max(262, Math.min(392, width * 0.62));
    const edge = { left: 40, right: 14, top: 36, bottom: 40 };
    const files = points.filter(point => point.method !== "full");
    const first = Math.min(data.ticks[0], ...files.map(point => point.x)) / 1.15;
    const last = 1.35 * Math.max(1, ...files.map(point => point.x));
    const low = Math.min(-3, ...files.map(point => point.y)) * 1.25, high = Math.max(0.9, ...files.flatMap(point => [point.y, ...point.ends]));
    const across = share => edge.left + Math.log(share / first) / Math.log(last / first) * (width - edge.left - edge.right);
    // Linear near 0, logarithmic far from it, so that both a fraction of a point and a collapse can be seen.
    const top = Math.asinh(2 * high), bottom = Math.asinh(2 * low);
    const down = value => edge.top + (top - Math.asinh(2 * value)) / (top - bottom) * (height - edge.top - edge.bottom);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "group");
    svg.setAttribute("aria-label", "Weighted F1 minus that of the full model against the size of the stored file");

    element(svg, "rect", { class: "stripe", x: edge.left, width: width - edge.left - edge.right, y: down(0.5), height: down(-0.5) - down(0.5) });
    for (const tick of data.points_ticks.filter(value => value >= low && value <= high)) {
      element(svg, "line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: down(tick), y2: down(tick) });
      element(svg, "text", { x: edge.left - 6, y: down(tick) + 4, "text-anchor": "end" }, `${tick}`.replace("-", "−"));
    }
    for (const tick of data.ticks) {
      element(svg, "line", { class: "grid", x1: across(tick), x2: across(tick), y1: edge.top, y2: height - edge.bottom });
      element(svg, "text", { x: across(tick), y: height - edge.bottom + 16, "text-anchor": "middle" }, `${Number((100 * tick).toPrecision(2))} %`);
    }
    element(svg, "text", { x: 0, y: 12 }, "weighted F1, points to the full model (log far from 0)");
    element(svg, "text", { x: width - edge.right, y: height - 5, "text-anchor": "end" }, "size of the stored file, full model = 100 % (log scale)");
    const obstacles = [], labels = [];
    const claimed = data.claimed[`${chosen.model}\n${chosen.task}`];
    const ken = data.methods.find(method => method.name === "ken");
    if (claimed) {
      const [from, to] = claimed.map(across);
      obstacles.push(...between([from, down(0)], [to, down(0)]));
      element(svg, "line", { x1: from, x2: to, y1: down(0), y2: down(0), stroke: ken.colour, "stroke-width": 9, opacity: 0.35 });
      labels.push({ text: "the paper's claim for KEN", colour: ken.colour, places: [[(from + to) / 2, down(0)], [to, down(0)], [from, down(0)]] });
    }
    for (const method of [...data.methods].reverse()) {
      const own = points.filter(point => point.method === method.name).sort((a, b) => a.x - b.x);
      if (!own.length) continue;
      const places = own.map(point => [across(point.x), down(point.y)]);
      element(svg, "polyline", { points: places.join(" "), fill: "none", stroke: method.colour, "stroke-width": 2.2, "stroke-dasharray": method.dash });
      own.forEach((point, index) => drawPoint(svg, point, method, places[index], value => Math.min(down(value), height - edge.bottom)));
      places.forEach((place, index) => { obstacles.push(...between(place, places[index + 1] || place)); });
      const some = own[0].cells < own[0].of ? ` (${cells(own[0])} of ${own[0].of})` : "";
      labels.unshift({ text: method.label + some, colour: method.name === "full" ? "var(--ink)" : method.colour, places });
    }
    tip.hidden = true;
    box.replaceChildren(svg, tip);
    placeLabels(svg, labels, obstacles, { left: edge.left, right: width - 2, top: 17, bottom: height - edge.bottom });
  }

  function drawPoint(svg, point, method, [x, y], down) {
    const colour = method.name === "full" ? "var(--ink)" : method.colour;
    placed.push({ point, x, y });
    for (const [from, to] of point.ends.length ? [point.ends] : [])
      element(svg, "line", { x1: x, x2: x, y1: down(from), y2: down(to), stroke: colour, "stroke-width": 1.2, opacity: 0.7 });
    const group = element(svg, "g", { class: "point", tabindex: 0, role: "button", "aria-label": sentence(point, method.label).join(". ") });
    element(group, "circle", { cx: x, cy: y, r: 12, fill: "transparent" });
    element(group, "circle", { cx: x, cy: y, r: 4.5, stroke: colour, "stroke-width": 1.8, fill: method.hollow ? "var(--paper)" : colour });
    for (const event of ["mouseenter", "focus"]) group.addEventListener(event, () => showTip(point, x, y));
    for (const event of ["mouseleave", "blur"]) group.addEventListener(event, () => { tip.hidden = true; });
    group.addEventListener("click", () => pin(point, method.label));
    group.addEventListener("keydown", event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pin(point, method.label); }
    });
  }

  // Points along a line, at most 6 pixels apart.
  function between([x0, y0], [x1, y1]) {
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / 6));
    return Array.from({ length: steps }, (_, step) => [x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps]);
  }

  // Each label goes beside a point of its line, where it covers no other label and the fewest lines.
  function placeLabels(svg, labels, obstacles, inside) {
    const taken = [];
    for (const label of labels) {
      const text = element(svg, "text", { class: "label", fill: label.colour, style: `fill: ${label.colour}` }, label.text);
      const { width, height } = text.getBBox();
      let best = null;
      for (const [x, y] of label.places)
        for (const [dx, dy] of [[-width - 9, 4], [9, 4], [-width / 2, -10], [-width / 2, 20], [-width - 5, -8], [6, -8], [-width - 5, 18], [6, 18], [-width / 2, -24], [-width / 2, 34],
          [-width - 5, -22], [6, -22], [-width - 5, 34], [6, 34], [-width / 2, 48], [-width - 5, 48], [-width / 2, -38], [-width - 5, -36], [-width, -38]]) {
          const place = { x: x + dx, y: y + dy, left: x + dx - 2, right: x + dx + width + 2, top: y + dy - height + 3, bottom: y + dy + 4 };
          if (place.left < inside.left || place.right > inside.right || place.top < inside.top || place.bottom > inside.bottom) continue;
          if (taken.some(other => place.left < other.right && place.right > other.left && place.top < other.bottom && place.bottom > other.top)) continue;
          const cost = obstacles.filter(([a, b]) => a > place.left && a < place.right && b > place.top && b < place.bottom).length;
          if (!best || cost < best.cost) best = { cost, place };
        }
      if (!best) { text.remove(); continue; }
      text.setAttribute("x", best.place.x);
      text.setAttribute("y", best.place.y);
      taken.push(best.place);
    }
  }

  let drawn = 0;
  new ResizeObserver(() => {
    if (box.clientWidth === drawn) return;
    drawn = box.clientWidth;
    draw();
  }).observe(box);
}
