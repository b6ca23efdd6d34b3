// Branches of a conversation: begun at any message, switched between, and seen side by side.

import { element, render } from "./markdown.js";
import { byId, state } from "./state.js";
import { answer } from "./talk.js";
import { save } from "./tree.js";
import { draw, drawState, fit } from "./view.js";

const input = byId("input");

export function switchBranch(node, step) {
  if (state.running || !state.chat.turn(node, step)) return;
  state.editing = null;
  save(state.chats);
  draw();
}

export function again(node) {
  if (!state.running) answer(state.chat.nodes[node.parent]);
}

export function edit(node) {
  if (state.running) return;
  state.editing = node;
  input.value = node.content;
  fit();
  drawState();
  for (const view of byId("thread").children) view.classList.remove("edited");
  byId(`m-${node.id}`).classList.add("edited");
  input.focus();
}

export function fork(node) {
  if (state.running) return;
  state.chat.cut(node);
  draw();
  input.focus();
}

export function leaveBranch() {
  if (state.editing) input.value = "";
  state.editing = null;
  const leaf = state.chat.path().at(-1);
  const next = state.chat.children[leaf?.id ?? ""].at(-1);
  if (next) state.chat.chosen[leaf?.id ?? ""] = next;
  fit();
  draw();
}

// Show all branches that begin where `node` does, each to its end, in columns.
export function compare(node) {
  const dialog = byId("beside");
  const columns = state.chat.siblings(node).map((id) => {
    const pick = element("button", { type: "button", class: "plain" }, id === node.id ? "Stay here" : "Go on here");
    pick.addEventListener("click", () => {
      state.chat.chosen[node.parent] = id;
      save(state.chats);
      dialog.close();
      draw();
    });
    const messages = state.chat.pathFrom(id).map((each) => {
      const body = element("div", { class: "body" });
      if (each.role === "user") body.textContent = each.content;
      else body.append(render(each.content));
      return element("article", { class: `message ${each.role}` }, body);
    });
    return element("section", { class: id === node.id ? "column here" : "column" }, element("div", {}, ...messages), pick);
  });
  byId("columns").replaceChildren(...columns);
  dialog.showModal();
}

byId("beside").addEventListener("close", () => byId("columns").replaceChildren());
