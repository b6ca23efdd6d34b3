// Talks to the model: sends what was typed, and shows the reply as it comes.

import * as api from "./api.js";
import * as engine from "./engine.js";
import { fillReply, stats } from "./messages.js";
import { byId, state } from "./state.js";
import { save } from "./tree.js";
import { askForKey, draw, fit } from "./view.js";

const FOLLOW_PX = 80;

const [scroll, input, picker] = ["scroll", "input", "model"].map(byId);

export async function say(text) {
  const parent = state.editing ? state.chat.nodes[state.editing.parent] : state.chat.path().at(-1);
  state.editing = null;
  const asked = state.chat.add(parent, { role: "user", content: text });
  input.value = "";
  fit();
  await answer(asked);
}

export async function answer(asked) {
  const model = picker.value;
  const messages = state.chat.pathTo(asked).map(({ role, content }) => ({ role, content }));
  const node = state.chat.add(asked, { role: "assistant", content: "", model });
  state.chat.model = model;
  const turn = state.running = { node, chat: state.chat, abort: new AbortController(), began: performance.now(), first: null, last: 0, pieces: 0 };
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
    else if (error instanceof api.KeyNeeded) askForKey(error);
    if (!turn.abort.signal.aborted) node.error = error.message;
  }
  const usage = end.usage;
  node.stats = {
    ...measured(), finish: end.finish, stopped: end.stopped,
    generated: usage?.completion_tokens || 0, prompt: usage?.prompt_tokens || 0,
    cached: usage?.prompt_tokens_details?.cached_tokens || 0,
  };
  if (usage && turn.first !== null && turn.last > turn.first) node.stats.rate = ((usage.completion_tokens - 1) * 1000) / (turn.last - turn.first);
  state.running = null;
  turn.chat.changed = Date.now();
  save(state.chats);
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
    if (!view || state.running !== turn) return;
    const follow = nearEnd();
    fillReply(view.querySelector(".body"), turn.node);
    view.querySelector(".stats")?.replaceChildren(...stats(turn.node));
    if (follow) scroll.scrollTop = scroll.scrollHeight;
  });
}

export const stop = () => state.running?.abort.abort();

// What is known of the reply that is being made: ms to its first piece, and pieces per second since.
export function measured() {
  const { began, first, pieces, last } = state.running;
  if (first === null) return {};
  return { first: first - began, rate: pieces > 2 ? ((pieces - 1) * 1000) / (last - first) : 0 };
}
