// The model card: its Markdown as elements, never as markup, and facts from the manifest.
import { $, el, showError, showService } from "./common.js";

const INLINE = /`([^`]+)`|\*\*([^*]+)\*\*|(?<![\w*])\*([^*]+)\*(?!\w)|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;

const model = await showService();
if (!model) {
  $("card-wait").textContent = "";
  showError($("card-error"), new Error("The model card cannot be loaded; see above."));
} else {
  if (model.card) $("card").replaceChildren(...blocks(model.card));
  else $("card-wait").textContent = "This model has no card.";
  facts(model);
}

/** Return the elements of a Markdown text: headings, quotes, lists, tables, fenced code. */
function blocks(markdown) {
  const lines = markdown.split(/\r?\n/);
  const elements = [];
  const run = (test) => {
    const matching = [];
    while (lines.length && test(lines[0])) matching.push(lines.shift());
    return matching;
  };
  if (lines[0] === "---") { // skip the front matter
    lines.shift();
    run((line) => line !== "---");
    lines.shift();
  }
  while (lines.length) {
    const line = lines[0];
    const heading = /^(#{1,6})\s+(.*)/.exec(line);
    if (!line.trim()) lines.shift();
    else if (heading) {
      lines.shift();
      elements.push(el(`h${heading[1].length}`, {}, ...inline(heading[2])));
    } else if (line.startsWith("```")) {
      lines.shift();
      elements.push(el("pre", { tabIndex: 0 }, run((each) => !each.startsWith("```")).join("\n")));
      lines.shift();
    } else if (line.startsWith("|")) elements.push(table(run((each) => each.startsWith("|"))));
    else if (line.startsWith(">")) {
      const quoted = run((each) => each.startsWith(">")).map((each) => each.replace(/^>\s?/, ""));
      elements.push(el("blockquote", {}, ...blocks(quoted.join("\n"))));
    } else if (/^\s*[-*]\s/.test(line)) {
      const items = [];
      for (const each of run((next) => /^\s*[-*]\s|^\s+\S/.test(next))) {
        if (/^\s*[-*]\s/.test(each)) items.push(each.replace(/^\s*[-*]\s+/, ""));
        else items[items.length - 1] += ` ${each.trim()}`;
      }
      elements.push(el("ul", {}, ...items.map((item) => el("li", {}, ...inline(item)))));
    } else {
      const words = run((each) => each.trim() && !/^(#|>|\||```|\s*[-*]\s)/.test(each));
      elements.push(el("p", {}, ...inline((words.length ? words : [lines.shift()]).join(" "))));
    }
  }
  return elements;
}

function table(lines) {
  const cells = (line) => line.replace(/^\||\|\s*$/g, "").split("|").map((cell) => cell.trim());
  const [head, , ...body] = lines.map(cells);
  const heads = head.some((cell) => cell)
    ? [el("thead", {}, el("tr", {}, ...head.map((cell) => el("th", { scope: "col" }, ...inline(cell)))))]
    : [];
  return el("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Figures" },
    el("table", {},
      ...heads,
      el("tbody", {}, ...body.map((row) =>
        el("tr", {}, ...row.map((cell) => el("td", {}, ...inline(cell))))))));
}

function inline(text) {
  const elements = [];
  let position = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, code, strong, emphasis, name, link] = match;
    elements.push(text.slice(position, match.index));
    if (code) elements.push(el("code", {}, code));
    else if (strong) elements.push(el("strong", {}, strong));
    else if (emphasis) elements.push(el("em", {}, emphasis));
    else elements.push(el("a", { href: link, rel: "noreferrer" }, name));
    position = match.index + whole.length;
  }
  elements.push(text.slice(position));
  return elements;
}

function facts({ manifest, policy }) {
  const shown = {
    Version: manifest.version, Made: manifest.created, Base: manifest.base,
    Data: manifest.data === "sample" ? "the bundled sample" : "labelled tweets",
    "Maximum length": `${manifest.max_tokens} tokens`, Quantisation: manifest.quantisation,
    Policy: policy.version,
  };
  $("facts").replaceChildren(...Object.entries(shown).flatMap(([name, value]) =>
    [el("dt", {}, name), el("dd", {}, value)]));
  $("facts-box").hidden = false;
}
