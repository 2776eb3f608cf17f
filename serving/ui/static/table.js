// Reads and writes CSV: plain functions of strings that know nothing of the page.

const NAMES = ["text", "tweet", "comment", "body", "content", "message", "post"];

/** Return the rows of a CSV text. The separator is the most frequent one in the first line. */
export function parse(content) {
  const source = content.replace(/^\ufeff/, "");
  const first = source.slice(0, Math.max(0, source.search(/\r|\n/)) || source.length);
  const separator = [",", ";", "\t"].map((sign) => [first.split(sign).length, sign])
    .sort((a, b) => b[0] - a[0])[0][1];
  const rows = [];
  let row = [], cell = "", quoted = false;
  for (let i = 0; i < source.length; i++) {
    const sign = source[i];
    if (quoted) {
      if (sign !== '"') cell += sign;
      else if (source[i + 1] === '"') { cell += '"'; i++; }
      else quoted = false;
    } else if (sign === '"' && cell === "") quoted = true;
    else if (sign === separator) { row.push(cell); cell = ""; }
    else if (sign === "\n" || sign === "\r") {
      if (sign === "\r" && source[i + 1] === "\n") i++;
      row.push(cell); rows.push(row); row = []; cell = "";
    } else cell += sign;
  }
  if (cell !== "" || row.length) { row.push(cell); rows.push(row); }
  return rows.filter((each) => each.some((value) => value.trim() !== ""));
}

/** Guess which column has the texts and whether the first row has column names. */
export function guess(rows) {
  const names = (rows[0] ?? []).map((name) => name.trim().toLowerCase());
  const known = names.findIndex((name) => NAMES.includes(name));
  if (known >= 0) return { column: known, header: true };
  const body = rows.slice(1, 200);
  const length = (column) => body.reduce((sum, row) => sum + (row[column] ?? "").length, 0);
  const columns = names.map((_, column) => column);
  const column = columns.sort((a, b) => length(b) - length(a))[0] ?? 0;
  return { column, header: names.length > 1 };
}

/** Return rows as CSV. A cell that a spreadsheet would run as a formula becomes text. */
export function write(rows) {
  const cell = (value) => {
    const text = typeof value === "string" && /^[\s]*[=+\-@\t\r]/.test(value) ? `'${value}` : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `\ufeff${rows.map((row) => row.map(cell).join(",")).join("\r\n")}\r\n`;
}
