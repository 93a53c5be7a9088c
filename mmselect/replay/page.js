"use strict";
// Figures are drawn at the width at hand, so that a phone gets text of the same size as a screen.
const data = JSON.parse(document.getElementById("data").textContent);
const NS = "http://www.w3.org/2000/svg";
const hidden = new Set();
const colours = new Map(data.strategies.map((name, i) => [name, `var(--s${i ? ((i - 1) % 8) + 1 : 0})`]));

function make(tag, props = {}, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
}
function draw(svg, tag, attributes, text) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  svg.append(element);
  return element;
}
const coloured = (element, name) => (element.style.setProperty("--colour", colours.get(name)), element);
const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(1)}`;
const known = (x) => x !== null;

// round steps between least and most
function steps(least, most, wanted) {
  const rough = (most - least || 1) / wanted, ten = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * ten).find((s) => s >= rough);
  const found = [];
  for (let x = Math.ceil(least / step - 1e-9) * step; x <= most + 1e-9 * step; x += step) found.push(+x.toPrecision(10));
  return found;
}

// ---- differences to the baseline

function differences() {
  const box = document.getElementById("differences"), rows = data.differences;
  const ends = rows.flatMap((d) => [d.mean, d.low, d.high]).filter(known);
  const [least, most] = [Math.min(0, ...ends), Math.max(0, ...ends)];
  const room = (most - least || 1) * 0.06, width = most - least + 2 * room;
  const at = (x) => `${(100 * (x - least + room)) / width}%`;
  const place = (track, name, left, right) => {
    const part = make("i", { className: name });
    part.style.left = at(left);
    if (right !== undefined) part.style.width = `${(100 * (right - left)) / width}%`;
    track.append(part);
  };
  for (const d of rows) {
    const track = make("div", { className: "track" });
    place(track, "zero", 0);
    if (known(d.low)) place(track, "whisker", d.low, d.high);
    place(track, "dot", d.mean);
    const beyond = known(d.low) && (d.low > 0 || d.high < 0);
    const value = make("div", { className: "value" }, make("b", { textContent: signed(d.mean) }),
      known(d.low) ? ` [${signed(d.low)}, ${signed(d.high)}]` : "");
    if (d.more) value.append(make("small", { textContent: d.more }));
    const row = make("div", { className: beyond ? "row beyond" : "row", title: `${d.name}: ${value.textContent}` },
      make("div", { className: "name", textContent: d.name }), track, value);
    box.append(coloured(row, d.name));
  }
  const scale = make("div", { className: "track" });
  for (const x of steps(least, most, 5)) {
    const mark = make("span", { textContent: x ? signed(x).replace(".0", "") : "0" });
    mark.style.left = at(x);
    scale.append(mark);
  }
  box.append(make("div", { className: "row scale" }, make("div"), scale, make("div", { textContent: "points" })));
}

// ---- curves

function chart(of) {
  const panel = make("figure", { className: "panel chart" }, make("h3", { textContent: of.title }));
  const svg = document.createElementNS(NS, "svg"), tip = make("div", { className: "tip", hidden: true });
  svg.setAttribute("role", "img");
  svg.setAttribute("tabindex", "0");
  svg.setAttribute("aria-label", `${of.title}: ${of.series.map((s) => `${s.name} ends at ${s.mean.at(-1).toFixed(1)}`).join(", ")}`);
  panel.append(svg, tip);
  let to, round = -1;
  const seen = () => of.series.filter((s) => !hidden.has(s.name));

  function paint() {
    svg.replaceChildren();
    const [width, height] = [svg.clientWidth, svg.clientHeight], [left, right, top, bottom] = [30, 12, 6, 22];
    const xs = of.series.flatMap((s) => s.x), ys = [...of.series.flatMap((s) => [...s.low, ...s.high]), ...[of.full].filter(known)];
    const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    to = (x, y) => [left + ((x - x0) / (x1 - x0 || 1)) * (width - left - right), top + (1 - (y - y0) / (y1 - y0 || 1)) * (height - top - bottom)];
    for (const y of steps(y0, y1, 5)) {
      const [, at] = to(x0, y);
      draw(svg, "line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at });
      draw(svg, "text", { x: left - 6, y: at + 4, "text-anchor": "end" }, y);
    }
    for (const x of steps(x0, x1, width < 400 ? 4 : 6))
      draw(svg, "text", { x: to(x, y0)[0], y: height - 4, "text-anchor": "middle" }, x.toLocaleString("en"));
    if (known(of.full)) {
      const [, at] = to(x0, of.full);
      draw(svg, "line", { class: "full", x1: left, x2: width - right, y1: at, y2: at });
      draw(svg, "text", { x: left + 4, y: at + (at > height / 2 ? -5 : 14) }, `all labels: ${of.full.toFixed(1)}`);
    }
    for (const s of seen()) {
      const line = (values) => s.x.map((x, i) => to(x, values[i]).map((v) => v.toFixed(1)).join(" "));
      coloured(draw(svg, "path", { class: "band", d: `M${line(s.low).join("L")}L${line(s.high).reverse().join("L")}Z` }), s.name);
      coloured(draw(svg, "path", { d: `M${line(s.mean).join("L")}` }), s.name);
    }
    if (round >= 0) show();
  }

  function show() {
    for (const old of svg.querySelectorAll(".cursor, circle")) old.remove();
    tip.hidden = round < 0;
    if (round < 0) return;
    const at = of.series[0].x[round], x = to(at, 0)[0];
    draw(svg, "line", { class: "cursor", x1: x, x2: x, y1: 0, y2: svg.clientHeight - 20 });
    const table = make("table");
    const there = seen().map((s) => [s, s.x.indexOf(at)]).filter(([, i]) => i >= 0);
    for (const [s, i] of there.sort(([a, i], [b, j]) => b.mean[j] - a.mean[i])) {
      const [cx, cy] = to(at, s.mean[i]);
      coloured(draw(svg, "circle", { cx, cy, r: 4 }), s.name);
      const spread = s.high[i] > s.low[i] ? `± ${((s.high[i] - s.low[i]) / 2).toFixed(1)}` : "";
      table.append(coloured(make("tr", {}, make("td", { textContent: s.name }), make("td", { textContent: s.mean[i].toFixed(1) }), make("td", { textContent: spread })), s.name));
    }
    tip.replaceChildren(`${at.toLocaleString("en")} labeled`, table);
    const past = x > svg.clientWidth / 2;
    tip.style.left = `${Math.min(Math.max(past ? x - tip.offsetWidth - 4 : x + 28, 4), panel.clientWidth - tip.offsetWidth - 4)}px`;
  }
  function choose(i) {
    round = i;
    show();
  }
  const rounds = of.series[0].x.length;
  svg.addEventListener("pointermove", (event) => {
    const x = event.clientX - svg.getBoundingClientRect().left;
    const away = of.series[0].x.map((at) => Math.abs(to(at, 0)[0] - x));
    choose(away.indexOf(Math.min(...away)));
  });
  svg.addEventListener("pointerdown", (event) => svg.dispatchEvent(new PointerEvent("pointermove", event)));
  svg.addEventListener("pointerleave", () => choose(-1));
  svg.addEventListener("blur", () => choose(-1));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) choose(Math.min(Math.max(round + step, 0), rounds - 1));
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(paint).observe(svg);
  panel.paint = paint;
  return panel;
}

const panels = [];
for (const [id, charts] of Object.entries(data.charts))
  for (const of of charts) {
    const panel = chart(of);
    document.getElementById(id).append(panel);
    panels.push(panel);
  }
for (const box of document.querySelectorAll(".keys"))
  for (const name of data.strategies) {
    const key = coloured(make("button", { type: "button", textContent: name }), name);
    key.dataset.name = name;
    key.onclick = () => {
      if (!hidden.delete(name)) hidden.add(name);
      for (const same of document.querySelectorAll(".keys button"))
        same.setAttribute("aria-pressed", !hidden.has(same.dataset.name));
      panels.forEach((panel) => panel.paint());
    };
    key.setAttribute("aria-pressed", true);
    box.append(key);
  }
for (const cell of document.querySelectorAll("td[data-won]"))
  cell.style.background = `color-mix(in srgb, var(--known) ${Math.round(45 * cell.dataset.won)}%, transparent)`;
if (data.differences.length) differences();
