;; Asks the graph "chat" a question and prints the answer. A whole component as text: what is inside every toolchain's output.
(component
  ;; What it imports: of each interface the part it uses (wit/wasi-nn-phase-3.wit, wit/wasi-cli.wit).
  (import "wasi:nn/errors@0.2.0-rc-phase-3" (instance $errors
    (export "error" (type $error (sub resource)))
    (export "[method]error.data" (func (param "self" (borrow $error)) (result string)))))
  (alias export $errors "error" (type $error))

  (import "wasi:nn/graph@0.2.0-rc-phase-3" (instance $graphs
    (alias outer 1 $error (type $error))
    (export "graph" (type $graph (sub resource)))
    (export "load" (func (param "name" string) (result (result (own $graph) (error (own $error))))))))
  (alias export $graphs "graph" (type $graph))

  (import "wasi:nn/prompt@0.2.0-rc-phase-3" (instance $prompts
    (alias outer 1 $graph (type $graph))
    (export "context" (type $context (sub resource)))
    (export "init" (func (param "graph" (borrow $graph)) (result (result (own $context) (error string)))))
    (export "[method]context.compute"
      (func (param "self" (borrow $context)) (param "prompt" string) (result (result string (error string)))))))

  (import "wasi:io/error@0.2.0" (instance $io-errors (export "error" (type (sub resource)))))
  (alias export $io-errors "error" (type $io-error))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $io-error (type $io-error))
    (type $cases (variant (case "last-operation-failed" (own $io-error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $cases)))
    (export "output-stream" (type $output-stream (sub resource)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $output-stream)) (param "contents" (list u8)) (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))

  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $output-stream))
    (export "get-stdout" (func (result (own $output-stream))))))

  ;; Its memory, which strings go through. `realloc` gives the host room for a string it returns: always the same here.
  (core module $Memory
    (memory (export "memory") 16)
    (data (i32.const 0) "chat")
    (data (i32.const 16) "Are dogs real?")
    (func (export "realloc") (param $old i32) (param $old-size i32) (param $align i32) (param $size i32) (result i32)
      (i32.const 1024)))
  (core instance $memory (instantiate $Memory))
  (alias core export $memory "memory" (core memory $memory))
  (alias core export $memory "realloc" (core func $realloc))

  ;; The imports as core functions, in which everything is a number: a handle, or an address. The last parameter of some says
  ;; where the result goes: its tag (0 ok, 1 error), and 4 bytes on the value.
  (core func $load (canon lower (func $graphs "load") (memory $memory)))
  (core func $error-data (canon lower (func $errors "[method]error.data") (memory $memory) (realloc $realloc)))
  (core func $init (canon lower (func $prompts "init") (memory $memory) (realloc $realloc)))
  (core func $compute (canon lower (func $prompts "[method]context.compute") (memory $memory) (realloc $realloc)))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $memory)))

  ;; The program.
  (core module $Program
    (import "host" "memory" (memory 1))
    (import "host" "load" (func $load (param $name i32) (param $length i32) (param $result i32)))
    (import "host" "error-data" (func $error-data (param $error i32) (param $result i32)))
    (import "host" "init" (func $init (param $graph i32) (param $result i32)))
    (import "host" "compute" (func $compute (param $context i32) (param $prompt i32) (param $length i32) (param $result i32)))
    (import "host" "get-stdout" (func $get-stdout (result i32)))
    (import "host" "write" (func $write (param $stream i32) (param $contents i32) (param $length i32) (param $result i32)))

    ;; Every result is written to 64, so at the end there is a string at 68: the answer, or why there is none.
    (func $ask
      (call $load (i32.const 0) (i32.const 4) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then
        (call $error-data (i32.load (i32.const 68)) (i32.const 68))
        (return)))
      (call $init (i32.load (i32.const 68)) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then
        (return)))
      (call $compute (i32.load (i32.const 68)) (i32.const 16) (i32.const 14) (i32.const 64)))

    ;; Prints a line. A write takes 4096 bytes at most, so a longer one is cut.
    (func $print (param $text i32) (param $length i32)
      (if (i32.gt_u (local.get $length) (i32.const 4095)) (then
        (local.set $length (i32.const 4095))))
      (i32.store8 (i32.add (local.get $text) (local.get $length)) (i32.const 10))
      (call $write (call $get-stdout) (local.get $text) (i32.add (local.get $length) (i32.const 1)) (i32.const 80)))

    (func (export "run") (result i32)
      (call $ask)
      (call $print (i32.load (i32.const 68)) (i32.load (i32.const 72)))
      (i32.load8_u (i32.const 64))))
  (core instance $program (instantiate $Program (with "host" (instance
    (export "memory" (memory $memory))
    (export "load" (func $load))
    (export "error-data" (func $error-data))
    (export "init" (func $init))
    (export "compute" (func $compute))
    (export "get-stdout" (func $get-stdout))
    (export "write" (func $write))))))

  ;; What it exports: `run`, which makes it a command.
  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
