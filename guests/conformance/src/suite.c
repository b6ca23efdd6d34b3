// Runs the checks: all that leave the guest alive, or those that the arguments name.
#include "suite.h"

#include <stdarg.h>

extern const check __start_checks[], __stop_checks[];  // where the linker has put the section "checks"

// Text

typedef struct {
  char text[800];
  size_t length;
} line;

static line failure;
static bool failed, bailed;

string text(const char *zero_ended) {
  return (string){(char *)zero_ended, __builtin_strlen(zero_ended)};
}

bool same(string left, string right) {
  return left.length == right.length && __builtin_memcmp(left.data, right.data, left.length) == 0;
}

static void add_text(line *line, string text) {
  for (size_t i = 0; i < text.length && line->length < sizeof line->text - 1; i++) {
    uint8_t character = text.data[i];
    line->text[line->length++] = character < ' ' || character == 0x7f ? ' ' : character;
  }
}

static void add_number(line *line, uint32_t number, uint32_t base) {
  char digits[10];
  size_t first = sizeof digits;
  do digits[--first] = "0123456789abcdef"[number % base];
  while (number /= base);
  add_text(line, (string){digits + first, sizeof digits - first});
}

static void add(line *line, const char *format, va_list values) {
  for (const char *at = format; *at; at++) {
    if (*at != '%') add_text(line, (string){(char *)at, 1});
    else if (*++at == 's') add_text(line, text(va_arg(values, const char *)));
    else if (*at == 't') add_text(line, va_arg(values, string));
    else add_number(line, va_arg(values, uint32_t), *at == 'x' ? 16 : 10);
  }
}

// One write a line, so that a line is whole or not there.
static void say(const char *format, ...) {
  line line = {.length = 0};
  va_list values;
  va_start(values, format);
  add(&line, format, values);
  va_end(values);
  line.text[line.length++] = '\n';
  print(line.text, line.length);
}

bool fail(const char *format, ...) {
  if (failed) return false;
  failed = true;
  failure.length = 0;
  va_list values;
  va_start(values, format);
  add(&failure, format, values);
  va_end(values);
  return false;
}

void bail_out(void) {
  bailed = true;
}

bool expect_equal(const char *what, uint32_t got, uint32_t expected) {
  return got == expected || fail("%s is %u and should be %u", what, got, expected);
}

bool expect_bytes(const char *what, const void *got, size_t length, const void *expected, size_t expected_length) {
  const uint8_t *left = got, *right = expected;
  if (length != expected_length) return fail("%s has %u bytes and should have %u", what, length, expected_length);
  for (size_t i = 0; i < length; i++) {
    if (left[i] != right[i]) return fail("byte %u of %u of %s is 0x%x and should be 0x%x", i, length, what, left[i], right[i]);
  }
  return true;
}

// Checks

static const check *find(string name) {
  for (const check *each = __start_checks; each < __stop_checks; each++) {
    if (same(text(each->name), name)) return each;
  }
  return NULL;
}

static bool is_wanted(const check *each) {
  for (size_t i = 0; i < argument_count(); i++) {
    if (same(text(each->name), argument(i))) return true;
  }
  return argument_count() == 0 && !each->traps;
}

static bool run_check(const check *each) {
  free_all();
  failed = false;
  say("# running %s", each->name);
  each->run();
  if (each->traps) fail("the host should have stopped the guest with a trap");
  if (failed) say("not ok %s: %t", each->name, (string){failure.text, failure.length});
  else say("ok %s", each->name);
  return !failed;
}

bool run_checks(void) {
  for (size_t i = 0; i < argument_count(); i++) {
    if (!find(argument(i))) {
      say("Bail out! This guest has no check named %t", argument(i));
      return false;
    }
  }
  uint32_t count = 0;
  for (const check *each = __start_checks; each < __stop_checks; each++) count += is_wanted(each);
  say("1..%u", count);
  bool all_well = true;
  for (const check *each = __start_checks; each < __stop_checks && !bailed; each++) {
    if (is_wanted(each)) all_well &= run_check(each);
  }
  if (bailed) say("Bail out! Without a graph named echo nothing else can be checked");
  return all_well;
}
