"""Guests as WebAssembly text: what a test wants a guest to do, written against the canonical ABI by hand.

A guest is a component that exports wasi:cli/run (or another interface) and whose body is core WebAssembly. `command`
joins the imports it names, a memory with an allocator, and helpers to print.
"""

from __future__ import annotations

import re

RELEASED = "0.2.0-rc-2024-10-28"
PHASE_3 = "0.2.0-rc-phase-3"

LIBC = """
  (core module $libc
    (memory (export "memory") 2)
    (global $top (mut i32) (i32.const 65536))
    (func (export "realloc") (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
        (then (if (i32.eq (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1)))
                          (i32.const -1)) (then unreachable))))
      (local.get $at)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $memory))
  (alias core export $libc "realloc" (core func $realloc))
"""

STREAMS = """
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $io-error-t))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $out (sub resource)))
    (export "input-stream" (type $in (sub resource)))
    (alias outer 1 $io-error-t (type $e0)) (export "error" (type $e (eq $e0)))
    (type $se0 (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $se0)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $se)))))
    (export "[method]input-stream.blocking-read"
      (func (param "self" (borrow $in)) (param "len" u64) (result (result (list u8) (error $se)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (alias export $streams "input-stream" (type $input-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $o0)) (export "output-stream" (type $o (eq $o0)))
    (export "get-stdout" (func (result (own $o))))))
  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (alias outer 1 $input-stream (type $i0)) (export "input-stream" (type $i (eq $i0)))
    (export "get-stdin" (func (result (own $i))))))
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
"""

SLEEP = """
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $p0)) (export "pollable" (type $p (eq $p0)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))))
"""
SLEEP_LOWERINGS = """
  (core func $after (canon lower (func $clock "subscribe-duration")))
  (core func $block (canon lower (func $poll "[method]pollable.block")))"""
SLEEP_GIVEN = """
    (import "" "after" (func $after (param i64) (result i32)))
    (import "" "block" (func $block (param i32)))"""
"""What a guest imports to sleep inside WASI: `$block` on what `$after` so many nanoseconds returns."""

STREAM_LOWERINGS = """
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $memory)))
  (core func $read (canon lower (func $streams "[method]input-stream.blocking-read")
    (memory $memory) (realloc $realloc)))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $get-stdin (canon lower (func $stdin "get-stdin")))
  (core func $exit (canon lower (func $exit "exit")))
"""

STREAM_EXPORTS = """
    (export "write" (func $write)) (export "read" (func $read)) (export "get-stdout" (func $get-stdout))
    (export "get-stdin" (func $get-stdin)) (export "exit" (func $exit))
"""

HELPERS = """
    (import "" "memory" (memory 0))
    (import "" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
    (import "" "write" (func $write (param i32 i32 i32 i32)))
    (import "" "read" (func $read (param i32 i64 i32)))
    (import "" "get-stdout" (func $get-stdout (result i32)))
    (import "" "get-stdin" (func $get-stdin (result i32)))
    (import "" "exit" (func $exit (param i32)))
"""

PRINT = """
    (global $stdout (mut i32) (i32.const 0))
    (global $stdin (mut i32) (i32.const 0))
    (func $print (param $at i32) (param $size i32)
      (local $part i32)
      (if (i32.eqz (global.get $stdout)) (then (global.set $stdout (call $get-stdout))))
      (block $done (loop $more
        (br_if $done (i32.eqz (local.get $size)))
        (local.set $part (select (i32.const 4096) (local.get $size) (i32.gt_u (local.get $size) (i32.const 4096))))
        (call $write (global.get $stdout) (local.get $at) (local.get $part) (i32.const 16))
        (local.set $at (i32.add (local.get $at) (local.get $part)))
        (local.set $size (i32.sub (local.get $size) (local.get $part)))
        (br $more))))
    ;; print the string whose pointer and length stand at $at
    (func $print-string (param $at i32)
      (call $print (i32.load (local.get $at)) (i32.load (i32.add (local.get $at) (i32.const 4)))))
    ;; read at most 64 bytes of input: their pointer to 32, their number to 36 and as the result; 0 at the end
    (func $input (result i32)
      (if (i32.eqz (global.get $stdin)) (then (global.set $stdin (call $get-stdin))))
      (call $read (global.get $stdin) (i64.const 64) (i32.const 28))
      (if (result i32) (i32.load (i32.const 28)) (then (i32.const 0)) (else (i32.load (i32.const 36)))))
"""

RUN = """
  (func $lifted (result (result)) (canon lift (core func $main "run")))
  (instance $run (export "run" (func $lifted)))
  (export "wasi:cli/run@0.2.0" (instance $run))
"""


def nn(version: str, *, own: bool = False) -> str:
    """Return the imports of all of wasi:nn at `version`; `own`: prompt.init takes its graph by own, not by borrow."""
    load = (
        '(export "load" (func (param "name" string) (result (result (own $graph) (error (own $err))))))'
        if version == PHASE_3
        else """
    (type $encoding0 (enum "openvino" "onnx" "tensorflow" "pytorch" "tensorflowlite" "ggml" "autodetect"))
    (export "graph-encoding" (type $encoding (eq $encoding0)))
    (type $target0 (enum "cpu" "gpu" "tpu"))
    (export "execution-target" (type $target (eq $target0)))
    (export "load" (func (param "builder" (list (list u8))) (param "encoding" $encoding) (param "target" $target)
      (result (result (own $graph) (error (own $err))))))
    (export "load-by-name" (func (param "name" string) (result (result (own $graph) (error (own $err))))))"""
    )
    handle = "own" if own else "borrow"
    return f"""
  (import "wasi:nn/errors@{version}" (instance $errors
    (export "error" (type $err (sub resource)))
    (type $code0 (enum "invalid-argument" "invalid-encoding" "timeout" "runtime-error" "unsupported-operation"
      "too-large" "not-found" "security" "unknown"))
    (export "error-code" (type $code (eq $code0)))
    (export "[method]error.code" (func (param "self" (borrow $err)) (result $code)))
    (export "[method]error.data" (func (param "self" (borrow $err)) (result string)))))
  (alias export $errors "error" (type $error))
  (import "wasi:nn/tensor@{version}" (instance $tensors
    (export "tensor" (type $tensor (sub resource)))
    (type $type0 (enum "FP16" "FP32" "FP64" "BF16" "U8" "I32" "I64"))
    (export "tensor-type" (type $type (eq $type0)))
    (export "[constructor]tensor"
      (func (param "dimensions" (list u32)) (param "ty" $type) (param "data" (list u8)) (result (own $tensor))))
    (export "[method]tensor.dimensions" (func (param "self" (borrow $tensor)) (result (list u32))))
    (export "[method]tensor.ty" (func (param "self" (borrow $tensor)) (result $type)))
    (export "[method]tensor.data" (func (param "self" (borrow $tensor)) (result (list u8))))))
  (alias export $tensors "tensor" (type $tensor))
  (import "wasi:nn/inference@{version}" (instance $inference
    (alias outer 1 $error (type $err0)) (export "error" (type $err (eq $err0)))
    (alias outer 1 $tensor (type $tensor0)) (export "tensor" (type $t (eq $tensor0)))
    (export "graph-execution-context" (type $context (sub resource)))
    (type $named (tuple string (own $t)))
    (export "[method]graph-execution-context.compute"
      (func (param "self" (borrow $context)) (param "inputs" (list $named))
        (result (result (list $named) (error (own $err))))))))
  (alias export $inference "graph-execution-context" (type $execution))
  (import "wasi:nn/graph@{version}" (instance $graphs
    (alias outer 1 $error (type $err0)) (export "error" (type $err (eq $err0)))
    (alias outer 1 $execution (type $exec0)) (export "graph-execution-context" (type $exec (eq $exec0)))
    (export "graph" (type $graph (sub resource)))
    (export "[method]graph.init-execution-context"
      (func (param "self" (borrow $graph)) (result (result (own $exec) (error (own $err))))))
    {load}))
  (alias export $graphs "graph" (type $graph))
  (import "wasi:nn/prompt@{version}" (instance $prompts
    (alias outer 1 $graph (type $graph0)) (export "graph" (type $g (eq $graph0)))
    (export "context" (type $context (sub resource)))
    (export "init" (func (param "graph" ({handle} $g)) (result (result (own $context) (error string)))))
    (export "[method]context.compute"
      (func (param "self" (borrow $context)) (param "prompt" string) (result (result string (error string)))))))
  (alias export $prompts "context" (type $context))
"""


def nn_lowerings(version: str) -> str:
    by_name = "load" if version == PHASE_3 else "load-by-name"
    both = "(memory $memory) (realloc $realloc)"
    load = f'(core func $load (canon lower (func $graphs "load") {both}))' if version == RELEASED else ""
    return f"""
  (core func $load-by-name (canon lower (func $graphs "{by_name}") (memory $memory)))
  {load}
  (core func $init-execution (canon lower (func $graphs "[method]graph.init-execution-context") (memory $memory)))
  (core func $drop-graph (canon resource.drop $graph))
  (core func $init (canon lower (func $prompts "init") {both}))
  (core func $compute (canon lower (func $prompts "[method]context.compute") {both}))
  (core func $drop-context (canon resource.drop $context))
  (core func $error-code (canon lower (func $errors "[method]error.code")))
  (core func $error-data (canon lower (func $errors "[method]error.data") {both}))
  (core func $drop-error (canon resource.drop $error))
  (core func $tensor-new (canon lower (func $tensors "[constructor]tensor") (memory $memory)))
  (core func $tensor-data (canon lower (func $tensors "[method]tensor.data") {both}))
  (core func $drop-tensor (canon resource.drop $tensor))
  (core func $infer (canon lower (func $inference "[method]graph-execution-context.compute") {both}))
"""


NN_FUNCTIONS = {
    "load-by-name": "(param i32 i32 i32)",
    "init-execution": "(param i32 i32)",
    "drop-graph": "(param i32)",
    "init": "(param i32 i32)",
    "compute": "(param i32 i32 i32 i32)",
    "drop-context": "(param i32)",
    "error-code": "(param i32) (result i32)",
    "error-data": "(param i32 i32)",
    "drop-error": "(param i32)",
    "tensor-new": "(param i32 i32 i32 i32 i32) (result i32)",
    "tensor-data": "(param i32 i32)",
    "drop-tensor": "(param i32)",
    "infer": "(param i32 i32 i32 i32)",
}

NN_HELPERS = """
    ;; print the sentence of an error handle, after its code's number
    (func $print-error (param $error i32)
      (i32.store8 (i32.const 48) (i32.add (i32.const 48) (call $error-code (local.get $error))))
      (call $print (i32.const 48) (i32.const 1))
      (call $error-data (local.get $error) (i32.const 40))
      (call $print-string (i32.const 40))
      (call $drop-error (local.get $error)))
"""


def command(
    body: str, *, version: str | None = None, own: bool = False, imports: str = "", lowerings: str = "", given: str = ""
) -> str:
    """Return a command component. `body` is core WebAssembly and defines `(func $main (result i32))`, 0 for success.

    With `version`, all of wasi:nn at it can be called; `imports`, `lowerings` and `given` add further imports.
    """
    functions = (
        {**NN_FUNCTIONS, **({"load": "(param i32 i32 i32 i32 i32)"} if version == RELEASED else {})} if version else {}
    )
    core_imports = "\n".join(f'    (import "" "{name}" (func ${name} {type}))' for name, type in functions.items())
    exports = "\n".join(f'    (export "{name}" (func ${name}))' for name in functions)
    return f"""(component
{STREAMS}{nn(version, own=own) if version else ""}{imports}
{LIBC}{STREAM_LOWERINGS}{nn_lowerings(version) if version else ""}{lowerings}
  (core module $main
{HELPERS}{core_imports}{given}{PRINT}{NN_HELPERS if version else ""}
{body}
    (func (export "run") (result i32) (call $main)))
  (core instance $main (instantiate $main (with "" (instance
    (export "memory" (memory $memory)) (export "realloc" (func $realloc))
{STREAM_EXPORTS}{exports}{_reexport(given)}))))
{RUN})
"""


def _reexport(given: str) -> str:
    return "".join(f' (export "{name}" (func ${name}))' for name in re.findall(r'\(import "" "([^"]+)"', given))


def prompting(graph: str, prompt: str, version: str = RELEASED, *, own: bool = False) -> str:
    """Return a guest that opens a context on `graph`, prints the reply to `prompt`, or the error."""
    return command(
        f"""
    (data (i32.const 1024) "{graph}")
    (data (i32.const 2048) "{prompt}")
    (func $main (result i32)
      (call $load-by-name (i32.const 1024) (i32.const {len(graph.encode())}) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then
        (call $print-error (i32.load (i32.const 68)))
        (return (i32.const 1))))
      (call $init (i32.load (i32.const 68)) (i32.const 72))
      (if (i32.load8_u (i32.const 72)) (then (call $print-string (i32.const 76)) (return (i32.const 1))))
      {"" if own else "(call $drop-graph (i32.load (i32.const 68)))"}
      (call $compute (i32.load (i32.const 76)) (i32.const 2048) (i32.const {len(prompt.encode())}) (i32.const 84))
      (call $print-string (i32.const 88))
      (call $drop-context (i32.load (i32.const 76)))
      (i32.load8_u (i32.const 84)))""",
        version=version,
        own=own,
    )


ECHO_LINES = command("""
    (func $main (result i32)
      (local $size i32)
      (block $end (loop $more
        (local.set $size (call $input))
        (br_if $end (i32.eqz (local.get $size)))
        (call $print (i32.load (i32.const 32)) (local.get $size))
        (br $more)))
      (i32.const 0))""")
"""Prints its standard input as it comes, until the end."""


TYPES = """
  (import "promptd:prompt/types@0.1.0" (instance $types
    (type $role0 (enum "system" "user" "assistant" "tool")) (export "role" (type $role (eq $role0)))
    (type $message0 (record (field "role" $role) (field "content" string)))
    (export "message" (type $message (eq $message0)))))
  (alias export $types "message" (type $message))
"""

CHAT = (
    TYPES
    + """
  (import "promptd:prompt/chat@0.1.0" (instance $chat
    (alias outer 1 $message (type $m0)) (export "message" (type $m (eq $m0)))
    (type $options0 (record
      (field "max-tokens" (option u32)) (field "temperature" (option f32)) (field "top-k" (option u32))
      (field "top-p" (option f32)) (field "min-p" (option f32)) (field "repeat-penalty" (option f32))
      (field "seed" (option u32))
      (field "stop" (list string)) (field "grammar" (option string)) (field "json-schema" (option string))))
    (export "options" (type $options (eq $options0)))
    (type $reason0 (enum "end-of-turn" "stop-sequence" "max-tokens" "context-full" "cancelled"))
    (export "stop-reason" (type $reason (eq $reason0)))
    (type $usage0 (record (field "prompt-tokens" u32) (field "cached-tokens" u32) (field "generated-tokens" u32)))
    (export "usage" (type $usage (eq $usage0)))
    (type $completion0 (record (field "text" string) (field "stop-reason" $reason) (field "usage" $usage)))
    (export "completion" (type $completion (eq $completion0)))
    (type $error0 (variant (case "invalid-argument" string) (case "not-found" string) (case "too-large" string)
      (case "busy" string) (case "timeout" string) (case "security" string) (case "runtime-error" string)))
    (export "error" (type $error (eq $error0)))
    (export "session" (type $session (sub resource)))
    (export "reply" (type $reply (sub resource)))
    (export "[static]session.open" (func (param "graph" string) (param "options" (option $options))
      (result (result (own $session) (error $error)))))
    (export "[method]session.send" (func (param "self" (borrow $session)) (param "messages" (list $m))
      (result (result $completion (error $error)))))
    (export "[method]session.stream" (func (param "self" (borrow $session)) (param "messages" (list $m))
      (result (result (own $reply) (error $error)))))
    (export "[method]session.fork" (func (param "self" (borrow $session))
      (result (result (own $session) (error $error)))))
    (export "[method]session.rewind" (func (param "self" (borrow $session)) (param "turns" u32)
      (result (result (error $error)))))
    (export "[method]reply.next" (func (param "self" (borrow $reply)) (result (result (option string) (error $error)))))
    (export "[method]reply.finish" (func (param "self" (borrow $reply)) (result (result $completion (error $error)))))))
  (alias export $chat "session" (type $session))
  (alias export $chat "reply" (type $reply))
  (alias export $chat "error" (type $chat-error))
  (import "promptd:prompt/tokens@0.1.0" (instance $tokens
    (alias outer 1 $chat-error (type $e0)) (export "error" (type $e (eq $e0)))
    (export "count" (func (param "graph" string) (param "text" string) (result (result u32 (error $e)))))))
"""
)

_BOTH = "(memory $memory) (realloc $realloc)"
CHAT_LOWERINGS = f"""
  (core func $open (canon lower (func $chat "[static]session.open") {_BOTH}))
  (core func $send (canon lower (func $chat "[method]session.send") {_BOTH}))
  (core func $stream (canon lower (func $chat "[method]session.stream") {_BOTH}))
  (core func $fork (canon lower (func $chat "[method]session.fork") {_BOTH}))
  (core func $rewind (canon lower (func $chat "[method]session.rewind") {_BOTH}))
  (core func $next (canon lower (func $chat "[method]reply.next") {_BOTH}))
  (core func $finish (canon lower (func $chat "[method]reply.finish") {_BOTH}))
  (core func $count (canon lower (func $tokens "count") {_BOTH}))
  (core func $drop-session (canon resource.drop $session))
  (core func $drop-reply (canon resource.drop $reply))
"""

CHAT_FUNCTIONS = """
    (import "" "open" (func $open (param i32 i32)))
    (import "" "send" (func $send (param i32 i32 i32 i32)))
    (import "" "stream" (func $stream (param i32 i32 i32 i32)))
    (import "" "fork" (func $fork (param i32 i32)))
    (import "" "rewind" (func $rewind (param i32 i32 i32)))
    (import "" "next" (func $next (param i32 i32)))
    (import "" "finish" (func $finish (param i32 i32)))
    (import "" "count" (func $count (param i32 i32 i32 i32 i32)))
    (import "" "drop-session" (func $drop-session (param i32)))
    (import "" "drop-reply" (func $drop-reply (param i32)))
"""


def chatting(body: str, graph: str = "echo", messages: tuple[str, ...] = ("hello",)) -> str:
    """Return a command whose `body` can call promptd:prompt/chat.

    At 1024 stand the arguments of session.open, `graph` and no options; at 2048 a list of the user's `messages`.
    """
    name, texts = graph.encode(), [message.encode() for message in messages]
    data = [f'(data (i32.const 1024) "{_word(1200)}{_word(len(name))}")', f'(data (i32.const 1200) "{graph}")']
    at = 4096
    for i, text in enumerate(texts):
        data.append(f'(data (i32.const {2048 + 12 * i}) "\\01\\00\\00\\00{_word(at)}{_word(len(text))}")')
        data.append(f'(data (i32.const {at}) "{_bytes(text)}")')
        at += len(text)
    return command("\n".join(data) + body, imports=CHAT, lowerings=CHAT_LOWERINGS, given=CHAT_FUNCTIONS)


EMBEDDINGS = (
    TYPES
    + """
  (import "promptd:prompt/chat@0.1.0" (instance $chat
    (type $error0 (variant (case "invalid-argument" string) (case "not-found" string) (case "too-large" string)
      (case "busy" string) (case "timeout" string) (case "security" string) (case "runtime-error" string)))
    (export "error" (type $error (eq $error0)))))
  (alias export $chat "error" (type $chat-error))
  (import "promptd:prompt/embeddings@0.1.0" (instance $embeddings
    (alias outer 1 $chat-error (type $e0)) (export "error" (type $e (eq $e0)))
    (export "embed" (func (param "graph" string) (param "texts" (list string))
      (result (result (list (list f32)) (error $e)))))))
"""
)


def embedding(*texts: str, graph: str = "echo") -> str:
    """Return a command that prints the vectors of `texts`, each its bytes and a comma, or the error."""
    name, at, data = graph.encode(), 2048 + 8 * len(texts), [f'(data (i32.const 1200) "{graph}")']
    for i, text in enumerate(texts):
        size = len(text.encode())
        data.append(f'(data (i32.const {2048 + 8 * i}) "{_word(at)}{_word(size)}")')
        data.append(f'(data (i32.const {at}) "{_bytes(text.encode())}")')
        at += size
    body = f"""
    (data (i32.const 1300) ",")
    (func $main (result i32)
      (local $vector i32) (local $end i32)
      (call $embed (i32.const 1200) (i32.const {len(name)}) (i32.const 2048) (i32.const {len(texts)}) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (call $print-string (i32.const 72)) (return (i32.const 1))))
      (local.set $vector (i32.load (i32.const 68)))
      (local.set $end (i32.add (local.get $vector) (i32.mul (i32.const 8) (i32.load (i32.const 72)))))
      (block $done (loop $more
        (br_if $done (i32.eq (local.get $vector) (local.get $end)))
        (call $print (i32.load (local.get $vector)) (i32.mul (i32.const 4) (i32.load offset=4 (local.get $vector))))
        (call $print (i32.const 1300) (i32.const 1))
        (local.set $vector (i32.add (local.get $vector) (i32.const 8)))
        (br $more)))
      (i32.const 0))"""
    return command(
        "\n".join(data) + body,
        imports=EMBEDDINGS,
        lowerings=f'(core func $embed (canon lower (func $embeddings "embed") {_BOTH}))',
        given='(import "" "embed" (func $embed (param i32 i32 i32 i32 i32)))',
    )


HANDLER = f"""(component
{TYPES}
  (import "promptd:prompt/chat@0.1.0" (instance $chat
    (type $error0 (variant (case "invalid-argument" string) (case "not-found" string) (case "too-large" string)
      (case "busy" string) (case "timeout" string) (case "security" string) (case "runtime-error" string)))
    (export "error" (type $error (eq $error0)))))
  (alias export $chat "error" (type $error))
  (import "promptd:prompt/output@0.1.0" (instance $output (export "write" (func (param "text" string)))))
{LIBC}
  (core func $write (canon lower (func $output "write") (memory $memory)))
  (core module $main
    (import "" "memory" (memory 0))
    (import "" "write" (func $write (param i32 i32)))
    (data (i32.const 1024) "partial: ")
    (data (i32.const 1100) "that is more than I can read")
    (global $calls (mut i32) (i32.const 0))
    (func (export "respond") (param $messages i32) (param $count i32) (result i32)
      (local $last i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (call $write (i32.const 1024) (i32.const 9))
      ;; "trap" traps; a long message is refused; else the answer is the last message
      (local.set $last
        (i32.add (local.get $messages) (i32.mul (i32.const 12) (i32.sub (local.get $count) (i32.const 1)))))
      (if (i32.eq (i32.load (i32.load (i32.add (local.get $last) (i32.const 4)))) (i32.const 0x70617274))
        (then unreachable))
      (if (i32.gt_u (i32.load (i32.add (local.get $last) (i32.const 8))) (i32.const 20))
        (then
          (i32.store8 (i32.const 64) (i32.const 1))
          (i32.store8 (i32.const 68) (i32.const 2))
          (i32.store (i32.const 72) (i32.const 1100))
          (i32.store (i32.const 76) (i32.const 28)))
        (else
          (i32.store8 (i32.const 64) (i32.const 0))
          (i32.store (i32.const 68) (i32.load (i32.add (local.get $last) (i32.const 4))))
          (i32.store (i32.const 72) (i32.load (i32.add (local.get $last) (i32.const 8))))))
      (i32.const 64)))
  (core instance $main (instantiate $main (with "" (instance
    (export "memory" (memory $memory)) (export "write" (func $write))))))
  (func $respond (param "messages" (list $message)) (result (result string (error $error)))
    (canon lift (core func $main "respond") (memory $memory) (realloc $realloc)))
  (instance $handler (export "respond" (func $respond)))
  (export "promptd:prompt/handler@0.1.0" (instance $handler)))
"""


def _word(value: int) -> str:
    return "".join(f"\\{byte:02x}" for byte in value.to_bytes(4, "little"))


def _bytes(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)
