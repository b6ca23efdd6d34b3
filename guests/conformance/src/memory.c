// The guest's memory: an arena that grows, and is empty again before every check; and what the compiler expects of a C library.
#include "suite.h"

enum { PAGE = 65536 };

extern uint8_t __heap_base;  // of the linker: where its data end

static size_t next = (size_t)&__heap_base;  // address of the first free byte
static size_t kept;                         // address of the first byte that `free_all` frees

static size_t round_up(size_t address, size_t align) {
  return (address + align - 1) & -align;
}

size_t memory_size(void) {
  return __builtin_wasm_memory_size(0) * PAGE;
}

void *allocate(size_t size, size_t align) {
  size_t start = round_up(next, align);
  next = start + size;
  if (next < start) __builtin_trap();
  if (next > memory_size() && __builtin_wasm_memory_grow(0, (next - memory_size() + PAGE - 1) / PAGE) == (size_t)-1) __builtin_trap();
  return (void *)start;
}

void free_all(void) {
  if (!kept) kept = next;  // before the first check there are the arguments
  next = kept;
}

void *copy(const void *bytes, size_t length) {
  return __builtin_memcpy(allocate(length, 8), bytes, length);
}

uint8_t *noise(size_t length, uint32_t seed) {
  uint8_t *bytes = allocate(length, 8);
  uint32_t state = seed * 2654435761u + 1;
  for (size_t i = 0; i < length; i++) {
    state = state * 1664525 + 1013904223;  // https://en.wikipedia.org/wiki/Linear_congruential_generator, Numerical Recipes
    bytes[i] = state >> 24;
  }
  return bytes;
}

// The guests are built for the WebAssembly of 2017, so that old hosts run them too; it has no instructions for these.

__attribute__((no_builtin)) void *memcpy(void *to, const void *from, size_t length) {
  uint8_t *left = to;
  const uint8_t *right = from;
  for (size_t i = 0; i < length; i++) left[i] = right[i];
  return to;
}

__attribute__((no_builtin)) void *memset(void *to, int byte, size_t length) {
  uint8_t *bytes = to;
  for (size_t i = 0; i < length; i++) bytes[i] = byte;
  return to;
}

__attribute__((no_builtin)) int memcmp(const void *left, const void *right, size_t length) {
  const uint8_t *a = left, *b = right;
  for (size_t i = 0; i < length; i++) {
    if (a[i] != b[i]) return a[i] - b[i];
  }
  return 0;
}

__attribute__((no_builtin)) size_t strlen(const char *text) {
  size_t length = 0;
  while (text[length]) length++;
  return length;
}
