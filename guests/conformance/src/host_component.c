// What a component has of its host beside wasi:nn: arguments and standard output of WASI 0.2 (wit/wasi-cli.wit).
#include "suite.h"

typedef struct { string *items; size_t count; } strings;
typedef struct { bool failed; bool closed; int32_t error; } write_result;

IMPORT("wasi:cli/environment@0.2.0", "get-arguments") void get_arguments(strings *);
IMPORT("wasi:cli/stdout@0.2.0", "get-stdout") int32_t get_stdout(void);
IMPORT("wasi:io/streams@0.2.0", "[method]output-stream.blocking-write-and-flush")
void blocking_write_and_flush(int32_t stream, const char *bytes, size_t length, write_result *);

static strings arguments;
static int32_t out;

EXPORT("cabi_realloc") void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  void *memory = allocate(size, align);
  if (old_size) __builtin_memcpy(memory, old, old_size < size ? old_size : size);
  return memory;
}

EXPORT("wasi:cli/run@0.2.0#run") bool run(void) {
  out = get_stdout();
  get_arguments(&arguments);
  return !run_checks();
}

void print(const char *text, size_t length) {
  write_result result;
  blocking_write_and_flush(out, text, length, &result);
  if (result.failed) __builtin_trap();  // nobody can hear what is left to say
}

size_t argument_count(void) {
  return arguments.count ? arguments.count - 1 : 0;
}

string argument(size_t index) {
  return arguments.items[index + 1];
}
