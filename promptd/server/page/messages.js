// Draws messages: their text, what a reply cost, and what can be done with each.

import { again, compare, edit, fork, switchBranch } from "./branches.js";
import { tool } from "./icons.js";
import { element, render } from "./markdown.js";
import { state } from "./state.js";
import { measured, say } from "./talk.js";

export function welcome() {
  const suggestions = ["Explain what a KV cache is to a gardener.", "Write a haiku about WebAssembly.", "List three uses for a brick, as a table."];
  return element(
    "div", { class: "welcome" },
    element("h1", {}, "What shall we talk about?"),
    element("p", {}, "Your words go to this daemon's models, and nowhere else."),
    element("div", { class: "suggestions" }, ...suggestions.map((text) => {
      const button = element("button", { type: "button" }, text);
      button.addEventListener("click", () => say(text));
      return button;
    })),
  );
}

export function messageView(node) {
  const body = element("div", { class: "body" });
  const view = element("article", { class: `message ${node.role}`, id: `m-${node.id}` }, body);
  if (node.role === "user") body.textContent = node.content;
  else fillReply(body, node);
  view.append(footer(node));
  return view;
}

export function fillReply(body, node) {
  body.replaceChildren(render(node.content));
  if (state.running?.node === node && !node.content) body.append(element("span", { class: "waiting" }, element("i"), element("i"), element("i")));
  if (node.error) body.append(element("p", { class: "error" }, node.error));
}

function footer(node) {
  const foot = element("footer", {});
  const branches = state.chat.siblings(node);
  if (branches.length > 1) {
    const at = branches.indexOf(node.id);
    const [left, right] = [tool("left", "Previous branch", () => switchBranch(node, -1)), tool("right", "Next branch", () => switchBranch(node, 1))];
    const both = element("button", { type: "button", class: "both", title: "See the branches side by side" }, `${at + 1} / ${branches.length}`);
    both.addEventListener("click", () => compare(node));
    left.disabled = at === 0;
    right.disabled = at === branches.length - 1;
    foot.append(element("span", { class: "branches" }, left, both, right));
  }
  const tools = element("span", { class: "tools" });
  if (state.running?.node !== node) {
    tools.append(tool("copy", "Copy", (button) => copy(node, button)));
    if (node.role === "user") tools.append(tool("edit", "Edit, as a new branch", () => edit(node)));
    else tools.append(tool("again", "Answer again, as a new branch", () => again(node)), tool("fork", "Fork here", () => fork(node)));
  }
  if (node.role === "assistant") foot.append(element("span", { class: "stats" }, ...stats(node)));
  foot.append(tools);
  return foot;
}

export function stats(node) {
  const figures = state.running?.node === node ? measured() : node.stats;
  const parts = [element("span", { class: "model" }, node.model)];
  const add = (text, about) => parts.push(element("span", { title: about }, text));
  if (figures?.rate) add(`${figures.rate.toFixed(figures.rate < 10 ? 1 : 0)} tokens/s`, "Tokens per second, after the first");
  if (figures?.first != null) add(`${seconds(figures.first)} to first token`, "Time to first token");
  if (figures?.prompt) add(`${figures.cached} of ${figures.prompt} cached`, "Prompt tokens taken from the KV cache");
  if (figures?.generated) add(`${figures.generated} tokens`, "Tokens generated");
  if (figures?.stopped) add("stopped", "You stopped this reply");
  else if (figures?.finish === "length") add("cut at the token limit", "The reply reached its limit");
  return parts;
}

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

async function copy(node, button) {
  await navigator.clipboard.writeText(node.content);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1000);
}
