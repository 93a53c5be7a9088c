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
function draw() {
  if (!map || !canvas.clientWidth) return;
  const dense = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * dense;
  canvas.height = canvas.clientHeight * dense;
  const pen = canvas.getContext("2d"), to = scale();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
  pen.scale(dense, dense);
  const dots = (points, radius, paint) => {
    for (const p of points) {
      pen.beginPath();
      pen.arc(...to(p), radius, 0, 7);
      paint();
    }
  };
  pen.fillStyle = colour("dot");
  pen.globalAlpha = 0.55;
  dots(map.pool, 1.4, () => pen.fill());
  pen.globalAlpha = 0.75;
  [pen.strokeStyle, pen.lineWidth] = [colour("known"), 1.2];
  dots(map.labeled, 1.8, () => pen.stroke());
  [pen.fillStyle, pen.strokeStyle, pen.lineWidth] = [colour("pick"), colour("surface"), 1];
  const radius = picks.length > 500 ? 2.6 : 4;
  map.picks.forEach((p, i) => {
    pen.globalAlpha = !inView.has(i) || ticked.has(picks[i].id) ? 0.25 : 1;
    dots([p], radius, () => (pen.fill(), pen.stroke()));
  });
  pen.globalAlpha = 1;
  if (pointed >= 0) {
    dots([map.picks[pointed]], 7, () => pen.fill());
    [pen.strokeStyle, pen.lineWidth] = [colour("ink"), 2];
    dots([map.picks[pointed]], 8, () => pen.stroke());
  }
}
function point(i) {
  if (pointed === i) return;
  pointed = i;
  draw();
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
new ResizeObserver(draw).observe(canvas);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
$("map").addEventListener("toggle", draw);
if (matchMedia("(max-width: 40rem)").matches) $("shares").open = false;
arrange();
