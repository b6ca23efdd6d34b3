// The page: a chat with a graph or guest, whose conversations branch, beside a live view of the engine.

import * as api from "./api.js";
import * as engine from "./engine.js";
import "./keyboard.js";
import { element } from "./markdown.js";
import { byId, state } from "./state.js";
import { say, stop } from "./talk.js";
import { theme } from "./theme.js";
import { askForKey, draw, fit, start } from "./view.js";

const MODEL = "promptd.model";

const [thread, input, picker] = ["thread", "input", "model"].map(byId);

async function fillPicker() {
  const names = await api.models();
  const options = (list) => list.map((name) => element("option", { value: name }, name.replace(/^guest\//, "")));
  const guests = names.filter((name) => name.startsWith("guest/"));
  const graphs = names.filter((name) => !name.startsWith("guest/"));
  picker.replaceChildren(
    ...(graphs.length ? [element("optgroup", { label: "Graphs" }, ...options(graphs))] : []),
    ...(guests.length ? [element("optgroup", { label: "Guests" }, ...options(guests))] : []),
  );
  const wanted = state.chat.model ?? localStorage.getItem(MODEL);
  picker.value = names.includes(wanted) ? wanted : names[0];
}

async function begin() {
  theme();
  draw();
  try {
    await fillPicker();
    engine.watch(() => picker.value);
  } catch (error) {
    if (error instanceof api.KeyNeeded) askForKey(error);
    else thread.replaceChildren(element("p", { class: "error" }, error.message));
  }
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (state.running) stop();
  else if (input.value.trim()) say(input.value.trim());
});
input.addEventListener("input", fit);
picker.addEventListener("change", () => {
  localStorage.setItem(MODEL, picker.value);
  engine.glance();
});
byId("new").addEventListener("click", start);
byId("menu").addEventListener("click", () => document.body.classList.toggle("menu-open"));
byId("scrim").addEventListener("click", () => document.body.classList.remove("menu-open"));
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("ask-key").addEventListener("close", () => {
  api.rememberKey(byId("key").value.trim());
  byId("key").value = "";
  begin();
});
begin();
