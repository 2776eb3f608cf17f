// Shared by the modules: requests to the service, error messages, and elements made without markup.

export const LABELS = ["hate", "offensive", "neither"];
export const ATTRIBUTES = [
  "TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT",
];
export const ACTIONS = { allow: "Allow", review: "Needs review", block: "Block" };
const STORAGE_KEY = "tweet-tagger-key"; // of the API key in sessionStorage

export const $ = (id) => document.getElementById(id);

/** Make an element. Strings become text nodes, so no user's text is ever read as markup. */
export function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in node) node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** A request that failed; the message is written for the user. */
export class RequestError extends Error {
  constructor(message, { status = 0, field = null, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, field, retryAfter });
  }
}

let clockAhead = 0; // milliseconds by which this machine's clock is ahead of the service's

/** The service's time now, in milliseconds, as its replies' Date header says; good to a second. */
export const serviceNow = () => Date.now() - clockAhead;

export const hasKey = () => Boolean(sessionStorage.getItem(STORAGE_KEY));

/** Send a request to the service and return its JSON, null for 204; throw a RequestError if it fails.
 * The method is GET, with a body POST. With `keepalive` it is sent even if the page is closed. */
export async function request(path, { body, method, signal, keepalive = false } = {}) {
  const headers = { accept: "application/json" };
  const key = sessionStorage.getItem(STORAGE_KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, {
      method: method ?? (body === undefined ? "GET" : "POST"),
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
      keepalive,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new RequestError("The service cannot be reached. Is it running, and are you online?");
  }
  const date = Date.parse(reply.headers.get("date"));
  if (date) clockAhead = Date.now() - date;
  const content = await reply.json().catch(() => null);
  if (reply.ok && (content !== null || reply.status === 204)) return content;
  if (reply.status === 401) askForKey();
  const retryAfter = Number(reply.headers.get("retry-after")) || 0;
  const reason = (content?.error?.message ?? content?.reason)?.replace(/\.$/, "");
  const message = reason || `The service answered with status ${reply.status} and no reason`;
  const wait = retryAfter && reply.status !== 401 ? ` Try again in ${retryAfter} s.` : "";
  throw new RequestError(`${message}.${wait}`, {
    status: reply.status, field: content?.error?.field ?? null, retryAfter,
  });
}

/** Show an error in an element; without one, hide the element. */
export function showError(place, error) {
  place.hidden = !error;
  place.textContent = error ? error.message : "";
}

/** Show the form for an API key; with `label` it says what the key is for. */
export function askForKey(label) {
  const form = $("key-form");
  form.hidden = false;
  if (label) form.querySelector("label").textContent = label;
  form.onsubmit = (event) => {
    event.preventDefault();
    sessionStorage.setItem(STORAGE_KEY, $("key").value.trim());
    form.hidden = true;
    location.reload();
  };
}

/** Replace lone surrogates, which JSON in UTF-8 cannot hold. */
export const wellFormed = (text) =>
  text.toWellFormed ? text.toWellFormed() : text.replace(/[\ud800-\udfff]/gu, "\ufffd");

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
export const capital = (word) => word[0].toUpperCase() + word.slice(1);
/** The name of a label or an attribute as the page shows it: SEVERE_TOXICITY is "Severe toxicity". */
export const title = (name) => capital(name.toLowerCase().replaceAll("_", " "));

/** Return a row of a table: a name, a bar and the probability. */
export function barRow(name, probability, emphasised) {
  const bar = el("span", { className: "bar-fill" });
  bar.style.width = `${100 * probability}%`;
  bar.dataset.label = name;
  return el("tr", { className: emphasised ? "chosen" : "" },
    el("th", { scope: "row" }, title(name)),
    el("td", { className: "bar-cell" }, el("span", { className: "bar-track" }, bar)),
    el("td", { className: "number" }, percent(probability)));
}

export const side = (word) => (word.weight > 0 ? "for" : word.weight < 0 ? "against" : "none");
export const signed = (weight) => `${weight < 0 ? "−" : "+"}${Math.abs(weight).toFixed(3)}`;

/** Return a text in pieces: strings, and an element for each of its words, shaded by its weight. */
export function shadeWords(text, words) {
  const letters = Array.from(text); // offsets count characters (code points), not UTF-16 units
  const largest = Math.max(...words.map((word) => Math.abs(word.weight))) || 1;
  const pieces = [];
  let position = 0;
  for (const word of [...words].sort((a, b) => a.begin - b.begin)) {
    pieces.push(letters.slice(position, word.begin).join(""));
    const shade = el("span", { className: `word ${side(word)}`, title: signed(word.weight) },
      letters.slice(word.begin, word.end).join(""));
    shade.style.setProperty("--weight", (Math.abs(word.weight) / largest).toFixed(3));
    pieces.push(shade);
    position = word.end;
  }
  pieces.push(letters.slice(position).join(""));
  return pieces;
}

/** Show in the banner whether the service is ready and serves the sample model; return its model. */
export async function showService() {
  const banner = $("banner");
  try {
    const ready = await request("/readyz");
    const model = await request("/v1/model");
    const manifest = model.manifest;
    banner.replaceChildren();
    if (ready.status === "ok" && manifest.data === "sample") {
      banner.append(el("p", { className: "note warn" }, el("strong", {}, "Sample model. "),
        "It was trained on a few hundred sentences written for this project. It shows how the " +
        "service works; its results mean little."));
    }
    $("served").textContent =
      `Model ${manifest.name} ${manifest.version}, made ${manifest.created.slice(0, 10)} · policy ${model.policy.version}`;
    return model;
  } catch (error) {
    const notReady = error.status === 503;
    const reason = error.message.replace(/^not ready: /i, "");
    banner.replaceChildren(el("p", { className: "note bad" },
      el("strong", {}, notReady ? "Not ready. " : "No reply. "), capital(reason)));
    if (notReady || error.status === 0) setTimeout(showService, 5000);
    return null;
  }
}
