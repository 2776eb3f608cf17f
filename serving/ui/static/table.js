// Reads and writes tables: plain functions of strings and bytes that know nothing of the page.
// Papa Parse (papaparse.min.js, a script of the page) reads the CSV; a row that does not fit is an error.

const NAMES = ["text", "tweet", "comment", "comment_text", "body", "content", "message", "post"];
const SHOWN = 5; // lines in a message
const AS_UTF8 = "In Excel, save it as “CSV UTF-8”; elsewhere, choose the encoding UTF-8.";
const SIGNATURES = [
  [[0x50, 0x4b, 3, 4], "The file is a spreadsheet or a ZIP archive. In Excel, save it as “CSV UTF-8”."],
  [[0xd0, 0xcf, 0x11, 0xe0], "The file is an old Excel or Word file. In Excel, save it as “CSV UTF-8”."],
  [[0x1f, 0x8b], "The file is compressed with gzip. Please unpack it first."],
  [[0x50, 0x41, 0x52, 0x31], "The file is Parquet. Please save it as CSV or JSON lines."],
  [[0xff, 0xfe], `The file is UTF-16, not UTF-8. ${AS_UTF8}`],
  [[0xfe, 0xff], `The file is UTF-16, not UTF-8. ${AS_UTF8}`],
];
const FORMULA = /^'*\s*[=+\-@\t\r]/; // what a spreadsheet would run, or what `write` made of it

/** The file cannot be read; the message names its lines. */
export class TableError extends Error {}

/** Return {lines} of a .txt file, and {rows} of JSON lines (the first has the names) or CSV. */
export function read(name, bytes) {
  const content = decode(bytes);
  if (!content.trim()) throw new TableError("The file is empty.");
  if (/\.txt$/i.test(name)) return { lines: content.split("\n") };
  if (/\.(jsonl|ndjson|json)$/i.test(name)) return { rows: parseJsonLines(content) };
  return { rows: withoutGuard(parse(content, name)) };
}

/** Return the text of a file, with \n as its line ends. */
function decode(bytes) {
  for (const [start, message] of SIGNATURES) {
    if (start.every((byte, i) => bytes[i] === byte)) throw new TableError(message);
  }
  const decoder = new TextDecoder("utf-8", { fatal: true });
  try {
    const content = decoder.decode(bytes).replace(/\r\n?/g, "\n");
    refuse(content.split("\n").map((line, i) => (line.includes("\0") ? [i + 1, "a NUL byte"] : null)));
    return content;
  } catch (error) {
    if (error instanceof TableError) throw error;
  }
  const wrong = [];
  for (let line = 1, start = 0; start < bytes.length; line++) {
    const end = bytes.indexOf(10, start) < 0 ? bytes.length : bytes.indexOf(10, start);
    try { decoder.decode(bytes.subarray(start, end)); } catch { wrong.push([line, "not UTF-8"]); }
    start = end + 1;
  }
  refuse(wrong, AS_UTF8);
}

/** Throw the first of the wrong lines, and how many there are; each is [line, problem]. */
function refuse(lines, advice = "") {
  const wrong = lines.filter(Boolean);
  if (!wrong.length) return;
  const first = wrong.slice(0, SHOWN).map(([line, problem]) => `line ${line}: ${problem}`).join("; ");
  const count = wrong.length > SHOWN ? `; ${wrong.length.toLocaleString("en")} lines in all` : "";
  throw new TableError(`The file cannot be read: ${first}${count}. ${advice}`.trim());
}

/** Return the rows of a CSV text; TableError if a row has other fields than the first. */
export function parse(content, name = "") {
  const given = /^"?sep=(.)"?(\n|$)/.exec(content); // Excel writes it for itself
  const body = given ? content.slice(given[0].length) : content;
  const delimiter = given ? given[1] : separator(body, name);
  const { data, errors } = Papa.parse(body, { delimiter, newline: "\n" });
  const rows = [], wrong = [], starts = [];
  const misquoted = new Set(errors.filter((error) => error.type === "Quotes").map((error) => error.row));
  let line = given ? 2 : 1;
  data.forEach((row, i) => {
    const start = line;
    line += 1 + row.reduce((sum, cell) => sum + cell.split("\n").length - 1, 0);
    const quotes = misquoted.has(i);
    if (!quotes && !row.some((cell) => cell.trim())) return; // a blank line
    rows.push(row);
    starts.push(start);
    if (quotes) wrong.push([start, "a quotation mark is not closed, or not doubled"]);
    else if (row.length !== rows[0].length) {
      wrong.push([start, `${row.length} fields, the first line has ${rows[0].length}`]);
    }
  });
  refuse(wrong, "A text with a separator or a quotation mark needs quotation marks; with one text on " +
    "each line, name the file .txt.");
  refuse(rows.map((row, i) => (swallowed(rows, i, delimiter)
    ? [starts[i], "a cell has other rows in it, as if a quotation mark was too much"] : null)));
  return rows;
}

/** Return the usual separator of such a file, or the one that its first line has instead. */
function separator(body, name) {
  const usual = /\.tsv$/i.test(name) ? "\t" : ",";
  return [usual, ",", ";", "\t"].find((delimiter) =>
    Papa.parse(body.trimStart(), { delimiter, newline: "\n", preview: 1 }).data[0]?.length > 1) ?? usual;
}

/** Tell whether a cell contains the rows between two stray quotation marks: its first or last line
 * has what the other columns have, a value of another row or a number. serving/tables.py has it too. */
function swallowed(rows, i, delimiter) {
  const row = rows[i], width = row.length;
  return row.some((cell, column) => {
    const lines = cell.split("\n");
    const right = lines[0].split(delimiter).slice(1), left = lines.at(-1).split(delimiter).slice(0, -1);
    if (lines.length === 1 || width === 1 || right.length !== width - 1 - column || left.length !== column) {
      return false;
    }
    const found = [...left, cell, ...right];
    const isUsual = (value, j) => j === column || value === "" || (isNumber(value) && isNumber(row[j])) ||
      rows.some((other) => other[j] === value);
    return [...left, ...right].some(Boolean) && found.every(isUsual);
  });
}

const isNumber = (value) => /^-?\d+([.,]\d+)?$/.test(value);

/** Return the values of JSON lines as texts, under a first row with the names. */
export function parseJsonLines(content) {
  if (content.trimStart().startsWith("[")) {
    throw new TableError("The file is a JSON array. Please write one object on each line.");
  }
  const records = [], names = new Set();
  refuse(content.split("\n").map((line, i) => {
    if (!line.trim()) return null;
    try {
      const record = JSON.parse(line);
      if (record === null || typeof record !== "object" || Array.isArray(record)) throw new SyntaxError();
      Object.keys(record).forEach((name) => names.add(name));
      records.push(record);
      return null;
    } catch {
      return [i + 1, "not a JSON object"];
    }
  }));
  const text = (value) => (typeof value === "string" ? value : value === undefined || value === null ? ""
    : Array.isArray(value) ? value.join(" ") : JSON.stringify(value));
  return [[...names], ...records.map((record) => [...names].map((name) => text(record[name])))];
}

/** Guess which column has the texts and whether the first row has column names. */
export function guess(rows) {
  const names = (rows[0] ?? []).map((name) => name.trim().toLowerCase());
  const known = NAMES.map((name) => names.indexOf(name)).find((column) => column >= 0);
  if (known !== undefined) return { column: known, header: true };
  const body = rows.slice(1, 200);
  const length = (column) => body.reduce((sum, row) => sum + (row[column] ?? "").length, 0);
  const columns = names.map((_, column) => column);
  const column = columns.sort((a, b) => length(b) - length(a))[0] ?? 0;
  return { column, header: names.length > 1 };
}

/** Return rows as CSV. A cell that a spreadsheet would run as a formula becomes text. */
export function write(rows) {
  const cell = (value) => {
    const text = typeof value === "string" && FORMULA.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `\ufeff${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}

/** Return the rows that `write` was given, if it wrote them for this page. */
function withoutGuard(rows) {
  const names = rows[0];
  const isOurs = ["row", "text", "label", "hate"].every((name, i) => names[i] === name) &&
    names.at(-2) === "id" && names.at(-1) === "model";
  if (!isOurs) return rows;
  return rows.map((row) => row.map((value) =>
    (value.startsWith("'") && FORMULA.test(value) ? value.slice(1) : value)));
}
