// The live view of the engine: batch width, queue, tokens per second, and the KV cells of each conversation.

import * as api from "./api.js";
import { element } from "./markdown.js";

const QUIET_MS = 1500;
const BUSY_MS = 400;
const POINTS = 60;
const GOLDEN_ANGLE = 137.508;

const byId = (id) => document.getElementById(id);
const widths = Array(POINTS).fill(0);
let before = null;
let timer = null;
let seen = null;

// Begin to look, until the page is hidden; `graph()` is the one that is talked to.
export function watch(graph) {
  const look = async () => {
    clearTimeout(timer);
    let busy = false;
    if (!document.hidden) {
      try {
        const engines = await api.engine();
        busy = draw(engines.find((engine) => engine.graph === graph()) ?? engines[0]);
      } catch {
        byId("engine-dot").className = "dot lost";
      }
    }
    timer = setTimeout(look, busy ? BUSY_MS : QUIET_MS);
  };
  document.addEventListener("visibilitychange", look);
  seen = look;
  look();
}

// Look now: something has begun.
export function glance() {
  seen?.();
}

export const colour = (id) => `hsl(${(id * GOLDEN_ANGLE) % 360} var(--kv-s) var(--kv-l))`;

function draw(engine) {
  byId("engine").hidden = !engine;
  byId("kv-mini").hidden = !engine;
  if (!engine) return false;
  const now = performance.now();
  const busy = engine.running + engine.queue > 0;
  byId("engine-dot").className = busy ? "dot busy" : "dot";
  byId("engine-name").textContent = engine.graph;
  byId("engine-model").textContent = `${engine.device}, ${engine.threads} thread${engine.threads === 1 ? "" : "s"}`;
  byId("engine-model").title = engine.model;
  byId("width").textContent = engine.running;
  byId("queue").textContent = engine.queue;
  const same = before && before.graph === engine.graph && engine.tokens.generated >= before.generated;
  const rate = same ? ((engine.tokens.generated - before.generated) * 1000) / (now - before.at) : 0;
  byId("rate").textContent = rate < 10 ? rate.toFixed(rate ? 1 : 0) : Math.round(rate);
  before = { graph: engine.graph, generated: engine.tokens.generated, at: now };
  widths.push(engine.running);
  widths.shift();
  spark();
  for (const bar of [byId("kv"), byId("kv-mini")]) cells(bar, engine.kv);
  const share = (100 * engine.kv.used) / engine.kv.cells;
  byId("kv-note").textContent = `${engine.kv.used.toLocaleString()} of ${engine.kv.cells.toLocaleString()}`;
  byId("kv").setAttribute("aria-label", `KV cells: ${share.toFixed(1)} percent used by ${engine.kv.conversations.length} conversations`);
  return busy;
}

function cells(bar, kv) {
  const kept = bar.querySelector(".kept") ?? element("i", { class: "kept" });
  const parts = new Map([...bar.children].filter((part) => part !== kept).map((part) => [part.dataset.id, part]));
  for (const { id, cells, running } of kv.conversations) {
    let part = parts.get(String(id));
    if (part) parts.delete(String(id));
    else {
      part = document.createElement("i");
      part.dataset.id = id;
      part.style.background = colour(id);
      bar.append(part);
    }
    part.style.flexGrow = cells;
    part.className = running ? "running" : "";
    part.title = `conversation ${id}: ${cells.toLocaleString()} cells${running ? ", answering" : ""}`;
  }
  for (const part of parts.values()) part.remove();
  // Cells of closed conversations stay until others need them, for prompts that begin alike.
  const held = kv.conversations.reduce((sum, each) => sum + each.cells, 0);
  const others = Math.max(0, kv.used - held);
  kept.style.flexGrow = others;
  kept.hidden = !others;
  kept.title = `kept of closed conversations: ${others.toLocaleString()} cells`;
  bar.append(kept);
  bar.style.setProperty("--free", Math.max(0, kv.cells - Math.max(held, kv.used)));
}

function spark() {
  const most = Math.max(4, ...widths);
  const points = widths.map((width, at) => `${((at / (POINTS - 1)) * 120).toFixed(1)},${(23 - (width / most) * 20).toFixed(1)}`);
  byId("spark").querySelector(".line").setAttribute("d", `M${points.join("L")}`);
  byId("spark").querySelector(".area").setAttribute("d", `M0,24L${points.join("L")}L120,24Z`);
}
