// Draws the page around the messages: the list of conversations, and the box to write in.

import { leaveBranch } from "./branches.js";
import { tool } from "./icons.js";
import { element } from "./markdown.js";
import { messageView, welcome } from "./messages.js";
import { byId, state } from "./state.js";
import { stop } from "./talk.js";
import { Chat, save } from "./tree.js";

const MOST_HEIGHT_PX = 240;

const [thread, scroll, input, picker] = ["thread", "scroll", "input", "model"].map(byId);

export function draw() {
  const path = state.chat.path();
  thread.replaceChildren(...(path.length ? path.map(messageView) : [welcome()]));
  drawChats();
  drawState();
}

function drawChats() {
  byId("chats").replaceChildren(...state.chats.filter((each) => !each.empty).map((each) => {
    const open = element("button", { type: "button", class: "open", title: each.title }, each.title);
    open.addEventListener("click", () => look(each));
    const row = element("div", { class: "chat" }, open, tool("trash", "Forget this conversation", () => forget(each)));
    if (each === state.chat) row.setAttribute("aria-current", "true");
    return row;
  }));
}

export function askForKey(error) {
  byId("key-reason").textContent = error.given ? "This daemon does not know that key." : "This daemon asks for a key.";
  byId("ask-key").showModal();
}

export function drawState() {
  document.body.classList.toggle("running", Boolean(state.running));
  byId("send").setAttribute("aria-label", state.running ? "Stop" : "Send");
  byId("send").disabled = !state.running && !input.value.trim();
  const leaf = state.chat.path().at(-1);
  const branching = !state.running && (state.editing || (leaf && state.chat.children[leaf.id].length > 0) || (!leaf && !state.chat.empty));
  byId("hint").hidden = !branching;
  byId("hint").replaceChildren("Your message begins a new branch here. ", back());
}

function back() {
  const button = element("button", { type: "button", class: "link" }, "Cancel");
  button.addEventListener("click", leaveBranch);
  return button;
}

export function fit() {
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, MOST_HEIGHT_PX)}px`;
  drawState();
}

// ---- Conversations

export function look(each) {
  if (state.running) stop();
  state.editing = null;
  state.chat = each;
  if (state.chat.model && [...picker.options].some((option) => option.value === state.chat.model)) picker.value = state.chat.model;
  document.body.classList.remove("menu-open");
  draw();
  scroll.scrollTop = scroll.scrollHeight;
  if (matchMedia("(hover: hover)").matches) input.focus();
}

export function start() {
  const fresh = state.chats.find((each) => each.empty) ?? new Chat();
  state.chats = [fresh, ...state.chats.filter((each) => each !== fresh)];
  look(fresh);
}

function forget(each) {
  if (state.running?.chat === each) stop();
  state.chats = state.chats.filter((other) => other !== each);
  save(state.chats);
  if (each === state.chat) start();
  else draw();
}
