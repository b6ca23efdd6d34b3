// Talks to the daemon: models, the live view of the engine, and streamed replies.

const KEY = "promptd.key";
const STREAM_ENDS = "[DONE]";

export class KeyNeeded extends Error {
  constructor(message, given) {
    super(message);
    this.given = given; // whether a key was sent, which the daemon does not know
  }
}

export function rememberKey(key) {
  localStorage.setItem(KEY, key);
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  const key = localStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store" });
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).error.message;
  } catch { /* not our shape: the status has to do */ }
  throw response.status === 401 ? new KeyNeeded(message, Boolean(key)) : new Error(message);
}

export async function models() {
  return (await (await ask("/v1/models")).json()).data.map((model) => model.id);
}

export async function engine() {
  return (await (await ask("/v1/engine")).json()).data;
}

// Yields {text} for each piece of the reply, and {usage, finish} once at its end.
export async function* reply(model, messages, signal) {
  const response = await ask("/v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ model, messages, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  let finish = null;
  for await (const data of events(response.body)) {
    if (data === STREAM_ENDS) return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    if (chunk.usage) yield { usage: chunk.usage, finish };
    const choice = chunk.choices?.[0];
    if (!choice) continue;
    finish = choice.finish_reason ?? finish;
    if (choice.delta.content) yield { text: choice.delta.content };
  }
}

// Yields the data of each server-sent event.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    let end;
    while ((end = buffer.indexOf("\n\n")) >= 0) {
      for (const line of buffer.slice(0, end).split("\n")) if (line.startsWith("data: ")) yield line.slice(6);
      buffer = buffer.slice(end + 2);
    }
  }
}
