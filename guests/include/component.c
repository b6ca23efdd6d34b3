// How the host gets memory in the guest for the strings and lists it passes: every component exports this function.
#include <stdlib.h>

#include "component.h"

EXPORT("cabi_realloc") void *cabi_realloc(void *old, size_t old_size, size_t align, size_t size) {
  void *memory = realloc(old, size > 0 ? size : 1);  // so that an empty list can be freed like any other
  if (!memory) __builtin_trap();
  return memory;
}
