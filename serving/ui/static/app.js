// One text: its result, its explanation and feedback.
import {
  $, ACTIONS, ATTRIBUTES, LABELS, barRow, capital, el, percent, request, shadeWords, showError, showService,
  side, signed, title, wellFormed,
} from "./common.js";

const EXAMPLES = [
  "What a lovely morning, thank you all for the kind words!",
  "you absolute clown, sit down and stop talking rubbish 🤡",
  "People like them should go back to where they came from.",
  "My neighbour called me an idiot, and I just laughed.",
];
const BANDS = { none: "Not toxic", uncertain: "Toxicity uncertain", high: "Toxicity high", strong: "Toxicity strong" };
const WARNINGS = {
  toxicity_near_boundary: "Close to another toxicity band; a small change of the text could change it.",
  action_near_boundary: "Close to another action; a small change of the text could change it.",
  language_not_supported: "This does not look like English, the only language that the model has learned.",
  truncated: "Too long: the model did not read the end of the text.",
  no_words: "The text has no words.",
};

let current = null; // shown on the page: text, prediction, explanation by label or attribute
let controller = null; // AbortController of the running request

tabs();
showService();
for (const text of EXAMPLES) {
  const short = text.length > 34 ? `${text.slice(0, 32).trimEnd()}…` : text;
  const button = el("button", { type: "button", className: "chip", title: text }, short);
  button.onclick = () => { $("text").value = text; count(); classify(); };
  $("examples").append(button);
}
$("text").oninput = count;
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); classify(); }
};
$("form").onsubmit = (event) => { event.preventDefault(); classify(); };
for (const [group, names] of [["Label", LABELS], ["Attribute", ATTRIBUTES]]) {
  $("why-label").append(el("optgroup", { label: group },
    ...names.map((name) => el("option", { value: name }, title(name)))));
}
$("why-label").onchange = () => explain($("why-label").value, controller.signal);
$("feedback").onsubmit = (event) => { event.preventDefault(); feedback(); };
count();

function count() {
  const length = Array.from($("text").value).length;
  $("count").textContent = length ? `${length.toLocaleString("en")} characters` : "";
}

async function classify() {
  const text = wellFormed($("text").value);
  if (!text.trim()) {
    showError($("one-error"), new Error("Please type or paste a text first."));
    $("text").focus();
    return;
  }
  controller?.abort();
  controller = new AbortController();
  const { signal } = controller;
  showError($("one-error"), null);
  $("classify").setAttribute("aria-busy", "true");
  $("one-status").textContent = "Classifying…";
  const stored = !$("private").checked;
  const began = performance.now();
  try {
    const reply = await request("/v1/predict", { body: { texts: [text], do_not_store: !stored }, signal });
    current = { text, reply, stored, prediction: reply.predictions[0], explained: {}, chosen: null };
    show(performance.now() - began);
    explain(current.prediction.label, signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    $("result").hidden = true;
    $("one-status").textContent = "";
    showError($("one-error"), error);
  } finally {
    if (controller?.signal === signal) $("classify").removeAttribute("aria-busy");
  }
}

function notes(prediction) {
  const { label, scores, warnings } = prediction;
  const likeliest = LABELS.reduce((best, other) => scores[other] > scores[best] ? other : best);
  const unlikely = likeliest === label ? [] : [
    `“${capital(likeliest)}” is likelier, but the result is “${capital(label)}” because its probability ` +
    "is above the threshold in the model card."];
  return [...unlikely, ...warnings.map((warning) => WARNINGS[warning] ?? warning)];
}

function show(milliseconds) {
  const { prediction, reply } = current;
  $("result").hidden = false;
  $("label").textContent = capital(prediction.label);
  $("label").dataset.label = prediction.label;
  $("action").textContent = ACTIONS[prediction.action];
  $("action").dataset.action = prediction.action;
  $("band").textContent = BANDS[prediction.toxicity];
  $("scores").replaceChildren(...LABELS.map((label) =>
    barRow(label, prediction.scores[label], label === prediction.label)));
  $("attributes").replaceChildren(...ATTRIBUTES.map((name) =>
    barRow(name, prediction.attributes[name], prediction.attributes[name] >= 0.5)));
  $("warnings").replaceChildren(
    ...notes(prediction).map((note) => el("li", {}, note)));
  const time = new Date().toLocaleTimeString("en-GB");
  $("meta").textContent = `Answered in ${Math.max(1, Math.round(milliseconds))} ms at ${time} by ` +
    `${reply.model.name} ${reply.model.version}, policy ${reply.policy}`;
  $("one-status").textContent = `${capital(prediction.label)}, ` +
    `${percent(prediction.scores[prediction.label])}. ${ACTIONS[prediction.action]}.`;
  raw();
  offerFeedback();
}

function raw() {
  const explanations = Object.values(current.explained);
  const shown = { predict: current.reply, ...(explanations.length && { explain: explanations }) };
  $("raw").textContent = JSON.stringify(shown, null, 2);
}

async function explain(label, signal) {
  const shown = current;
  shown.chosen = label;
  $("why-label").value = label;
  if (!shown.explained[label]) {
    $("why-status").textContent = "Computing the explanation…";
    $("why").classList.add("waiting");
    try {
      const body = { text: shown.text, label, num_features: 500 };
      shown.explained[label] = await request("/v1/explain", { body, signal });
    } catch (error) {
      if (error.name === "AbortError" || shown !== current || shown.chosen !== label) return;
      $("why").hidden = true;
      $("why-status").textContent = `No explanation: ${error.message}`;
      return;
    }
  }
  if (shown !== current || shown.chosen !== label) return;
  $("why").classList.remove("waiting");
  showWords(shown.text, shown.explained[label]);
  raw();
}

function showWords(text, explanation) {
  $("why").hidden = !explanation.words.length;
  if (!explanation.words.length) {
    $("why-status").textContent = "The text has no words to explain.";
    return;
  }
  $("shaded").replaceChildren(...shadeWords(text, explanation.words));
  const largest = Math.max(...explanation.words.map((word) => Math.abs(word.weight))) || 1;
  const seen = new Set();
  const distinct = explanation.words.filter((word) => {
    const key = `${word.word.toLowerCase()} ${word.weight}`;
    return !seen.has(key) && seen.add(key);
  });
  $("weights").replaceChildren(...distinct.slice(0, 30).map((word) => {
    const bar = el("span", { className: `weight-fill ${side(word)}` });
    bar.style.width = `${(50 * Math.abs(word.weight)) / largest}%`;
    return el("tr", {},
      el("th", { scope: "row" }, el("bdi", {}, word.word)),
      el("td", { className: "number" }, signed(word.weight)),
      el("td", {}, el("span", { className: "weight-track" }, bar),
        el("span", { className: "sr" }, side(word))));
  }));
  const top = distinct[0];
  $("why-status").textContent = `The word with the largest weight for “${title(explanation.label).toLowerCase()}” is ` +
    `“${top.word}” (${signed(top.weight)}).`;
  const how = explanation.exact ? "exactly" : "on a seeded sample";
  $("fit").textContent = `A weight is about how much the probability falls without the word. ` +
    `Computed ${how} from ${explanation.scores_used.toLocaleString("en")} scores; ` +
    `the weights explain ${percent(Math.max(0, explanation.r2))} of their variance (R²).`;
}

function offerFeedback() {
  const stored = current.stored;
  $("feedback").hidden = !stored;
  $("feedback-status").textContent = stored ? "" :
    "The text was not stored, so there is nothing to correct.";
  $("right-hint").hidden = !stored;
  $("comment").value = "";
  $("send").disabled = false;
  $("labels").replaceChildren(...LABELS.map((label) => {
    const choice = el("input", { type: "radio", name: "right-label", value: label });
    choice.checked = label === current.prediction.label;
    return el("label", { className: "choice" }, choice, el("span", {}, capital(label)));
  }));
}

async function feedback() {
  const label = $("labels").querySelector("input:checked").value;
  const comment = wellFormed($("comment").value.trim());
  const body = { prediction_id: current.prediction.id, label, ...(comment && { comment }) };
  $("send").disabled = true;
  $("feedback-status").textContent = "Sending…";
  try {
    await request("/v1/feedback", { body });
    $("feedback-status").textContent = `Thank you. Stored as “${label}”.`;
  } catch (error) {
    $("feedback-status").textContent = `Not stored: ${error.message}`;
  }
  $("send").disabled = false;
}

function tabs() {
  const all = [$("tab-one"), $("tab-many"), $("tab-review")];
  const choose = (tab, focus) => {
    for (const each of all) {
      const chosen = each === tab;
      each.setAttribute("aria-selected", String(chosen));
      each.tabIndex = chosen ? 0 : -1;
      const panel = $(each.getAttribute("aria-controls"));
      panel.hidden = !chosen;
      panel.dispatchEvent(new Event(chosen ? "shown" : "left"));
    }
    history.replaceState(null, "", tab === all[0] ? location.pathname : tab.id.replace("tab-", "#"));
    if (focus) tab.focus();
  };
  for (const tab of all) {
    tab.onclick = () => choose(tab, false);
    tab.onkeydown = (event) => {
      const i = all.indexOf(tab), last = all.length - 1;
      const next = { ArrowRight: (i + 1) % all.length, ArrowLeft: (i + last) % all.length, Home: 0, End: last };
      if (!(event.key in next)) return;
      event.preventDefault();
      choose(all[next[event.key]], true);
    };
  }
  const asked = all.find((tab) => tab.id.replace("tab-", "#") === location.hash);
  if (asked) choose(asked, false);
}
