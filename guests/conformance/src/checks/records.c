// Numbers that are no handles, in U1: there the host has to find out for itself.
#include "../nn_records.h"

enum { NEVER_GIVEN = 12345 };

static const tensor VALUE = {{(const uint32_t[]){1}, 1}, U8, "t", 1};

static bool expect_refused(const char *what, enum code code) {
  return expect_code(what, code, INVALID_ARGUMENT);
}

CHECK(graph_unknown, "records/graph-unknown") {
  nn_context context;
  EXPECT(expect_refused("open a context", nn_open(NEVER_GIVEN, &context)));
  EXPECT(expect_refused("open a context", nn_open(-1, &context)));
}

CHECK(context_unknown_to_set_input, "records/set-input-of-unknown-context") {
  EXPECT(expect_refused("set-input", nn_set_input(NEVER_GIVEN, STRING("0"), VALUE)));
}

CHECK(context_unknown_to_compute, "records/compute-of-unknown-context") {
  EXPECT(expect_refused("compute", nn_compute(NEVER_GIVEN)) && expect_refused("compute", nn_compute(-1)));
}

CHECK(context_unknown_to_get_output, "records/get-output-of-unknown-context") {
  tensor output;
  EXPECT(expect_refused("get-output", nn_get_output(NEVER_GIVEN, STRING("0"), &output)));
}

CHECK(usable_after_unknown, "records/echo-after-unknown") {
  nn_context context;
  EXPECT(expect_refused("compute", nn_compute(NEVER_GIVEN)));
  EXPECT(open_echo(&context) && expect_echo(context, &VALUE, 1));
}
