// Dark and light: as the system says, or as was chosen here.

import { icon } from "./icons.js";
import { byId } from "./state.js";

const THEME = "promptd.theme";
const NEXT = { auto: "light", light: "dark", dark: "auto" };

const chosen = () => localStorage.getItem(THEME) ?? "auto";

export function theme(now = chosen()) {
  localStorage.setItem(THEME, now);
  document.documentElement.dataset.theme = now;
  byId("theme").replaceChildren(icon({ auto: "auto", light: "sun", dark: "moon" }[now]));
  byId("theme").title = { auto: "As the system: light or dark", light: "Light", dark: "Dark" }[now];
}

byId("theme").addEventListener("click", () => theme(NEXT[chosen()]));
