// Makes a C program with `main` a command of WASI 0.2 (wit/wasi-cli.wit): exports wasi:cli/run, and answers the calls of
// WASI preview 1 in which wasi-libc's stdio, arguments, environment and exit end, so that no adapter module is needed. A
// program that opens files or reads clocks makes more such calls, and needs the adapter in place of this file.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

#include "component.h"

#define CLI(interface, name) IMPORT("wasi:cli/" interface "@0.2.0", name)
#define IO(interface, name) IMPORT("wasi:io/" interface "@0.2.0", name)

typedef int32_t stream, stream_error;
typedef struct { bool failed; union { string bytes; struct { bool closed; stream_error error; }; }; } read_result;
typedef struct { bool failed; bool closed; stream_error error; } write_result;
typedef struct { string *items; size_t count; } strings;
typedef struct { struct { string name, value; } *items; size_t count; } string_pairs;

CLI("stdin", "get-stdin") stream get_stdin(void);
CLI("stdout", "get-stdout") stream get_stdout(void);
CLI("stderr", "get-stderr") stream get_stderr(void);
CLI("environment", "get-arguments") void get_arguments(strings *);
CLI("environment", "get-environment") void get_environment(string_pairs *);
CLI("exit", "exit") void cli_exit(bool failed);
IO("streams", "[method]input-stream.blocking-read")
void blocking_read(stream, uint64_t most, read_result *);
IO("streams", "[method]output-stream.blocking-write-and-flush")
void blocking_write(stream, const void *, size_t, write_result *);
IO("error", "[resource-drop]error") void stream_error_drop(stream_error);

static stream streams[3];  // by file descriptor
static strings arguments;
static string_pairs environment;

EXPORT("wasi:cli/run@0.2.0#run") bool run(void) {
  streams[0] = get_stdin();
  streams[1] = get_stdout();
  streams[2] = get_stderr();
  get_arguments(&arguments);
  get_environment(&environment);
  int __main_void(void);  // of wasi-libc: makes argv and calls main
  int status = __main_void();
  fflush(NULL);
  return status != 0;
}

// A definition of one of these names takes the place of wasi-libc's import of it.
#define PREVIEW1(name) __imported_wasi_snapshot_preview1_##name

_Noreturn void PREVIEW1(proc_exit)(int32_t status) {
  cli_exit(status != 0);
  __builtin_unreachable();
}

int32_t PREVIEW1(fd_read)(int32_t fd, const __wasi_iovec_t *buffers, size_t count, size_t *length) {
  if (fd != 0) return __WASI_ERRNO_BADF;
  while (count > 1 && buffers->buf_len == 0) buffers++, count--;
  read_result result;
  blocking_read(streams[fd], buffers->buf_len, &result);
  if (result.failed && !result.closed) {
    stream_error_drop(result.error);
    return __WASI_ERRNO_IO;
  }
  *length = result.failed ? 0 : result.bytes.length;
  if (*length) {
    memcpy(buffers->buf, result.bytes.data, *length);
    free(result.bytes.data);
  }
  return 0;
}

int32_t PREVIEW1(fd_write)(int32_t fd, const __wasi_ciovec_t *buffers, size_t count, size_t *length) {
  enum { MOST = 4096 };  // bytes that blocking-write-and-flush takes
  if (fd != 1 && fd != 2) return __WASI_ERRNO_BADF;
  *length = 0;
  for (; count > 0; buffers++, count--) {
    const uint8_t *bytes = buffers->buf;
    for (size_t left = buffers->buf_len, part; left > 0; left -= part, bytes += part, *length += part) {
      part = left < MOST ? left : MOST;
      write_result result;
      blocking_write(streams[fd], bytes, part, &result);
      if (!result.failed) continue;
      if (!result.closed) stream_error_drop(result.error);
      return __WASI_ERRNO_IO;
    }
  }
  return 0;
}

// A terminal, as far as stdio can tell: stdout is written line by line.
int32_t PREVIEW1(fd_fdstat_get)(int32_t fd, __wasi_fdstat_t *status) {
  if (fd > 2) return __WASI_ERRNO_BADF;
  *status = (__wasi_fdstat_t){.fs_filetype = __WASI_FILETYPE_CHARACTER_DEVICE};
  return 0;
}

int32_t PREVIEW1(fd_seek)(int32_t fd, int64_t offset, int32_t whence, int64_t *position) {
  return __WASI_ERRNO_SPIPE;
}

int32_t PREVIEW1(fd_close)(int32_t fd) {
  return 0;
}

// zig 0.17 has a `close` of its own (lib/c/unistd.zig) and names its import so.
int32_t zig_fd_close(int32_t) __asm__("fd_close|wasi_snapshot_preview1");
int32_t zig_fd_close(int32_t fd) {
  return 0;
}

// Arguments and environment are lists of strings there, and a buffer of zero-ended strings with pointers into it here.

static char *append(char *end, string text, char terminator) {
  memcpy(end, text.data, text.length);
  end[text.length] = terminator;
  return end + text.length + 1;
}

int32_t PREVIEW1(args_sizes_get)(size_t *count, size_t *bytes) {
  *count = arguments.count;
  *bytes = 0;
  for (size_t i = 0; i < arguments.count; i++) *bytes += arguments.items[i].length + 1;
  return 0;
}

int32_t PREVIEW1(args_get)(char **pointers, char *end) {
  for (size_t i = 0; i < arguments.count; i++) {
    pointers[i] = end;
    end = append(end, arguments.items[i], '\0');
  }
  return 0;
}

int32_t PREVIEW1(environ_sizes_get)(size_t *count, size_t *bytes) {
  *count = environment.count;
  *bytes = 0;
  for (size_t i = 0; i < environment.count; i++) {
    *bytes += environment.items[i].name.length + environment.items[i].value.length + 2;
  }
  return 0;
}

int32_t PREVIEW1(environ_get)(char **pointers, char *end) {
  for (size_t i = 0; i < environment.count; i++) {
    pointers[i] = end;
    end = append(end, environment.items[i].name, '=');
    end = append(end, environment.items[i].value, '\0');
  }
  return 0;
}
