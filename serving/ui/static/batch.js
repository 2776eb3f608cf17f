// Many texts: sends them in batches, then shows a summary and a table, and offers a CSV file.
import {
  $, ATTRIBUTES, LABELS, RequestError, capital, el, percent, request, showError, wellFormed,
} from "./common.js";
import { TableError, guess, read, write } from "./table.js";

const MAX_TEXTS = 5000;
const BATCH_CHARACTERS = 100_000; // in one request
const MAX_RETRIES = 20; // of a batch that an overloaded service refused
const PAGE_ROWS = 50;
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

let batchSize = 128; // texts in one request; halved if the service accepts fewer
let file = null; // { name, rows } of a CSV or JSON lines file, { name, lines } of a text file
let results = [];
let sorted = { by: "row", down: false };
let page = 0;
let controller = null; // AbortController of the running batches

$("file").onchange = () => { readFile($("file").files[0]); $("file").value = ""; };
$("paste").oninput = () => { file = null; $("columns").hidden = true; showFileName(); showCount(); };
$("column").onchange = showCount;
$("header").onchange = () => { showColumns(); showCount(); };
$("batch").onsubmit = (event) => { event.preventDefault(); run(); };
$("stop").onclick = () => controller?.abort();
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
  readFile(event.dataTransfer.files[0]);
};

async function readFile(chosen) {
  if (!chosen) return;
  showError($("many-error"), null);
  try {
    if (chosen.size > 20_000_000) throw new RequestError("The file is over 20 MB; please split it.");
    file = { name: chosen.name, ...read(chosen.name, new Uint8Array(await chosen.arrayBuffer())) };
  } catch (error) {
    const known = error instanceof RequestError || error instanceof TableError;
    showError($("many-error"), new RequestError(known ? error.message : "The file cannot be read."));
    return;
  }
  $("paste").value = "";
  $("columns").hidden = !file.rows;
  if (file.rows) {
    const guessed = guess(file.rows);
    $("header").checked = guessed.header;
    showColumns(guessed.column);
  }
  showFileName();
  showCount();
}

function showFileName() {
  $("file-hint").textContent = file ? file.name :
    `Up to ${MAX_TEXTS.toLocaleString("en")} texts, sent in batches.`;
}

function showColumns(chosen = Number($("column").value)) {
  // Not by Math.max(...): an engine allows some 100,000 arguments.
  const width = file.rows.reduce((most, row) => Math.max(most, row.length), 1);
  $("column").replaceChildren(...Array.from({ length: width }, (_, i) => {
    const names = $("header").checked ? file.rows[0] : [];
    const isTwice = names.filter((name) => name === names[i]).length > 1;
    const name = isTwice ? `${names[i]} (column ${i + 1})` : names[i] || `column ${i + 1}`;
    return el("option", { value: i, selected: i === chosen }, name.slice(0, 60));
  }));
}

function cells() {
  const column = Number($("column").value);
  return file?.rows ? file.rows.slice($("header").checked ? 1 : 0).map((row) => row[column] ?? "")
    : file?.lines ?? $("paste").value.split("\n");
}

function texts() {
  return cells().map(wellFormed).filter((text) => text.trim());
}

function showCount() {
  const count = texts().length, blank = file?.rows ? cells().length - count : 0;
  const parts = [`${count.toLocaleString("en")} texts`];
  if (count > MAX_TEXTS) parts.push(`only the first ${MAX_TEXTS.toLocaleString("en")}`);
  if (blank) parts.push(`${blank.toLocaleString("en")} blank ones are left out`);
  $("ready-count").textContent = count || file ? parts.join(", ") : "";
}

async function run() {
  const wanted = texts().slice(0, MAX_TEXTS);
  showError($("many-error"), wanted.length ? null :
    new RequestError(file ? "The file has no texts in this column."
      : "Please choose a file or paste a list first."));
  if (!wanted.length) return;
  controller = new AbortController();
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
      await sendBatch(wanted, !$("many-private").checked);
    }
  } catch (error) {
    if (error.name !== "AbortError") {
      const inBatch = /^texts\[(\d+)\]/.exec(error.field ?? "");
      const where = inBatch ? `Text ${results.length + Number(inBatch[1]) + 1}: ` : "";
      showError($("many-error"), new RequestError(`${where}${error.message} ` +
        `${results.length} of ${wanted.length} texts were classified.`));
    }
  }
  progress(wanted.length, (performance.now() - began) / 1000);
  $("run").disabled = false;
  $("stop").hidden = true;
  if (results.length) report();
}

async function sendBatch(wanted, stored) {
  const start = results.length;
  let end = start, characters = 0;
  while (end < wanted.length && end - start < batchSize) {
    characters += wanted[end].length;
    if (end > start && characters > BATCH_CHARACTERS) break;
    end++;
  }
  const body = { texts: wanted.slice(start, end), do_not_store: !stored };
  for (let tries = 0; ; tries++) {
    try {
      const reply = await request("/v1/predict", { body, signal: controller.signal });
      reply.predictions.forEach((one, i) =>
        results.push({ ...one, row: start + i + 1, text: wanted[start + i], model: reply.model.version }));
      return;
    } catch (error) {
      if (error.status === 413 && error.field === "texts" && batchSize > 1) {
        batchSize = Math.ceil(batchSize / 2);
        return;
      }
      if (![429, 503].includes(error.status) || tries >= MAX_RETRIES) throw error;
      await pause((error.retryAfter || 1) * 1000);
    }
  }
}

const pause = (milliseconds) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, milliseconds);
  controller.signal.addEventListener("abort", () => {
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
  histogram();
  table();
}

function histogram() {
  const bins = Array.from({ length: 20 }, () => Object.fromEntries(LABELS.map((label) => [label, 0])));
  for (const one of results) {
    const toxic = one.scores.hate + one.scores.offensive;
    bins[Math.min(19, Math.floor(toxic * 20))][one.label]++;
  }
  const most = Math.max(...bins.map((bin) => LABELS.reduce((sum, label) => sum + bin[label], 0)));
  const svg = (name, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const counts = LABELS.map((label) =>
    `${results.filter((one) => one.label === label).length} ${label}`).join(", ");
  const chart = svg("svg", {
    viewBox: "0 0 640 190", role: "img",
    "aria-label": `Histogram of the probability of hate or offence: ${counts}.`,
  });
  bins.forEach((bin, i) => {
    let top = 160;
    for (const label of LABELS) {
      const height = (140 * bin[label]) / most;
      if (!height) continue;
      top -= height;
      chart.append(svg("rect", {
        x: 24 + i * 30, y: top, width: 26, height, rx: 2, class: `fill-${label}`,
      }, svg("title", {}, `${i * 5} to ${i * 5 + 5} %: ${bin[label]} ${label}`)));
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
  const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
  page = Math.min(Math.max(0, page), pages - 1);
  heads();
  $("rows").replaceChildren(...rows.slice(page * PAGE_ROWS, (page + 1) * PAGE_ROWS).map((one) => el("tr", {},
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
  const head = ["row", "text", "label", ...LABELS, ...ATTRIBUTES, "toxicity", "action", "truncated", "id", "model"];
  const rows = chosen().map((one) => [
    one.row, one.text, one.label, ...LABELS.map((label) => one.scores[label]),
    ...ATTRIBUTES.map((name) => one.attributes[name]),
    one.toxicity, one.action, one.truncated, one.id, one.model,
  ]);
  const link = el("a", {
    href: URL.createObjectURL(new Blob([write([head, ...rows])], { type: "text/csv" })),
    download: "tweet-tagger.csv",
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
