// The page: a chat with a graph or guest, whose conversations branch, beside a live view of the engine.

import * as api from "./api.js";
import * as engine from "./engine.js";
import { element, render } from "./markdown.js";
import { Chat, load, save } from "./tree.js";

const MODEL = "promptd.model";
const THEME = "promptd.theme";
const FOLLOW_PX = 80;

const byId = (id) => document.getElementById(id);
const [thread, scroll, input, picker] = ["thread", "scroll", "input", "model"].map(byId);

let chats = load();
let chat = chats[0] ?? new Chat();
if (!chats.includes(chat)) chats.unshift(chat);
let running = null; // {node, abort, began, first, pieces}
let editing = null; // the user message whose new version is being written

// Icons, drawn on a 20 by 20 grid.
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

function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

function tool(name, label, act) {
  const made = element("button", { type: "button", class: "tool", title: label, "aria-label": label }, icon(name));
  made.addEventListener("click", () => act(made));
  return made;
}

// ---- Drawing

function draw() {
  const path = chat.path();
  thread.replaceChildren(...(path.length ? path.map(messageView) : [welcome()]));
  drawChats();
  drawState();
}

function drawChats() {
  byId("chats").replaceChildren(...chats.filter((each) => !each.empty).map((each) => {
    const open = element("button", { type: "button", class: "open", title: each.title }, each.title);
    open.addEventListener("click", () => look(each));
    const row = element("div", { class: "chat" }, open, tool("trash", "Forget this conversation", () => forget(each)));
    if (each === chat) row.setAttribute("aria-current", "true");
    return row;
  }));
}

function drawState() {
  document.body.classList.toggle("running", Boolean(running));
  byId("send").setAttribute("aria-label", running ? "Stop" : "Send");
  byId("send").disabled = !running && !input.value.trim();
  const leaf = chat.path().at(-1);
  const branching = !running && (editing || (leaf && chat.children[leaf.id].length > 0) || (!leaf && !chat.empty));
  byId("hint").hidden = !branching;
  byId("hint").replaceChildren("Your message begins a new branch here. ", back());
}

function back() {
  const button = element("button", { type: "button", class: "link" }, "Cancel");
  button.addEventListener("click", leaveBranch);
  return button;
}

function welcome() {
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

function messageView(node) {
  const body = element("div", { class: "body" });
  const view = element("article", { class: `message ${node.role}`, id: `m-${node.id}` }, body);
  if (node.role === "user") body.textContent = node.content;
  else fillReply(body, node);
  view.append(footer(node));
  return view;
}

function fillReply(body, node) {
  body.replaceChildren(render(node.content));
  if (running?.node === node && !node.content) body.append(element("span", { class: "waiting" }, element("i"), element("i"), element("i")));
  if (node.error) body.append(element("p", { class: "error" }, node.error));
}

function footer(node) {
  const foot = element("footer", {});
  const branches = chat.siblings(node);
  if (branches.length > 1) {
    const at = branches.indexOf(node.id);
    const [left, right] = [tool("left", "Previous branch", () => switchBranch(node, -1)), tool("right", "Next branch", () => switchBranch(node, 1))];
    left.disabled = at === 0;
    right.disabled = at === branches.length - 1;
    foot.append(element("span", { class: "branches" }, left, element("span", {}, `${at + 1} / ${branches.length}`), right));
  }
  const tools = element("span", { class: "tools" });
  if (running?.node !== node) {
    tools.append(tool("copy", "Copy", (button) => copy(node, button)));
    if (node.role === "user") tools.append(tool("edit", "Edit, as a new branch", () => edit(node)));
    else tools.append(tool("again", "Answer again, as a new branch", () => again(node)), tool("fork", "Fork here", () => fork(node)));
  }
  if (node.role === "assistant") foot.append(element("span", { class: "stats" }, ...stats(node)));
  foot.append(tools);
  return foot;
}

function stats(node) {
  const figures = running?.node === node ? measured() : node.stats;
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

function measured() {
  const { began, first, pieces, last } = running;
  if (first === null) return {};
  return { first: first - began, rate: pieces > 2 ? ((pieces - 1) * 1000) / (last - first) : 0 };
}

// ---- Talking

async function say(text) {
  const parent = editing ? chat.nodes[editing.parent] : chat.path().at(-1);
  editing = null;
  const asked = chat.add(parent, { role: "user", content: text });
  input.value = "";
  fit();
  await answer(asked);
}

async function answer(asked) {
  const model = picker.value;
  const messages = chat.pathTo(asked).map(({ role, content }) => ({ role, content }));
  const node = chat.add(asked, { role: "assistant", content: "", model });
  chat.model = model;
  const turn = running = { node, chat, abort: new AbortController(), began: performance.now(), first: null, last: 0, pieces: 0 };
  draw();
  scroll.scrollTop = scroll.scrollHeight;
  let end = {};
  try {
    for await (const event of api.reply(model, messages, turn.abort.signal)) {
      if (event.text) {
        turn.last = performance.now();
        turn.first ??= turn.last;
        if (!turn.pieces++) engine.glance();
        node.content += event.text;
        schedule(turn);
      } else end = event;
    }
  } catch (error) {
    if (turn.abort.signal.aborted) end.stopped = true;
    else if (error instanceof api.KeyNeeded) askKey();
    if (!turn.abort.signal.aborted) node.error = error.message;
  }
  const usage = end.usage;
  node.stats = {
    ...measured(), finish: end.finish, stopped: end.stopped,
    generated: usage?.completion_tokens || 0, prompt: usage?.prompt_tokens || 0,
    cached: usage?.prompt_tokens_details?.cached_tokens || 0,
  };
  if (usage && turn.first !== null && turn.last > turn.first) node.stats.rate = ((usage.completion_tokens - 1) * 1000) / (turn.last - turn.first);
  running = null;
  turn.chat.changed = Date.now();
  save(chats);
  const follow = nearEnd();
  draw();
  if (follow) scroll.scrollTop = scroll.scrollHeight;
  engine.glance();
}

const nearEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < FOLLOW_PX;

// Draw the reply's new text with the next frame.
function schedule(turn) {
  if (turn.frame) return;
  turn.frame = requestAnimationFrame(() => {
    turn.frame = 0;
    const view = byId(`m-${turn.node.id}`);
    if (!view || running !== turn) return;
    const follow = nearEnd();
    fillReply(view.querySelector(".body"), turn.node);
    view.querySelector(".stats")?.replaceChildren(...stats(turn.node));
    if (follow) scroll.scrollTop = scroll.scrollHeight;
  });
}

const stop = () => running?.abort.abort();

// ---- Branches

function switchBranch(node, step) {
  if (running || !chat.turn(node, step)) return;
  editing = null;
  save(chats);
  draw();
}

function again(node) {
  if (!running) answer(chat.nodes[node.parent]);
}

function edit(node) {
  if (running) return;
  editing = node;
  input.value = node.content;
  fit();
  drawState();
  for (const view of thread.children) view.classList.remove("edited");
  byId(`m-${node.id}`).classList.add("edited");
  input.focus();
}

function fork(node) {
  if (running) return;
  chat.cut(node);
  draw();
  input.focus();
}

function leaveBranch() {
  if (editing) input.value = "";
  editing = null;
  const leaf = chat.path().at(-1);
  const next = chat.children[leaf?.id ?? ""].at(-1);
  if (next) chat.chosen[leaf?.id ?? ""] = next;
  fit();
  draw();
}

async function copy(node, button) {
  await navigator.clipboard.writeText(node.content);
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1000);
}

// ---- Conversations

function look(each) {
  if (running) stop();
  editing = null;
  chat = each;
  if (chat.model && [...picker.options].some((option) => option.value === chat.model)) picker.value = chat.model;
  document.body.classList.remove("menu-open");
  draw();
  scroll.scrollTop = scroll.scrollHeight;
  if (matchMedia("(hover: hover)").matches) input.focus();
}

function start() {
  const fresh = chats.find((each) => each.empty) ?? new Chat();
  chats = [fresh, ...chats.filter((each) => each !== fresh)];
  look(fresh);
}

function forget(each) {
  if (running?.chat === each) stop();
  chats = chats.filter((other) => other !== each);
  save(chats);
  if (each === chat) start();
  else draw();
}

// ---- The rest

async function fillPicker() {
  const names = await api.models();
  const options = (list) => list.map((name) => element("option", { value: name }, name.replace(/^guest\//, "")));
  const guests = names.filter((name) => name.startsWith("guest/"));
  const graphs = names.filter((name) => !name.startsWith("guest/"));
  picker.replaceChildren(
    ...(graphs.length ? [element("optgroup", { label: "Graphs" }, ...options(graphs))] : []),
    ...(guests.length ? [element("optgroup", { label: "Guests" }, ...options(guests))] : []),
  );
  const wanted = chat.model ?? localStorage.getItem(MODEL);
  picker.value = names.includes(wanted) ? wanted : names[0];
}

function askKey() {
  byId("ask-key").showModal();
}

function fit() {
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, 240)}px`;
  drawState();
}

function theme(next) {
  const now = next ?? localStorage.getItem(THEME) ?? "auto";
  localStorage.setItem(THEME, now);
  document.documentElement.dataset.theme = now;
  byId("theme").replaceChildren(icon({ auto: "auto", light: "sun", dark: "moon" }[now]));
  byId("theme").title = { auto: "As the system: light or dark", light: "Light", dark: "Dark" }[now];
}

async function begin() {
  theme();
  draw();
  try {
    await fillPicker();
    engine.watch(() => picker.value);
  } catch (error) {
    if (error instanceof api.KeyNeeded) askKey();
    else thread.replaceChildren(element("p", { class: "error" }, error.message));
  }
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) stop();
  else if (input.value.trim()) say(input.value.trim());
});
input.addEventListener("input", fit);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running && input.value.trim()) say(input.value.trim());
  } else if (event.key === "ArrowUp" && !input.value) {
    const last = chat.path().filter((node) => node.role === "user").at(-1);
    if (last) {
      event.preventDefault();
      edit(last);
    }
  }
});
document.addEventListener("keydown", (event) => {
  const typing = event.target === input;
  const leaf = chat.path().at(-1);
  if (event.key === "Escape") {
    if (running) stop();
    else if (!byId("hint").hidden) leaveBranch();
    document.body.classList.remove("menu-open");
  } else if (event.altKey && event.code === "KeyN") {
    event.preventDefault();
    start();
  } else if (event.altKey && event.code === "KeyR" && leaf?.role === "assistant") {
    event.preventDefault();
    again(leaf);
  } else if (event.altKey && /^Arrow(Left|Right)$/.test(event.key)) {
    event.preventDefault();
    const node = chat.path().filter((each) => chat.siblings(each).length > 1).at(-1);
    if (node) switchBranch(node, event.key === "ArrowLeft" ? -1 : 1);
  } else if (!typing && event.key === "/" && !byId("ask-key").open) {
    event.preventDefault();
    input.focus();
  } else if (!typing && event.key === "?" && !byId("ask-key").open) byId("keys").showModal();
});
picker.addEventListener("change", () => {
  localStorage.setItem(MODEL, picker.value);
  engine.glance();
});
byId("new").addEventListener("click", start);
byId("menu").addEventListener("click", () => document.body.classList.toggle("menu-open"));
byId("scrim").addEventListener("click", () => document.body.classList.remove("menu-open"));
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("theme").addEventListener("click", () => theme({ auto: "light", light: "dark", dark: "auto" }[localStorage.getItem(THEME) ?? "auto"]));
byId("ask-key").addEventListener("close", () => {
  api.rememberKey(byId("key").value.trim());
  byId("key").value = "";
  begin();
});
begin();
