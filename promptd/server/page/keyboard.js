// The keyboard; `?` shows what it does.

import { again, edit, leaveBranch, switchBranch } from "./branches.js";
import { byId, state } from "./state.js";
import { say, stop } from "./talk.js";
import { start } from "./view.js";

const input = byId("input");

input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!state.running && input.value.trim()) say(input.value.trim());
  } else if (event.key === "ArrowUp" && !input.value) {
    const last = state.chat.path().filter((node) => node.role === "user").at(-1);
    if (last) {
      event.preventDefault();
      edit(last);
    }
  }
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const typing = event.target === input;
  const leaf = state.chat.path().at(-1);
  if (event.key === "Escape") {
    if (state.running) stop();
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
    const node = state.chat.path().filter((each) => state.chat.siblings(each).length > 1).at(-1);
    if (node) switchBranch(node, event.key === "ArrowLeft" ? -1 : 1);
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    input.focus();
  } else if (!typing && event.key === "?") byId("keys").showModal();
});
