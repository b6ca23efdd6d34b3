// Lines in and out over WASI streams: the QuickJS in the component has neither `console` nor `TextEncoder`.
import { getStderr } from "wasi:cli/stderr@0.2.0";
import { getStdin } from "wasi:cli/stdin@0.2.0";
import { getStdout } from "wasi:cli/stdout@0.2.0";

const CHUNK = 4096; // bytes that blocking-write-and-flush takes

// UTF-8 by way of percent-encoding.
const encode = (text) => Uint8Array.from(unescape(encodeURIComponent(text)), (byte) => byte.charCodeAt(0));
const decode = (bytes) => decodeURIComponent(escape(bytes));

function write(stream, line) {
  const bytes = encode(`${line}\n`);
  for (let start = 0; start < bytes.length; start += CHUNK) {
    stream.blockingWriteAndFlush(bytes.slice(start, start + CHUNK));
  }
}

export const print = (line) => write(getStdout(), line);
export const printError = (line) => write(getStderr(), line);

/** The lines of stdin, without their ends, as they come. */
export function* lines() {
  const stdin = getStdin();
  let rest = "";
  for (let bytes; (bytes = read(stdin)); ) {
    const complete = (rest + String.fromCharCode(...bytes)).split("\n");
    rest = complete.pop();
    for (const line of complete) yield decode(line).trimEnd();
  }
  if (rest) yield decode(rest);
}

function read(stream) {
  try {
    return stream.blockingRead(CHUNK);
  } catch {
    return undefined; // the end
  }
}
