// Markdown to DOM nodes. Text of a model never becomes markup: nodes are made one by one, links only to the web.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const TABLE_LINE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const INLINE = /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?)\*\*|__(?=\S)(.+?)__|~~(?=\S)(.+?)~~|\*(?=\S)(.+?)\*|(?<!\w)_(?=\S)(.+?)_(?!\w)|\[([^\]\n]+)\]\(([^()\s]+(?:\([^()\s]*\))?)\)|(https?:\/\/[^\s<>()]*[^\s<>().,;:!?'"])|\\([\\`*_~[\]()#+.!-])/s;
const DEEPEST = 8;

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function render(text) {
  const fragment = document.createDocumentFragment();
  fragment.append(...blocks(text.replace(/\r\n?/g, "\n").split("\n"), 0));
  return fragment;
}

function blocks(lines, depth) {
  const made = [];
  let at = 0;
  const take = (pattern) => {
    const from = at;
    while (at < lines.length && pattern(lines[at])) at += 1;
    return lines.slice(from, at);
  };
  while (at < lines.length) {
    const line = lines[at];
    let match;
    if (!line.trim()) {
      at += 1;
    } else if ((match = FENCE.exec(line))) {
      at += 1;
      const close = new RegExp(`^ {0,3}${match[1][0]}{${match[1].length},}\\s*$`);
      const code = take((next) => !close.test(next));
      at += 1;
      made.push(codeBlock(code.join("\n"), match[2]));
    } else if ((match = HEADING.exec(line))) {
      at += 1;
      made.push(element(`h${Math.min(6, match[1].length + 1)}`, {}, ...inline(match[2], 0)));
    } else if (RULE.test(line)) {
      at += 1;
      made.push(element("hr"));
    } else if (QUOTE.test(line) && depth < DEEPEST) {
      const quoted = take((next) => QUOTE.test(next)).map((next) => next.replace(QUOTE, ""));
      made.push(element("blockquote", {}, ...blocks(quoted, depth + 1)));
    } else if (ITEM.test(line) && depth < DEEPEST) {
      made.push(list(take((next, ) => ITEM.test(next) || /^\s{2,}\S/.test(next) || !next.trim()), depth));
    } else if (line.includes("|") && TABLE_LINE.test(lines[at + 1] ?? "") && lines[at + 1].includes("-")) {
      made.push(table(take((next) => next.includes("|"))));
    } else {
      const from = at;
      take((next) => next.trim() && (at === from || !(FENCE.test(next) || HEADING.test(next) || QUOTE.test(next) || ITEM.test(next) || RULE.test(next))));
      if (at === from) at += 1;
      made.push(element("p", {}, ...inline(lines.slice(from, at).join("\n"), 0)));
    }
  }
  return made;
}

function list(lines, depth) {
  const [, indent, marker] = ITEM.exec(lines[0]);
  const ordered = /\d/.test(marker);
  const made = element(ordered ? "ol" : "ul");
  if (ordered && parseInt(marker, 10) !== 1) made.setAttribute("start", parseInt(marker, 10));
  let item = [];
  const close = () => {
    if (item.length) made.append(element("li", {}, ...tight(blocks(item, depth + 1))));
    item = [];
  };
  for (const line of lines) {
    const match = ITEM.exec(line);
    if (match && match[1].length <= indent.length + 1) {
      close();
      item = [match[3]];
    } else {
      item.push(line.replace(/^\s{1,4}/, ""));
    }
  }
  close();
  return made;
}

// A list item of one paragraph needs no paragraph.
function tight(nodes) {
  return nodes[0]?.localName === "p" ? [...nodes[0].childNodes, ...nodes.slice(1)] : nodes;
}

function table(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
  const sides = cells(lines[1]).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
  const row = (line, kind) =>
    element("tr", {}, ...cells(line).map((cell, column) => element(kind, { class: `to-${sides[column] ?? "left"}` }, ...inline(cell, 0))));
  return element(
    "div", { class: "table" },
    element("table", {}, element("thead", {}, row(lines[0], "th")), element("tbody", {}, ...lines.slice(2).map((line) => row(line, "td")))),
  );
}

function codeBlock(code, language) {
  const copy = element("button", { type: "button", class: "copy-code" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1200);
  });
  return element("figure", { class: "code" }, element("figcaption", {}, element("span", {}, language || "text"), copy), element("pre", {}, element("code", {}, code)));
}

function inline(text, depth) {
  const made = [];
  let match;
  while (text && depth < DEEPEST && (match = INLINE.exec(text))) {
    if (match.index) made.push(text.slice(0, match.index));
    const [whole, , code, bold, bold2, strike, italic, italic2, label, href, url, escaped] = match;
    if (code !== undefined) made.push(element("code", {}, code.replace(/^ (.*[^ ].*) $/, "$1")));
    else if (bold ?? bold2) made.push(element("strong", {}, ...inline(bold ?? bold2, depth + 1)));
    else if (strike) made.push(element("del", {}, ...inline(strike, depth + 1)));
    else if (italic ?? italic2) made.push(element("em", {}, ...inline(italic ?? italic2, depth + 1)));
    else if (label) made.push(...link(href, inline(label, depth + 1), whole));
    else if (url) made.push(...link(url, [url], whole));
    else made.push(escaped);
    text = text.slice(match.index + whole.length);
  }
  if (text) made.push(text);
  return made;
}

function link(href, label, source) {
  if (!/^(https?:\/\/|mailto:)/i.test(href)) return [source];
  return [element("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, ...label)];
}
