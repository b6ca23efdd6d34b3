// What a check is, how it says what it found, and what it says it with. A check is a function that returns at the first thing it
// finds wrong; `suite.c` runs the checks of a guest and prints their results as TAP (https://testanything.org).
#pragma once

#include "../../include/component.h"

// CHECK(function, "group/name") { ... } adds a check. TRAPS(...) adds one that has to end the guest, and so runs only when it is named.
#define CHECK(function, name) CHECK_(function, name, false)
#define TRAPS(function, name) CHECK_(function, name, true)
#define CHECK_(function, name, traps)                                                                     \
  static void function(void);                                                                             \
  __attribute__((used, section("checks"))) static const check function##_check = {name, function, traps}; \
  static void function(void)

typedef struct {
  const char *name;
  void (*run)(void);
  bool traps;
} check;

// Ends the check where something does not hold. The expect_ functions say themselves what is wrong.
#define EXPECT(holds)         \
  do {                        \
    if (!(holds)) return;     \
  } while (0)
#define EXPECT_THAT(holds, ...) EXPECT((holds) || fail(__VA_ARGS__))

// Fails the check that runs, and returns false; only the first failure counts.
// The format knows %s (char *), %t (string), %u and %x (uint32_t).
bool fail(const char *format, ...);

// Ends the guest after this check: the host has no graph named echo.
void bail_out(void);

bool expect_equal(const char *what, uint32_t got, uint32_t expected);
bool expect_bytes(const char *what, const void *got, size_t length, const void *expected, size_t expected_length);

// Memory, which is all free again when the next check starts.
#define NEW(type, count) ((type *)allocate(sizeof(type) * (count), _Alignof(type)))
void *allocate(size_t size, size_t align);
void *copy(const void *bytes, size_t length);
size_t memory_size(void);
void free_all(void);

// `length` bytes, other ones for another seed.
uint8_t *noise(size_t length, uint32_t seed);

// Text
#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define STRING(literal) ((string){(char *)(literal), sizeof(literal) - 1})
string text(const char *zero_ended);
bool same(string left, string right);

// The host: host_component.c or host_core.c. They call `run_checks`, which returns whether all is well.
void print(const char *text, size_t length);
size_t argument_count(void);  // without the guest's own name
string argument(size_t index);
bool run_checks(void);
