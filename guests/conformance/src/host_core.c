// What a core module has of its host beside wasi-nn: arguments and standard output of WASI preview 1.
// https://github.com/WebAssembly/WASI/blob/main/legacy/preview1/witx/wasi_snapshot_preview1.witx
#include "suite.h"

#define WASI(name) IMPORT("wasi_snapshot_preview1", name)

typedef struct { const char *bytes; size_t length; } piece;

WASI("args_sizes_get") int32_t args_sizes_get(size_t *count, size_t *bytes);
WASI("args_get") int32_t args_get(char **pointers, char *bytes);
WASI("fd_write") int32_t fd_write(int32_t fd, const piece *, size_t count, size_t *written);
WASI("proc_exit") _Noreturn void proc_exit(int32_t status);

static char **arguments;
static size_t count;

EXPORT("_start") void start(void) {
  size_t bytes;
  if (args_sizes_get(&count, &bytes) == 0) {
    arguments = NEW(char *, count + 1);
    args_get(arguments, allocate(bytes + 1, 1));
  }
  if (!run_checks()) proc_exit(1);
}

void print(const char *text, size_t length) {
  for (size_t written; length > 0; text += written, length -= written) {
    if (fd_write(1, &(piece){text, length}, 1, &written)) proc_exit(1);
  }
}

size_t argument_count(void) {
  return count ? count - 1 : 0;
}

string argument(size_t index) {
  return text(arguments[index + 1]);
}
