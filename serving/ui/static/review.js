// Review: shows what the queue gives, sends what the reviewer decides, and can undo it.
//
//   GET /v1/review -> items, leased to this reviewer -> the first is shown -> POST its label -> the next
//
// A decision shows the next text at once. Requests go one after another, in the order of the keys.
import {
  $, ACTIONS, ATTRIBUTES, LABELS, askForKey, barRow, capital, el, hasKey, request, serviceNow, shadeWords,
  signed, wellFormed,
} from "./common.js";

const AHEAD = 3; // items that are leased; more would keep them from other reviewers
const EXPLAIN_AFTER_MS = 250; // a text that is decided sooner needs no explanation
const LOOK_AGAIN_MS = 30_000; // while nothing waits
const RETRY_S = 5; // after an error without Retry-After
const GUARD_MS = 800; // without decisions after a text came back that the reviewer does not expect
const SPOKEN_CHARACTERS = 500; // of a text that a screen reader announces
const MAX_UNDO = 40; // with AHEAD, below the 50 items that a reply has at most
const KEYS_OFF = "tweet-tagger-review-keys-off"; // in localStorage
const DECISIONS = { H: "hate", O: "offensive", N: "neither", U: "unsure", S: "skip" };
const REASONS = {
  random: "random sample",
  disagreement: "reviewers disagree",
  feedback: "feedback contradicts the model",
  second: "second opinion",
  action: "the policy asks for review",
  margin: "close call",
};

let items = []; // leased to this reviewer; the first is shown
let shown = null; // the item that is on the page
let decided = []; // { item, label, note, lost }, the newest last
let sending = []; // ids of the items whose decision or undo is on its way
const notes = new Map(); // what was typed, by the item's id
let counts = null; // reviewed, waiting and agreement, of the last reply
let failed = null; // RequestError that keeps the queue from being read, or a decision from being stored
let last = Promise.resolve(); // the request that was asked for last
let explaining = null; // AbortController
let timer = 0;
let isActive = true; // whether the reviewer did something since the leases were renewed
let isLapsed = false; // the leases ran out while nothing was done
let guardedUntil = 0;

for (const [key, label] of Object.entries(DECISIONS)) {
  const button = el("button", { type: "button" }, capital(label));
  button.dataset.key = key;
  button.dataset.label = label;
  button.onclick = () => decide(label);
  $("decisions").append(button);
}
const buttons = [...$("decisions").children, $("undo")];
for (const button of buttons) {
  button.append(" ", el("kbd", { "aria-hidden": "true" }, button.dataset.key));
}
$("undo").onclick = undo;
$("review-again").onclick = start;
$("review-note").oninput = () => { if (shown) notes.set(shown.prediction_id, $("review-note").value); };
$("review-keys").checked = !localStorage.getItem(KEYS_OFF);
$("review-keys").onchange = offerKeys;
$("review").addEventListener("shown", start);
$("review").addEventListener("left", () => clearTimeout(timer));
document.addEventListener("visibilitychange", () => (isVisible() ? start() : clearTimeout(timer)));
document.addEventListener("keydown", onKey);
window.addEventListener("beforeunload", (event) => { if (sending.length) event.preventDefault(); });
for (const name of ["keydown", "pointerdown", "pointermove", "wheel"]) {
  document.addEventListener(name, () => { isActive = true; }, { passive: true });
}
offerKeys();
if (isVisible()) start();

function isVisible() {
  return !$("review").hidden && document.visibilityState === "visible";
}

function offerKeys() {
  const on = $("review-keys").checked;
  if (on) localStorage.removeItem(KEYS_OFF);
  else localStorage.setItem(KEYS_OFF, "1");
  for (const button of buttons) {
    if (on) button.setAttribute("aria-keyshortcuts", button.dataset.key);
    else button.removeAttribute("aria-keyshortcuts");
    button.querySelector("kbd").hidden = !on;
  }
}

function onKey(event) {
  if (!isVisible()) return;
  if (event.target === $("review-note") && event.key === "Escape") $("review-text-head").focus();
  const isTyping = event.target.closest?.("input:not([type=checkbox]), textarea, select");
  const isOther = event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing;
  if (isTyping || isOther || !$("review-keys").checked) return;
  // On a keyboard without Latin letters the place of the key counts.
  const key = /^[a-z]$/i.test(event.key) ? event.key.toUpperCase() : event.code.replace(/^Key/, "");
  if (key === "Z") undo();
  else if (DECISIONS[key] && shown) decide(DECISIONS[key]);
  else return;
  event.preventDefault();
}

/** Show what waits: the tab was chosen, or the reviewer came back to it. */
function start() {
  isActive = true;
  look();
}

/** Run a request after those that were asked for before. */
function enqueue(task) {
  last = last.then(task, task).finally(schedule);
}

function look() {
  clearTimeout(timer);
  enqueue(fetchItems);
}

async function fetchItems() {
  isActive = isLapsed = false;
  try {
    const limit = Math.min(50, Math.max(AHEAD, items.length) + sending.length);
    const reply = await request(`/v1/review?limit=${limit}`);
    if (failed) say("The service answers again.");
    counts = reply;
    keepLeased(reply.items);
    fail(null);
  } catch (error) {
    error.isFinal = error.status === 409; // the service stores no texts
    if (failed && !error.isFinal && !isAccess(error)) failed = error; // the page says already what failed
    else fail(error, "The queue cannot be read");
  }
  show();
}

/** Keep the items that are still leased to this reviewer, in their order, and add the new ones. */
function keepLeased(leased) {
  const fresh = new Map(leased.map((item) => [item.prediction_id, item]));
  const kept = items.filter((item) => fresh.has(item.prediction_id) || sending.includes(item.prediction_id));
  for (const item of kept) {
    item.lease_until = fresh.get(item.prediction_id)?.lease_until ?? item.lease_until;
    fresh.delete(item.prediction_id);
  }
  const isNew = (item) => !sending.includes(item.prediction_id);
  if (shown && items.includes(shown) && !kept.includes(shown)) {
    say("The text that was here is not yours any more: your time for it ran out, or it was erased.");
    guard();
  }
  items = [...kept, ...[...fresh.values()].filter(isNew)];
}

/** Show a label's decision as done, and send it. */
function decide(label) {
  if (!shown || performance.now() < guardedUntil) return;
  const item = items.shift();
  const note = wellFormed((notes.get(item.prediction_id) ?? "").trim());
  const review = { item, label, note, lost: false };
  decided = [...decided, review].slice(-MAX_UNDO);
  sending.push(item.prediction_id);
  show();
  enqueue(() => send(review));
}

async function send(review) {
  const { item, label, note } = review;
  try {
    await request(pathOf(item), { body: { label, ...(note && { note }) }, keepalive: true });
    count(label, 1);
    fail(null);
    say(label === "skip" ? "Skipped." : `Stored as “${label}”.`);
  } catch (error) {
    takeBack(review, error);
  }
  sent(item);
  if (failed || sending.length) show();
  else await fetchItems();
}

function takeBack(review, error) {
  const { item, label } = review;
  const was = `“${capital(label)}” was not stored`;
  review.lost = true;
  decided = decided.filter((each) => each !== review);
  if (error.status === 409 || error.status === 404) {
    items = items.filter((each) => each !== item); // an undo may have brought it back
    say(error.status === 409 ? `${was}: your time for that text ran out. Others can get it now.`
      : `${was}: that text was erased.`);
    return;
  }
  if (!items.includes(item)) items.unshift(item);
  guard();
  fail(error, was);
}

/** Bring the last text back, and remove its review. */
function undo() {
  const review = decided.pop();
  if (!review) { say("There is nothing to undo."); return; }
  const { item } = review;
  items.unshift(item);
  sending.push(item.prediction_id);
  show();
  enqueue(() => remove(review));
}

async function remove(review) {
  const { item, label } = review;
  try {
    if (!review.lost) {
      await request(pathOf(item), { method: "DELETE", keepalive: true });
      count(label, -1);
      fail(null);
      say(`Undone: “${label}”. The text is back.`);
    }
  } catch (error) {
    items = items.filter((each) => each !== item);
    guard();
    if (error.status === 404 || error.status === 409) {
      say(`“${capital(label)}” cannot be undone: ` +
        (error.status === 404 ? "the text was erased." : "another reviewer has the text now."));
    } else {
      decided.push(review);
      fail(error, `“${capital(label)}” was not undone`);
    }
  }
  sent(item);
  if (failed || sending.length) show();
  else await fetchItems(); // for the time until which the text is leased again
}

/** Count a review until the next reply does; the service counts no skips. */
function count(label, step) {
  if (counts && label !== "skip") counts.reviewed += step;
}

const pathOf = (item) => `/v1/review/${encodeURIComponent(item.prediction_id)}`;

function sent(item) {
  sending.splice(sending.indexOf(item.prediction_id), 1);
}

function guard() {
  guardedUntil = performance.now() + GUARD_MS;
}

/** Show an error in plain words, or with null none. */
function fail(error, what) {
  failed = error;
  const place = $("review-error");
  place.hidden = !error;
  if (!error) { place.replaceChildren(); return; }
  const message = error.isFinal ? error.message : `${what}: ${error.message}`;
  const lines = isAccess(error) ? accessHelp(error) : [el("p", {}, message)];
  error.isFinal ||= isAccess(error);
  if (error.isFinal) items = [];
  place.replaceChildren(...lines);
  say("");
}

const isAccess = (error) => error.status === 401 || error.status === 403;

function accessHelp(error) {
  const reason = !hasKey() ? "Reviews need an API key with the scope review."
    : error.status === 401 ? "The service does not know this API key."
      : "This API key does not have the scope review.";
  askForKey("API key of a reviewer");
  return [
    el("p", {}, `${reason} Enter one at the top of the page.`),
    el("p", {}, "To make one, run this on the service's machine, add the line that it prints to TAGGER_API_KEYS, " +
      "and start the service again:"),
    el("p", {}, el("code", {}, "tweet-tagger key new alice --scope review --scope predict")),
  ];
}

/** Say what happened; a screen reader also gets the text that is shown now. */
function say(message) {
  $("review-status").replaceChildren(message);
  if (!message || !shown) return;
  $("review-status").append(el("span", { className: "sr" }, ` Text: ${shown.text.slice(0, SPOKEN_CHARACTERS)}`));
}

function show() {
  const item = items[0] ?? null;
  const hadFocus = document.activeElement === $("review-again");
  showCounts();
  $("undo").setAttribute("aria-disabled", String(!decided.length));
  const isEmpty = counts && !item && !sending.length;
  const again = failed ? "Try again" : isLapsed ? "Go on" : isEmpty ? "Look again" : "";
  $("review-again").hidden = !again;
  $("review-again").textContent = again;
  $("review-state").textContent = failed || item ? ""
    : isLapsed ? "Your time for the text ran out, and nothing was done here. Others can get it now."
      : isEmpty ? "Nothing waits for review." : "Looking for texts that wait for review…";
  if (item !== shown) showItem(item);
  if (hadFocus && !again) $(item ? "review-text-head" : "review-head").focus();
}

function showItem(item) {
  const hadFocus = $("review-item").contains(document.activeElement);
  const isFirst = !shown;
  shown = item;
  explaining?.abort();
  $("review-item").hidden = !item;
  if (!item) {
    if (hadFocus) $("review-head").focus(); // not on Undo, where one Enter too many would undo
    return;
  }
  $("review-reason").textContent = REASONS[item.reason] ?? item.reason;
  $("review-text").replaceChildren(item.text);
  $("review-scroll").scrollTop = 0;
  $("review-note").value = notes.get(item.prediction_id) ?? "";
  $("review-label").textContent = capital(item.label);
  $("review-label").dataset.label = item.label;
  $("review-action").textContent = ACTIONS[item.action] ?? item.action;
  $("review-action").dataset.action = item.action;
  $("review-scores").replaceChildren(...LABELS.map((label) =>
    barRow(label, item.scores[label], label === item.label)));
  const attributes = ATTRIBUTES.filter((name) => name in (item.attributes ?? {}));
  $("review-attributes").parentElement.hidden = !attributes.length;
  $("review-attributes").replaceChildren(...attributes.map((name) =>
    barRow(name, item.attributes[name], item.attributes[name] >= 0.5)));
  const time = new Date(item.ts).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
  const language = item.language ?? "unknown";
  $("review-meta").textContent = `Answered ${time} by model ${item.model_version}; language: ${language}`;
  if (isFirst) say("A text waits for your decision.");
  explaining = new AbortController();
  explain(item, explaining.signal);
}

function showCounts() {
  if (!counts) return;
  const { kappa, pairs } = counts.agreement;
  const waiting = counts.waiting + items.length;
  const number = (count) => count.toLocaleString("en");
  const tiles = [
    [number(counts.reviewed), "reviewed by you in 24 hours"],
    [counts.waiting >= 5000 ? "5,000+" : number(waiting), "waiting"],
    [kappa === null ? "—" : kappa.toFixed(2),
      `agreement (Cohen's kappa), ${number(pairs)} ${pairs === 1 ? "pair" : "pairs"}`],
  ];
  $("review-counts").replaceChildren(...tiles.map(([count, name]) => el("div", { className: "tile" },
    el("span", { className: "tile-count" }, count), el("span", { className: "tile-name" }, name))));
}

/** Shade the words that weighed, once the reply is there; the review does not wait for it. */
async function explain(item, signal) {
  $("review-why").textContent = "Computing which words weighed…";
  try {
    if (!item.explanation) {
      await new Promise((resolve) => setTimeout(resolve, EXPLAIN_AFTER_MS));
      if (signal.aborted) return;
      const body = { text: item.text, label: item.label, num_features: 500 };
      item.explanation = await request("/v1/explain", { body, signal });
    }
    if (item === shown) showWords(item, item.explanation);
  } catch (error) {
    if (item !== shown || signal.aborted) return;
    const reason = error.status === 403 ? "the key needs the scope predict for it." : error.message;
    $("review-why").textContent = `The words that weighed cannot be shown: ${reason}`;
  }
}

function showWords(item, { words, label, model }) {
  if (!words.length) {
    $("review-why").textContent = "The text has no words to explain.";
    return;
  }
  $("review-text").replaceChildren(...shadeWords(item.text, words));
  const other = model.version === item.model_version ? ""
    : ` The weights are of the model ${model.version}, which serves now.`;
  $("review-why").replaceChildren("Shaded: what ", el("span", { className: "word for" }, "raises"), " or ",
    el("span", { className: "word against" }, "lowers"), ` the probability of “${label}”, most of all “`,
    el("bdi", {}, words[0].word), `” (${signed(words[0].weight)}).${other}`);
}

/** Plan the next look at the queue: to renew the leases, after an error, or while nothing waits. */
function schedule() {
  clearTimeout(timer);
  if (!isVisible() || isLapsed) return;
  if (failed) {
    if (failed.isFinal) return;
    timer = setTimeout(look, 1000 * Math.max(RETRY_S, failed.retryAfter));
  } else if (!items.length) {
    timer = setTimeout(look, LOOK_AGAIN_MS);
  } else {
    timer = setTimeout(renew, Math.max(1000, leaseLeft() / 2));
  }
}

/** The milliseconds until the first of the leases ends. */
const leaseLeft = () => Math.min(...items.map((item) => new Date(item.lease_until))) - serviceNow();

/** Renew the leases of a reviewer who is there; one who did nothing until they ran out is told. */
function renew() {
  if (isActive) { look(); return; }
  const left = leaseLeft();
  if (left > 0) { timer = setTimeout(renew, Math.min(left + 100, 2000)); return; }
  items = [];
  isLapsed = true;
  say("");
  show();
}
