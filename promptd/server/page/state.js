// What the page knows: the conversations, which of them is looked at, and what is being done in it.

import { Chat, load } from "./tree.js";

export const byId = (id) => document.getElementById(id);

const chats = load();
if (!chats.length) chats.push(new Chat());

export const state = {
  chats,
  chat: chats[0],
  running: null, // {node, chat, abort, began, first, last, pieces}: the reply that is being made
  editing: null, // the user message whose new version is being written
};
