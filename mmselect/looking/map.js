// ---- the map

const map = data.map, canvas = $("canvas"), EDGE = 1000, MARGIN = 10;
let pointed = -1;
$("map").hidden = !map;
if (map) $("how-drawn").textContent = `By ${map.how}. ${map.drawn} are drawn.`;

function largest(axis) {
  return [map.pool, map.labeled, map.picks].flat().reduce((most, point) => Math.max(most, point[axis]), 1);
}
function scale() {
  map.size ??= [largest(0), largest(1)];
  const room = [canvas.clientWidth - 2 * MARGIN, canvas.clientHeight - 2 * MARGIN];
  const by = Math.min(room[0] / map.size[0], room[1] / map.size[1]);
  const [left, low] = [0, 1].map((axis) => MARGIN + (room[axis] - by * map.size[axis]) / 2);
  return ([a, b]) => [left + a * by, canvas.clientHeight - low - b * by];
}
// What does not change is kept as a layer: the pool, and the picks as they are filtered and ticked.
// To point at a pick is then two copies and a dot, once a frame at most.
let ground = null, front = null, due = 0, later = 0;
const soon = () => { due ||= requestAnimationFrame(paint); };
const redraw = () => { ground = front = null; soon(); };
function draw() { // whoever types or ticks does not wait for the map
  clearTimeout(later);
  later = setTimeout(() => { front = null; soon(); }, 100);
}
function point(i) {
  if (pointed === i) return;
  pointed = i;
  soon();
}
function paint() {
  due = 0;
  if (!map || !canvas.clientWidth) return;
  const dense = window.devicePixelRatio || 1, to = scale(), style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`);
  const layer = (on, fill) => {
    Object.assign(on, { width: canvas.clientWidth * dense, height: canvas.clientHeight * dense });
    const pen = on.getContext("2d");
    pen.scale(dense, dense);
    fill(pen, (p, radius) => (pen.beginPath(), pen.arc(...to(p), radius, 0, 7)));
    return on;
  };
  ground ??= layer(make("canvas", {}), (pen, dot) => {
    [pen.fillStyle, pen.globalAlpha] = [colour("dot"), 0.55];
    for (const p of map.pool) dot(p, 1.4), pen.fill();
    [pen.strokeStyle, pen.lineWidth, pen.globalAlpha] = [colour("known"), 1.2, 0.75];
    for (const p of map.labeled) dot(p, 1.8), pen.stroke();
  });
  front ??= layer(make("canvas", {}), (pen, dot) => {
    [pen.fillStyle, pen.strokeStyle] = [colour("pick"), colour("surface")];
    map.picks.forEach((p, i) => {
      pen.globalAlpha = !inView.has(i) || ticked.has(picks[i].id) ? 0.25 : 1;
      dot(p, picks.length > 500 ? 2.6 : 4), pen.fill(), pen.stroke();
    });
  });
  layer(canvas, (pen, dot) => {
    for (const below of [ground, front]) pen.drawImage(below, 0, 0, below.width / dense, below.height / dense);
    if (pointed < 0) return;
    [pen.fillStyle, pen.strokeStyle, pen.lineWidth] = [colour("pick"), colour("ink"), 2];
    dot(map.picks[pointed], 7), pen.fill();
    dot(map.picks[pointed], 8), pen.stroke();
  });
}
function nearest(event) {
  const box = canvas.getBoundingClientRect(), to = scale();
  let best = -1, least = 24 ** 2;
  map.picks.forEach((p, i) => {
    const [x, y] = to(p);
    const away = (x - event.clientX + box.left) ** 2 + (y - event.clientY + box.top) ** 2;
    if (away < least && inView.has(i)) [best, least] = [i, away];
  });
  return best;
}
canvas.onpointermove = (event) => {
  const i = nearest(event), tip = $("tip");
  point(i);
  tip.hidden = i < 0;
  if (i < 0) return;
  const pick = picks[i], [x, y] = scale()(map.picks[i]);
  tip.replaceChildren(`${i + 1} `, user("span", `${pick.sign || ""} ${(pick.text[0] || pick.id).slice(0, 80)}`), pick.top ? make("br", {}) : null ?? "",
    pick.top ? user("span", `${pick.top[0][0]}, ${percent(pick.top[0][1])}`) : "");
  tip.style.top = `${y + 12}px`;
  tip.style.left = `${Math.max(0, Math.min(x - 40, canvas.clientWidth - tip.offsetWidth))}px`;
};
canvas.onpointerleave = () => (point(-1), ($("tip").hidden = true));
canvas.onclick = (event) => {
  const i = nearest(event);
  if (i >= 0) go(i);
};
new ResizeObserver(redraw).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
$("map").addEventListener("toggle", redraw);
if (matchMedia("(max-width: 40rem)").matches) $("shares").open = false;
arrange();
