// wasi:filesystem@0.2.0: reading files of the directories a guest is granted (wit/world.wit).
#pragma once

#include <stdlib.h>
#include <string.h>

#include "component.h"

#define FS(interface, name) IMPORT("wasi:filesystem/" interface "@0.2.0", name)

typedef int32_t descriptor;
typedef struct { bool given; uint64_t seconds; uint32_t nanoseconds; } optional_datetime;
typedef struct { descriptor directory; string path; } preopen;
typedef struct { preopen *items; size_t count; } preopens;

typedef struct { bool failed; union { descriptor file; uint8_t error; }; } open_result;
typedef struct { bool failed; union { struct { uint8_t *bytes; size_t length; bool at_end; }; uint8_t error; }; } read_at_result;
typedef struct {
  bool failed;
  union {
    struct { uint8_t type; uint64_t links, size; optional_datetime accessed, modified, changed; };
    uint8_t error;
  };
} stat_result;

enum { SYMLINK_FOLLOW = 1, READ = 1, REGULAR_FILE = 6 };

FS("preopens", "get-directories") void get_directories(preopens *);
FS("types", "[method]descriptor.open-at") void open_at(
    descriptor, int32_t path_flags, const char *path, size_t length, int32_t open_flags, int32_t flags, open_result *);
FS("types", "[method]descriptor.stat") void stat_file(descriptor, stat_result *);
FS("types", "[method]descriptor.read") void read_at(descriptor, uint64_t length, uint64_t offset, read_at_result *);
FS("types", "[resource-drop]descriptor") void close_file(descriptor);

// What of `path` is below the granted directory, or NULL where it is elsewhere.
static inline const char *below(const char *path, string directory) {
  if (directory.length == 1 && *directory.data == '.') return *path == '/' ? NULL : path;
  if (strncmp(path, directory.data, directory.length) != 0) return NULL;
  const char *rest = path + directory.length;
  if (*rest != '/' && directory.data[directory.length - 1] != '/') return NULL;
  return rest + strspn(rest, "/");
}

// Opens a regular file for reading and says how long it is; false where no granted directory has it.
static inline bool open_file(const char *path, descriptor *file, uint64_t *size) {
  static preopens granted;
  if (!granted.items) get_directories(&granted);
  for (size_t i = 0; i < granted.count; i++) {
    const char *rest = below(path, granted.items[i].path);
    if (!rest) continue;
    open_result opened;
    open_at(granted.items[i].directory, SYMLINK_FOLLOW, rest, strlen(rest), 0, READ, &opened);
    if (opened.failed) continue;
    stat_result stat;
    stat_file(opened.file, &stat);
    if (!stat.failed && stat.type == REGULAR_FILE) {
      *file = opened.file;
      *size = stat.size;
      return true;
    }
    close_file(opened.file);
  }
  return false;
}

// Reads `most` bytes from `offset` on, or fewer at the end of the file; returns how many, or -1.
static inline int read_bytes(descriptor file, uint64_t offset, uint8_t *bytes, int most) {
  int length = 0;
  for (read_at_result part = {0}; length < most && !part.at_end;) {
    read_at(file, most - length, offset + length, &part);
    if (part.failed) return -1;
    memcpy(bytes + length, part.bytes, part.length);
    length += part.length;
    free(part.bytes);
  }
  return length;
}
