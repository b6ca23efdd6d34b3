// The canonical ABI of the component model, as much as a guest in C needs. wasm32 only.
// https://github.com/WebAssembly/component-model/blob/main/design/mvp/CanonicalABI.md
//
// - A record is a struct, a resource a handle, an enum a byte.
// - A variant, option or result is a struct: a byte that says which case it is, and a union of the cases.
// - A string or list is two parameters: where, and how many.
// - A result that does not fit one core value is written where the last parameter points.
// - Strings and lists that come from the host are in memory from `cabi_realloc` (component.c), and the guest's to free.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define IMPORT(interface, name) __attribute__((import_module(interface), import_name(name)))
#define EXPORT(name) __attribute__((export_name(name)))

// UTF-8 that no zero byte ends.
typedef struct {
  char *data;
  size_t length;
} string;
