// Conversations as trees of messages: every message can have several continuations, of which one is looked at.

const STORE = "promptd.chats";
const MOST = 60;

export const newId = () => crypto.getRandomValues(new Uint32Array(2)).join("-");

export class Chat {
  constructor(saved = {}) {
    this.id = saved.id ?? newId();
    this.model = saved.model ?? null;
    this.nodes = saved.nodes ?? {};
    // Children of each message, and which of them is looked at; "" is the beginning.
    this.children = saved.children ?? { "": [] };
    this.chosen = saved.chosen ?? {};
    this.changed = saved.changed ?? Date.now();
  }

  get title() {
    const first = this.nodes[this.children[""][0]];
    return first?.content.trim().split("\n")[0].replace(/^[#>*\s-]+/, "").slice(0, 60) || "New chat";
  }

  get empty() {
    return this.children[""].length === 0;
  }

  // The messages from the beginning to the end of the branch that is looked at.
  path() {
    const path = [];
    let at = "";
    while ((at = this.chosen[at])) path.push(this.nodes[at]);
    return path;
  }

  // The messages before `node`, and itself.
  pathTo(node) {
    const path = [];
    for (let at = node; at; at = this.nodes[at.parent]) path.unshift(at);
    return path;
  }

  // The message of that id, and those that follow it on the branch that is looked at.
  pathFrom(id) {
    const path = [];
    for (let at = id; at; at = this.chosen[at]) path.push(this.nodes[at]);
    return path;
  }

  add(parent, message) {
    const node = { id: newId(), parent: parent?.id ?? "", ...message };
    this.nodes[node.id] = node;
    this.children[node.id] = [];
    this.children[node.parent].push(node.id);
    this.chosen[node.parent] = node.id;
    this.changed = Date.now();
    return node;
  }

  siblings(node) {
    return this.children[node.parent];
  }

  // Look at the branch `step` places beside that of `node`.
  turn(node, step) {
    const all = this.siblings(node);
    const next = all[all.indexOf(node.id) + step];
    if (next) this.chosen[node.parent] = next;
    return Boolean(next);
  }

  // Let the next message begin a new branch after `node`; null begins at the start.
  cut(node) {
    delete this.chosen[node?.id ?? ""];
  }
}

export function load() {
  try {
    return JSON.parse(localStorage.getItem(STORE) ?? "[]").map((saved) => new Chat(saved));
  } catch {
    return [];
  }
}

export function save(chats) {
  const kept = chats.filter((chat) => !chat.empty).sort((a, b) => b.changed - a.changed).slice(0, MOST);
  // The browser's storage is small: when it is full, the oldest conversations are forgotten.
  for (let count = kept.length; count >= 0; count = Math.floor(count * 0.7) - 1) {
    try {
      localStorage.setItem(STORE, JSON.stringify(kept.slice(0, count)));
      return;
    } catch { /* full */ }
  }
}
