// The page's icons, and the small buttons that carry them.

import { element } from "./markdown.js";

// Drawn on a 20 by 20 grid.
const ICONS = {
  copy: "M7 7h8.5v8.5H7zM4.5 13V4.5H13",
  again: "M15.5 10a5.5 5.5 0 1 1-1.6-3.9M15.5 3.5v3h-3",
  fork: "M6 4v12M6 12c0-4 8-2 8-6V4M4 6l2-2 2 2M12 6l2-2 2 2",
  edit: "M4 16l.8-3.2L13 4.6l2.4 2.4-8.2 8.2z",
  left: "M12 5l-5 5 5 5",
  right: "M8 5l5 5-5 5",
  trash: "M4.5 6h11M8 6V4.5h4V6M6 6l.7 10h6.6L14 6",
  sun: "M10 6.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM10 2v1.5M10 16.5V18M2 10h1.5M16.5 10H18M4.3 4.3l1.1 1.1M14.6 14.6l1.1 1.1M4.3 15.7l1.1-1.1M14.6 5.4l1.1-1.1",
  moon: "M16 11.8A6.5 6.5 0 1 1 8.2 4a5.2 5.2 0 0 0 7.8 7.8z",
  auto: "M10 3.5a6.5 6.5 0 1 0 0 13zM10 3.5a6.5 6.5 0 1 1 0 13",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

export function tool(name, label, act) {
  const made = element("button", { type: "button", class: "tool", title: label, "aria-label": label }, icon(name));
  made.addEventListener("click", () => act(made));
  return made;
}
