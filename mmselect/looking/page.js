"use strict";
// What users wrote reaches the page as text only: no string is ever read as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const { picks, facets } = data;
const $ = (id) => document.getElementById(id);
const count = (n) => n.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}\u00a0%`;

function make(tag, props, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const user = (tag, text, name = "") =>
  make(tag, { className: `user ${name}`, dir: "auto", textContent: text });

// ---- the head of the page

const { pool, made } = data;
document.documentElement.style.setProperty("--thumbnail", `${data.thumbnail}px`);
$("title").textContent = `${count(pool.picks)} pick${pool.picks === 1 ? "" : "s"} from ${pool.name}`;
const few = picks.length < pool.picks ? ` The first ${count(picks.length)} have a card.` : "";
const how = Object.fromEntries(made.rows);
const by = made.strategy ? `Picked by ${made.strategy}${"seed" in how ? `, seed ${how.seed},` : ""}${"mmselect" in how ? ` with mmselect ${how.mmselect}` : ""} from` : "From";
$("lede").textContent =
  `${by} ${count(pool.candidates)} candidates; ${count(pool.labeled)} samples are labeled.${few}`;
const told = [...made.rows, ...made.parameters, ...made.warnings.map((line) => ["note", line])];
if (made.summary) told.unshift(["strategy", made.summary]);
for (const [word, said] of told) $("made").append(make("dt", { textContent: word }), user("dd", said));
$("how").hidden = !told.length;

// ---- ticks, kept by the browser where it lets us

const KEY = `mmselect look ${data.key}`;
const ticked = new Set();
try {
  for (const id of JSON.parse(localStorage.getItem(KEY) || "[]")) ticked.add(id);
} catch { /* a browser may keep nothing for files */ }

function tick(i, on) {
  if (on) ticked.add(picks[i].id);
  else ticked.delete(picks[i].id);
  if (built[i]) mark(built[i], on);
  try {
    localStorage.setItem(KEY, JSON.stringify([...ticked]));
  } catch { /* as above */ }
  tell();
  draw();
}
function mark(element, on) {
  element.classList.toggle("ticked", on);
  element.querySelector("input").checked = on;
}
const listed = () => picks.filter((pick) => ticked.has(pick.id)).map((pick) => `${pick.id}\n`).join("");

$("save").onclick = () => {
  const link = make("a", { download: "exclude.txt" });
  link.href = URL.createObjectURL(new Blob([listed()], { type: "text/plain" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
$("copy").onclick = async () => {
  try {
    await navigator.clipboard.writeText(listed());
  } catch {
    const area = make("textarea", { value: listed() });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
};

// ---- cards

const built = new Array(picks.length);

function picture(of, pick) {
  if (of && of[0] === "picture")
    return make("img", { src: of[1], alt: pick.text[0] || pick.id, loading: "lazy", decoding: "async" });
  if (of && of[0] === "link") return make("a", { href: of[1], rel: "noreferrer noopener", textContent: of[1] });
  if (of) return make("p", { className: "absent", textContent: { missing: "no picture", outside: "picture not opened" }[of[0]] || "picture not readable" });
  return pick.sign ? make("span", { className: "sign", textContent: pick.sign }) : null;
}

function said(who, [name, share], kind) {
  return make("div", { className: kind, title: `${who}: ${name}, ${percent(share)} sure` },
    make("span", { className: "who", textContent: who }), user("span", name, "class"),
    make("span", { className: "sure", textContent: percent(share) }));
}

const absent = (who) => make("div", {}, make("span", { className: "who", textContent: who }),
  make("span", { className: "who", textContent: "not there" }), make("span", {}));

function says(pick) {
  const box = make("div", { className: "says" });
  if (pick.top) {
    const meter = make("span", { className: "meter" });
    for (const [, share] of pick.top) meter.append(bar(share));
    box.append(said("fused", pick.top[0], "first"), meter);
  }
  for (const [head, name, share] of pick.heads)
    box.append(name === null ? absent(head) : said(head, [name, share], pick.top && pick.top[0][0] !== name ? "other" : ""));
  return box.childElementCount ? box : null;
}
function bar(share) {
  const part = make("i", {});
  part.style.width = `${100 * share}%`;
  return part;
}

function near([at, similarity]) {
  const known = data.labeled[at];
  const shown = picture(known.image && known.image[0] === "picture" ? known.image : null, { ...known, text: [known.text] });
  return make("div", { className: shown ? "near" : "near plain" }, shown,
    make("span", { title: known.id }, "nearest labeled, ", make("b", { textContent: similarity.toFixed(2) }), ": ",
      known.label === null ? null : user("span", known.label, "label"), known.label === null ? null : ", ",
      user("span", known.text || known.id)));
}

function why(pick) {
  const lines = [];
  if (pick.stands !== null)
    lines.push(make("div", { title: "candidates that have no pick more similar to them" }, "stands for ",
      make("b", { textContent: count(pick.stands) }), ` candidate${pick.stands === 1 ? "" : "s"}, ${percent(pick.stands / pool.candidates)}`));
  if (pick.score !== null)
    lines.push(make("div", {}, made.gain ? "gain " : "score ", make("b", { textContent: String(+pick.score.toPrecision(4)) })));
  if (pick.near) lines.push(near(pick.near));
  return lines.length ? make("div", { className: "why" }, ...lines) : null;
}

function details(pick) {
  const list = make("dl", {});
  const rest = (pick.top || []).slice(1).map(([name, share]) => `${name} ${percent(share)}`);
  const rows = [["id", pick.id], ["row", String(pick.row)], ...(rest.length ? [["or else", rest.join(", ")]] : []), ...pick.more];
  for (const [word, value] of rows) list.append(user("dt", word), user("dd", value));
  return make("details", { className: "details" }, make("summary", { textContent: "more", tabIndex: -1 }), list);
}

function card(i) {
  if (built[i]) return built[i];
  const pick = picks[i], [first, ...others] = pick.text;
  const box = make("input", { type: "checkbox", tabIndex: -1, onchange: () => tick(i, box.checked) });
  box.setAttribute("aria-label", `do not label ${pick.id}`);
  const element = make("li", { className: "card", tabIndex: -1 },
    make("div", { className: "look" }, picture(pick.image, pick)),
    make("span", { className: "rank", textContent: `${i + 1}` }),
    make("label", { className: "tick" }, "skip", box),
    make("div", { className: "body" },
      make("div", {}, user("h3", first || pick.id, `clamp ${!first ? "id" : first.length > 60 ? "long" : ""}`),
        ...others.filter(Boolean).map((text) => user("p", text, "text clamp")),
        pick.label === null ? null : make("p", { className: "label" }, "labeled ", user("span", pick.label))),
      says(pick), why(pick), details(pick)));
  element.dataset.i = i;
  element.setAttribute("aria-label", `pick ${i + 1}: ${first || pick.id}`);
  if (ticked.has(pick.id)) mark(element, true);
  return (built[i] = element);
}

// ---- which cards, in which order

const doubt = (pick) => (pick.top ? 1 - pick.top[0][1] : 0);
const ORDERS = {
  "pick order": null,
  "most in doubt": picks.some((p) => p.top) && ((a, b) => doubt(picks[b]) - doubt(picks[a])),
  "stands for most": picks.some((p) => p.stands !== null) && ((a, b) => picks[b].stands - picks[a].stands),
  "least like what is labeled": picks.some((p) => p.near) && ((a, b) => picks[a].near[1] - picks[b].near[1]),
  "largest score": picks.some((p) => p.score !== null) && ((a, b) => picks[b].score - picks[a].score),
  "predicted class": picks.some((p) => p.top) && ((a, b) => picks[a].top[0][0].localeCompare(picks[b].top[0][0])),
};
for (const [name, order] of Object.entries(ORDERS))
  if (order !== false) $("sort").append(make("option", { textContent: name, value: name }));

$("filter").append(make("option", { textContent: "all picks", value: "" }), make("option", { textContent: "ticked", value: "ticked" }),
  make("option", { textContent: "not ticked", value: "not ticked" }));
facets.forEach((facet, f) => {
  const group = make("optgroup", { label: facet.name });
  facet.values.forEach((value, v) => {
    if (facet.picked[v]) group.append(make("option", { textContent: `${value} (${facet.picked[v]})`, value: `${f} ${v}` }));
  });
  $("filter").append(group);
});

const words = picks.map((pick) => [pick.id, pick.label, pick.sign, ...pick.text, ...(pick.top || []).map(([name]) => name),
  ...pick.heads.map(([, name]) => name || ""), ...pick.more.map(([, value]) => value)].join("\n").toLowerCase());

function fits(i, wanted, filter) {
  if (!wanted.every((word) => words[i].includes(word))) return false;
  if (filter === "ticked" || filter === "not ticked") return ticked.has(picks[i].id) === (filter === "ticked");
  if (!filter) return true;
  const [f, v] = filter.split(" ").map(Number);
  return facets[f].of[i] === v;
}

let shown = [], rest = [], inView = new Set();
function arrange() {
  const wanted = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = picks.map((_, i) => i).filter((i) => fits(i, wanted, $("filter").value));
  const order = ORDERS[$("sort").value];
  if (order) shown.sort((a, b) => order(a, b) || a - b);
  inView = new Set(shown);
  const first = shown.slice(0, 60).map(card);
  $("cards").replaceChildren(...first);
  rest = shown.slice(60);
  stop(first[0]);
  $("none").hidden = shown.length > 0;
  setTimeout(() => more());
  tell();
  draw();
  part();
}
// the others follow as the end comes near, so that a page of thousands is as light as one of sixty
function more(until) {
  const near = () => until ? !until() : $("end").getBoundingClientRect().top < 3 * innerHeight;
  while (rest.length && near()) $("cards").append(...rest.splice(0, 60).map(card));
}
// where nothing else is to be done, the cards that nobody has seen are made too
const idle = window.requestIdleCallback || ((work) => setTimeout(() => work({ timeRemaining: () => 4 }), 50));
function prepare(left, i = 0) {
  while (i < picks.length && left.timeRemaining() > 2) card(i++);
  if (i < picks.length) idle((again) => prepare(again, i));
}
idle(prepare);
new IntersectionObserver(() => more(), { rootMargin: "200%" }).observe($("end"));
function tell() {
  const some = shown.length < picks.length ? `${count(shown.length)} of ` : "";
  $("count").textContent = `${some}${count(picks.length)}${ticked.size ? `, ${count(listed().split("\n").length - 1)} ticked` : ""}`;
  $("save").disabled = $("copy").disabled = !ticked.size;
}
function reset() {
  $("search").value = $("filter").value = "";
  arrange();
}
$("search").oninput = $("filter").onchange = $("sort").onchange = arrange;
$("reset").onclick = reset;

// ---- going from card to card

// one card at a time is a stop of the tab key
let atStop = null;
function stop(element) {
  if (atStop) atStop.tabIndex = -1;
  atStop = element || null;
  if (atStop) atStop.tabIndex = 0;
}
function go(i) {
  if (!inView.has(i)) reset();
  more(() => card(i).isConnected);
  stop(card(i));
  card(i).focus();
}
function beside(element, step) {
  const row = element.getBoundingClientRect();
  const [x, y] = [row.left + row.width / 2, row.top];
  let best = null, least = Infinity;
  for (let other = element; (other = step > 0 ? other.nextElementSibling : other.previousElementSibling); ) {
    const box = other.getBoundingClientRect();
    if (box.top === y) continue;
    const away = Math.abs(box.left + box.width / 2 - x) + Math.abs(box.top - y);
    if (away < least) [best, least] = [other, away];
    else if (Math.abs(box.top - y) > least + row.width) break;
  }
  return best;
}
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input[type=search], select, textarea");
  if (event.key === "Escape") {
    if (event.target === $("search")) $("search").value = "";
    reset();
    document.activeElement.blur();
  } else if (event.key === "/" && !typing) $("search").focus();
  else if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  else if (!walk(event)) return;
  event.preventDefault();
});
function walk(event) {
  const at = event.target.closest(".card");
  const cards = $("cards");
  if (!at) {
    if (!event.key.startsWith("Arrow") || event.target.closest("button, summary, a") || !cards.firstElementChild) return false;
    go(+cards.firstElementChild.dataset.i);
    return true;
  }
  if (event.target.closest("a, summary")) return false;
  if (event.key === " " && event.target.type === "checkbox") return false;
  if (event.key === " ") tick(+at.dataset.i, !ticked.has(picks[+at.dataset.i].id));
  else if (event.key === "Enter") open(at);
  else {
    const next = {
      ArrowRight: () => at.nextElementSibling, ArrowLeft: () => at.previousElementSibling,
      ArrowDown: () => beside(at, 1), ArrowUp: () => beside(at, -1),
      Home: () => cards.firstElementChild, End: () => (more(() => !rest.length), cards.lastElementChild),
    }[event.key];
    if (!next) return false;
    const element = next();
    if (element) go(+element.dataset.i);
  }
  return true;
}
function open(element) {
  const box = element.querySelector("details");
  box.open = !box.open;
  element.scrollIntoView({ block: "nearest" });
}
$("cards").addEventListener("toggle", (event) => event.target.closest(".card").classList.toggle("open", event.target.open), true);
for (const kind of ["focusin", "pointerover"])
  $("cards").addEventListener(kind, (event) => {
    const element = event.target.closest(".card");
    point(element ? +element.dataset.i : -1);
  });
$("cards").addEventListener("pointerleave", () => point(-1));

// ---- shares

let facetAt = 0, all = false;
const MOST = 12;
$("shares").hidden = !facets.length;
facets.forEach((facet, f) =>
  $("parts").append(make("button", { type: "button", textContent: facet.name, onclick: () => ((facetAt = f), (all = false), part()) })));
$("all").onclick = () => ((all = !all), part());

function part() {
  const facet = facets[facetAt];
  if (!facet) return;
  [...$("parts").children].forEach((button, f) => button.setAttribute("aria-pressed", f === facetAt));
  const share = (v) => facet.picked[v] / pool.picks;
  const some = facet.values.map((_, v) => v).slice(0, all ? Infinity : MOST);
  const most = Math.max(...some.map((v) => Math.max(share(v), facet.random[v][2])), 1e-9);
  $("values").replaceChildren(...some.map((v) => {
    const [expected, low, high] = facet.random[v];
    const beyond = share(v) < low || share(v) > high;
    const track = make("span", { className: "track" });
    place(track, "band", low / most, (high - low) / most);
    place(track, "mark", expected / most);
    place(track, beyond ? "dot beyond" : "dot", share(v) / most);
    const button = make("button", { type: "button", onclick: () => choose(v),
      title: `${facet.values[v]}: ${count(facet.picked[v])} picks, ${percent(share(v))}; random picks ${percent(low)} to ${percent(high)}; the pool ${percent(expected)}` },
      user("span", facet.values[v], "name"), track,
      make("span", { className: "number" }, make("b", { textContent: count(facet.picked[v]) }), percent(share(v))));
    button.setAttribute("aria-pressed", $("filter").value === `${facetAt} ${v}`);
    return make("li", {}, button);
  }));
  $("all").hidden = facet.values.length <= MOST;
  $("all").textContent = all ? "Fewer" : `All ${count(facet.values.length)}`;
}
function place(track, name, left, width) {
  const element = make("i", { className: name });
  element.style.left = `${100 * left}%`;
  if (width !== undefined) element.style.width = `${100 * width}%`;
  track.append(element);
}
function choose(v) {
  const value = `${facetAt} ${v}`;
  if (facets[facetAt].picked[v]) $("filter").value = $("filter").value === value ? "" : value;
  arrange();
}
