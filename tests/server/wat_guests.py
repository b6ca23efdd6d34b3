"""Guests as WebAssembly text that do on demand what the server has to cope with."""

from __future__ import annotations

HANDLER = r"""(component
  (import "promptd:prompt/types@0.1.0" (instance $types
    (type $role0 (enum "system" "user" "assistant" "tool")) (export "role" (type $role (eq $role0)))
    (type $message0 (record (field "role" $role) (field "content" string)))
    (export "message" (type $message (eq $message0)))))
  (alias export $types "message" (type $message))
  (import "promptd:prompt/chat@0.1.0" (instance $chat
    (type $error0 (variant (case "invalid-argument" string) (case "not-found" string) (case "too-large" string)
      (case "busy" string) (case "timeout" string) (case "security" string) (case "runtime-error" string)))
    (export "error" (type $error (eq $error0)))))
  (alias export $chat "error" (type $error))
  (import "promptd:prompt/output@0.1.0" (instance $output (export "write" (func (param "text" string)))))
  (core module $Memory
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (global.set $top (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.get $top)
      (global.set $top (i32.add (global.get $top) (local.get $size)))))
  (core instance $memory (instantiate $Memory))
  (alias core export $memory "memory" (core memory $memory))
  (alias core export $memory "realloc" (core func $realloc))
  (core func $write (canon lower (func $output "write") (memory $memory)))
  (core module $Main
    (import "" "memory" (memory 0))
    (import "" "write" (func $write (param i32 i32)))
    (global $calls (mut i32) (i32.const 0))
    (data (i32.const 64) "try later")
    (data (i32.const 96) "0/0 ")
    (func $loop (loop $forever (br $forever)))
    ;; The reply is "<calls>/<messages> " and the last message, which is written in two parts before it is returned.
    (func (export "respond") (param $messages i32) (param $count i32) (result i32)
      (local $last i32) (local $size i32) (local $first i32)
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (local.set $last
        (i32.add (local.get $messages) (i32.mul (i32.const 12) (i32.sub (local.get $count) (i32.const 1)))))
      (local.set $size (i32.load offset=8 (local.get $last)))
      (local.set $last (i32.load offset=4 (local.get $last)))
      (local.set $first (i32.load8_u (local.get $last)))
      (if (i32.eq (local.get $first) (i32.const 33)) (then  ;; "!"
        (i32.store8 (i32.const 16) (i32.const 1)) (i32.store8 (i32.const 20) (i32.const 3))
        (i32.store (i32.const 24) (i32.const 64)) (i32.store (i32.const 28) (i32.const 9)) (return (i32.const 16))))
      (if (i32.eq (local.get $first) (i32.const 42)) (then unreachable))  ;; "*"
      (if (i32.eq (local.get $first) (i32.const 35)) (then  ;; "#"
        (call $write (local.get $last) (local.get $size)) (call $loop)))
      (i32.store8 (i32.const 96) (i32.add (i32.const 48) (global.get $calls)))
      (i32.store8 (i32.const 98) (i32.add (i32.const 48) (local.get $count)))
      (memory.copy (i32.const 100) (local.get $last) (local.get $size))
      (call $write (i32.const 96) (i32.const 4))
      (call $write (i32.const 100) (local.get $size))
      (i32.store8 (i32.const 16) (i32.const 0)) (i32.store (i32.const 20) (i32.const 96))
      (i32.store (i32.const 24) (i32.add (i32.const 4) (local.get $size)))
      (i32.const 16)))
  (core instance $main (instantiate $Main (with "" (instance
    (export "memory" (memory $memory)) (export "write" (func $write))))))
  (func $respond (param "messages" (list $message)) (result (result string (error $error)))
    (canon lift (core func $main "respond") (memory $memory) (realloc $realloc)))
  (instance $handler (export "respond" (func $respond)))
  (export "promptd:prompt/handler@0.1.0" (instance $handler)))
"""
"""A handler: fails as busy at `!...`, traps at `*...`, writes `#...` and then loops; else counts calls and messages."""

LINES = r"""(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "said: ")
  (func $print (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at)) (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16))))
  (func (export "_start") (local $size i32)
    (loop $more
      (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 4096))
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
      (local.set $size (i32.load (i32.const 16)))
      (if (i32.eqz (local.get $size)) (then return))
      (if (i32.eq (i32.load8_u (i32.const 1024)) (i32.const 120)) (then (call $exit (i32.const 3))))  ;; "x"
      (call $print (i32.const 64) (i32.const 6))
      (call $print (i32.const 1024) (local.get $size))
      (br $more))))
"""
"""A command: answers each line with "said: " and the line, exits with 3 at `x...`, and with 0 at the end of input."""
