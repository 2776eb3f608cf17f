// What both pages share: asking the service, errors in words, and elements made without markup.

export const LABELS = ["hate", "offensive", "neither"];
const KEPT = "tweet-tagger-key";

export const $ = (id) => document.getElementById(id);

/** Make an element. Strings become text nodes, so nothing that comes from a text is ever markup. */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** What the service refused, in words. */
export class Refusal extends Error {
  constructor(message, { status = 0, field = null, retryAfter = 0 } = {}) {
    super(message);
    Object.assign(this, { status, field, retryAfter });
  }
}

/** Ask the service; return its JSON, or throw a Refusal that says in words why not. */
export async function ask(path, { body, signal } = {}) {
  const headers = { accept: "application/json" };
  const key = sessionStorage.getItem(KEPT);
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The service cannot be reached. Is it running, and are you online?");
  }
  const content = await reply.json().catch(() => null);
  if (reply.ok && content !== null) return content;
  if (reply.status === 401) askForKey();
  const retryAfter = Number(reply.headers.get("retry-after")) || 0;
  const said = content?.error?.message ?? content?.reason;
  const words = said || `The service answered with status ${reply.status} and no reason.`;
  const wait = retryAfter && reply.status !== 401 ? ` Try again in ${retryAfter} s.` : "";
  throw new Refusal(words + wait, {
    status: reply.status, field: content?.error?.field ?? null, retryAfter,
  });
}

/** Show an error in its place, or hide it again. */
export function tell(place, error) {
  place.hidden = !error;
  place.textContent = error ? error.message : "";
}

function askForKey() {
  const form = $("key-form");
  form.hidden = false;
  form.onsubmit = (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEPT, $("key").value.trim());
    form.hidden = true;
    location.reload();
  };
}

/** Lone halves of characters cannot be sent. */
export const wellFormed = (text) =>
  text.toWellFormed ? text.toWellFormed() : text.replace(/[\ud800-\udfff]/gu, "\ufffd");

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)} %`;
export const capital = (word) => word[0].toUpperCase() + word.slice(1);

/** Say above the page whether the service is ready, and whether its model is a sample's. */
export async function introduce() {
  const banner = $("banner");
  try {
    const ready = await ask("/readyz");
    const known = await ask("/v1/model");
    const manifest = known.manifest;
    banner.replaceChildren();
    if (ready.status === "ok" && manifest.data === "sample") {
      banner.append(el("p", { className: "note warn" }, el("strong", {}, "Sample model. "),
        "It was trained on a few hundred sentences written for this project. It shows how the " +
        "service works; its results mean little."));
    }
    $("served").textContent =
      `Model ${manifest.name} ${manifest.version}, made ${manifest.created.slice(0, 10)} · policy ${known.policy.version}`;
    return known;
  } catch (error) {
    const starts = error.status === 503;
    const said = error.message.replace(/^not ready: /i, "");
    banner.replaceChildren(el("p", { className: "note bad" },
      el("strong", {}, starts ? "Not ready. " : "No answer. "), capital(said)));
    if (starts || error.status === 0) setTimeout(introduce, 5000);
    return null;
  }
}
