// What the checks of several versions have in common.
#include "nn.h"

static string error_text;

static const char *const CODES[] = {
    "success", "invalid-argument", "invalid-encoding", "timeout", "runtime-error", "unsupported-operation", "too-large", "not-found",
    "security", "unknown", "busy", "missing-memory", "a code that does not exist"};
static const char *const TYPES[] = {"FP16", "FP32", "FP64", "BF16", "U8", "I32", "I64"};

void set_error_text(string text) {
  error_text = text;
}

static bool fail_code(const char *what, enum code got, const char *expected) {
  if (got == SUCCESS || !error_text.length) return fail("%s: %s instead of %s", what, CODES[got], expected);
  return fail("%s: %s (%t) instead of %s", what, CODES[got], error_text, expected);
}

bool expect_code(const char *what, enum code got, enum code expected) {
  return got == expected || fail_code(what, got, CODES[expected]);
}

bool expect_failure(const char *what, enum code got, enum code expected, enum code or_this) {
  return got == or_this || expect_code(what, got, expected);
}

static const char *type_name(int8_t type) {
  return type >= FP16 && type <= I64 ? TYPES[type] : "a type that does not exist";
}

bool expect_tensor(const char *what, tensor got, tensor expected) {
  if (got.type != NOT_TOLD && got.type != expected.type) {
    return fail("%s is of type %s and should be of %s", what, type_name(got.type), type_name(expected.type));
  }
  if (got.dimensions.rank != NOT_TOLD) {
    if (got.dimensions.rank != expected.dimensions.rank) {
      return fail("%s has %u dimensions and should have %u", what, got.dimensions.rank, expected.dimensions.rank);
    }
    for (int32_t i = 0; i < got.dimensions.rank; i++) {
      if (got.dimensions.items[i] != expected.dimensions.items[i]) {
        return fail("dimension %u of %s is %u and should be %u", i, what, got.dimensions.items[i], expected.dimensions.items[i]);
      }
    }
  }
  return expect_bytes(what, got.data, got.size, expected.data, expected.size);
}

bool load_echo(nn_graph *graph) {
  return expect_code("load graph echo", nn_load(STRING("echo"), graph), SUCCESS);
}

bool open_context(nn_graph graph, nn_context *context) {
  return expect_code("open a context", nn_open(graph, context), SUCCESS);
}

bool open_echo(nn_context *context) {
  nn_graph graph;
  return load_echo(&graph) && open_context(graph, context);
}

string decimal(uint32_t number) {
  char *digits = allocate(10, 1);
  size_t first = 10;
  do digits[--first] = '0' + number % 10;
  while (number /= 10);
  return (string){digits + first, 10 - first};
}

bool expect_echo(nn_context context, const tensor *tensors, size_t count) {
  named_tensor *inputs = NEW(named_tensor, count), *outputs = NEW(named_tensor, count);
  for (size_t i = 0; i < count; i++) inputs[i] = (named_tensor){decimal(i), tensors[i]};
  if (!expect_code("compute", nn_infer(context, inputs, count, outputs), SUCCESS)) return false;
  for (size_t i = 0; i < count; i++) {
    if (!expect_tensor("the output", outputs[i].tensor, tensors[i])) return false;
  }
  return true;
}
