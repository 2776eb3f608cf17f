// Many texts: in parts to the service, then a summary, a table and a file.
import { $, LABELS, Refusal, ask, capital, el, percent, tell, wellFormed } from "./common.js";
import { guess, parse, write } from "./table.js";

const MOST = 5000;
const PART_CHARACTERS = 100_000; // of a request
const MAX_YIELD_S = 20; // how often a part that was refused for want of room is sent again
const PAGE = 50;
const ACTIONS = ["allow", "review", "block"];
const COLUMNS = [
  ["row", "#", (one) => one.row],
  ["text", "Text", (one) => one.text.toLowerCase()],
  ["label", "Label", (one) => LABELS.indexOf(one.label)],
  ["hate", "Hate", (one) => one.scores.hate],
  ["offensive", "Offensive", (one) => one.scores.offensive],
  ["neither", "Neither", (one) => one.scores.neither],
  ["action", "Action", (one) => ACTIONS.indexOf(one.action)],
];

let part = 128; // texts of a request; halved where the service takes fewer
let file = null; // { name, rows } of a CSV, or { name, lines }
let results = [];
let sorted = { by: "row", down: false };
let page = 0;
let stopping = null;

$("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
$("paste").oninput = () => { file = null; $("columns").hidden = true; fileHint(); counted(); };
$("column").onchange = counted;
$("header").onchange = () => { offerColumns(); counted(); };
$("batch").onsubmit = (event) => { event.preventDefault(); run(); };
$("stop").onclick = () => stopping?.abort();
$("download").onclick = download;
$("find").oninput = () => { page = 0; table(); };
$("before").onclick = () => { page--; table(); };
$("after").onclick = () => { page++; table(); };
for (const [id, names] of [["only-label", LABELS], ["only-action", ACTIONS]]) {
  $(id).append(el("option", { value: "" }, "all"),
    ...names.map((name) => el("option", { value: name }, capital(name))));
  $(id).onchange = () => { page = 0; table(); };
}
const drop = $("drop");
drop.ondragover = (event) => { event.preventDefault(); drop.classList.add("over"); };
drop.ondragleave = () => drop.classList.remove("over");
drop.ondrop = (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  take(event.dataTransfer.files[0]);
};

async function take(chosen) {
  if (!chosen) return;
  tell($("many-error"), null);
  let content;
  try {
    if (chosen.size > 20_000_000) throw new Refusal("The file is over 20 MB; please split it.");
    content = new TextDecoder("utf-8", { fatal: true }).decode(await chosen.arrayBuffer());
  } catch (error) {
    const known = error instanceof Refusal;
    tell($("many-error"), known ? error : new Refusal("The file is not text in UTF-8."));
    return;
  }
  file = /\.txt$/i.test(chosen.name)
    ? { name: chosen.name, lines: content.split(/\r?\n/) }
    : { name: chosen.name, rows: parse(content) };
  $("paste").value = "";
  $("columns").hidden = !file.rows;
  if (file.rows) {
    const guessed = guess(file.rows);
    $("header").checked = guessed.header;
    offerColumns(guessed.column);
  }
  fileHint();
  counted();
}

function fileHint() {
  $("file-hint").textContent = file ? file.name :
    `Up to ${MOST.toLocaleString("en")} texts; they are sent in parts.`;
}

function offerColumns(chosen = Number($("column").value)) {
  const width = Math.max(...file.rows.map((row) => row.length), 1);
  $("column").replaceChildren(...Array.from({ length: width }, (_, at) => {
    const name = ($("header").checked && file.rows[0]?.[at]) || `column ${at + 1}`;
    return el("option", { value: at, selected: at === chosen }, name.slice(0, 60));
  }));
}

function texts() {
  const column = Number($("column").value);
  const all = file?.rows ? file.rows.slice($("header").checked ? 1 : 0).map((row) => row[column] ?? "")
    : file?.lines ?? $("paste").value.split("\n");
  return all.map(wellFormed).filter((text) => text.trim());
}

function counted() {
  const count = texts().length;
  $("ready-count").textContent = count ? `${count.toLocaleString("en")} texts` +
    (count > MOST ? `, of which the first ${MOST.toLocaleString("en")}` : "") : "";
}

async function run() {
  const wanted = texts().slice(0, MOST);
  tell($("many-error"), wanted.length ? null :
    new Refusal("Please choose a file or paste a list first."));
  if (!wanted.length) return;
  stopping = new AbortController();
  results = [];
  $("run").disabled = true;
  $("stop").hidden = false;
  $("report").hidden = true;
  $("progress-box").hidden = false;
  $("progress").max = wanted.length;
  const began = performance.now();
  try {
    while (results.length < wanted.length) {
      progress(wanted.length);
      await sendPart(wanted, !$("many-private").checked);
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      const inPart = /^texts\[(\d+)\]/.exec(error.field ?? "");
      const where = inPart ? `Text ${results.length + Number(inPart[1]) + 1}: ` : "";
      tell($("many-error"), new Refusal(`${where}${error.message}. ` +
        `${results.length} of ${wanted.length} texts were classified.`));
    }
  }
  progress(wanted.length, (performance.now() - began) / 1000);
  $("run").disabled = false;
  $("stop").hidden = true;
  if (results.length) report();
}

async function sendPart(wanted, stored) {
  const start = results.length;
  let end = start, characters = 0;
  while (end < wanted.length && end - start < part) {
    characters += wanted[end].length;
    if (end > start && characters > PART_CHARACTERS) break;
    end++;
  }
  const body = { texts: wanted.slice(start, end), do_not_store: !stored };
  for (let tries = 0; ; tries++) {
    try {
      const reply = await ask("/v1/predict", { body, signal: stopping.signal });
      reply.predictions.forEach((one, at) =>
        results.push({ ...one, row: start + at + 1, text: wanted[start + at], model: reply.model.version }));
      return;
    } catch (error) {
      if (error.status === 413 && error.field === "texts" && part > 1) {
        part = Math.ceil(part / 2);
        return;
      }
      if (![429, 503].includes(error.status) || tries >= MAX_YIELD_S) throw error;
      await pause((error.retryAfter || 1) * 1000);
    }
  }
}

const pause = (milliseconds) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, milliseconds);
  stopping.signal.addEventListener("abort", () => {
    clearTimeout(timer);
    reject(new DOMException("stopped", "AbortError"));
  }, { once: true });
});

function progress(all, seconds) {
  $("progress").value = results.length;
  const how = `${results.length.toLocaleString("en")} of ${all.toLocaleString("en")} texts`;
  $("progress-text").textContent = seconds === undefined ? `${how}…` :
    `${how} classified in ${seconds.toFixed(1)} s`;
}

function report() {
  $("report").hidden = false;
  page = 0;
  const tile = (name, count, kind) => el("div", { className: "tile", "data-kind": kind },
    el("span", { className: "tile-count" }, count.toLocaleString("en")),
    el("span", { className: "tile-name" }, `${name}, ${percent(count / results.length)}`));
  $("tiles").replaceChildren(
    ...LABELS.map((label) =>
      tile(capital(label), results.filter((one) => one.label === label).length, label)),
    ...["review", "block"].map((action) =>
      tile(action === "block" ? "To block" : "To review",
        results.filter((one) => one.action === action).length, action)));
  picture();
  table();
}

function picture() {
  const bins = Array.from({ length: 20 }, () => Object.fromEntries(LABELS.map((label) => [label, 0])));
  for (const one of results) {
    const toxic = one.scores.hate + one.scores.offensive;
    bins[Math.min(19, Math.floor(toxic * 20))][one.label]++;
  }
  const most = Math.max(...bins.map((bin) => LABELS.reduce((sum, label) => sum + bin[label], 0)));
  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const counts = LABELS.map((label) =>
    `${results.filter((one) => one.label === label).length} ${label}`).join(", ");
  const chart = svg("svg", {
    viewBox: "0 0 640 190", role: "img",
    "aria-label": `Histogram of the probability of hate or offence: ${counts}.`,
  });
  bins.forEach((bin, at) => {
    let top = 160;
    for (const label of LABELS) {
      const height = (140 * bin[label]) / most;
      if (!height) continue;
      top -= height;
      chart.append(svg("rect", {
        x: 24 + at * 30, y: top, width: 26, height, rx: 2, class: `fill-${label}`,
      }, svg("title", {}, `${at * 5} to ${at * 5 + 5} %: ${bin[label]} ${label}`)));
    }
  });
  chart.append(svg("line", { x1: 20, x2: 626, y1: 160.5, y2: 160.5, class: "axis" }));
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    chart.append(svg("text", { x: 22 + share * 600, y: 180, "text-anchor": "middle" }, percent(share)));
  }
  const legend = el("p", { className: "legend" }, ...LABELS.map((label) =>
    el("span", { className: "key", "data-label": label }, capital(label))));
  $("picture").replaceChildren(chart, legend);
}

function chosen() {
  const find = $("find").value.toLowerCase();
  const label = $("only-label").value, action = $("only-action").value;
  const value = COLUMNS.find(([name]) => name === sorted.by)[2];
  const compare = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : a.row - b.row);
  return results
    .filter((one) => (!label || one.label === label) && (!action || one.action === action) &&
      (!find || one.text.toLowerCase().includes(find)))
    .sort((a, b) => (sorted.down ? compare(b, a) : compare(a, b)));
}

function table() {
  const rows = chosen();
  const pages = Math.max(1, Math.ceil(rows.length / PAGE));
  page = Math.min(Math.max(0, page), pages - 1);
  heads();
  $("rows").replaceChildren(...rows.slice(page * PAGE, (page + 1) * PAGE).map((one) => el("tr", {},
    el("td", { className: "number" }, String(one.row)),
    el("td", { className: "text" }, el("bdi", {}, one.text)),
    el("td", {}, el("span", { className: "label small", "data-label": one.label }, capital(one.label))),
    ...LABELS.map((label) => el("td", { className: "number" }, one.scores[label].toFixed(3))),
    el("td", {}, el("span", { className: "pill", "data-action": one.action }, capital(one.action))))));
  $("rows-status").textContent = rows.length === results.length
    ? `${rows.length.toLocaleString("en")} texts`
    : `${rows.length.toLocaleString("en")} of ${results.length.toLocaleString("en")} texts`;
  $("page").textContent = `Page ${page + 1} of ${pages}`;
  $("before").disabled = page === 0;
  $("after").disabled = page === pages - 1;
  $("pager").hidden = pages === 1;
}

function heads() {
  const focused = document.activeElement?.dataset?.column;
  $("heads").replaceChildren(...COLUMNS.map(([name, title]) => {
    const mine = sorted.by === name;
    const button = el("button", { type: "button", className: "sort" }, title,
      el("span", { "aria-hidden": "true" }, mine ? (sorted.down ? " ↓" : " ↑") : ""));
    button.dataset.column = name;
    button.onclick = () => {
      const falling = ["hate", "offensive", "neither"].includes(name);
      sorted = { by: name, down: mine ? !sorted.down : falling };
      page = 0;
      table();
    };
    const order = mine ? (sorted.down ? "descending" : "ascending") : "none";
    return el("th", { scope: "col", "aria-sort": order }, button);
  }));
  if (focused) $("heads").querySelector(`[data-column="${focused}"]`)?.focus();
}

function download() {
  const head = ["row", "text", "label", "hate", "offensive", "neither", "toxicity", "action", "truncated", "id", "model"];
  const rows = chosen().map((one) => [
    one.row, one.text, one.label, one.scores.hate, one.scores.offensive, one.scores.neither,
    one.toxicity, one.action, one.truncated, one.id, one.model,
  ]);
  const link = el("a", {
    href: URL.createObjectURL(new Blob([write([head, ...rows])], { type: "text/csv" })),
    download: "tweet-tagger.csv",
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
