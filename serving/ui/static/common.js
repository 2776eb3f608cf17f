// Shared by both pages: requests to the service, error messages, and elements made without markup.

export const LABELS = ["hate", "offensive", "neither"];
export const ATTRIBUTES = [
  "TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT",
];
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

/** Send a request to the service and return its JSON; throw a RequestError if it fails. */
export async function request(path, { body, signal } = {}) {
  const headers = { accept: "application/json" };
  const key = sessionStorage.getItem(STORAGE_KEY);
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
    throw new RequestError("The service cannot be reached. Is it running, and are you online?");
  }
  const content = await reply.json().catch(() => null);
  if (reply.ok && content !== null) return content;
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

function askForKey() {
  const form = $("key-form");
  form.hidden = false;
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
