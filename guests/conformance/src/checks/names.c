// Names of tensors, in the versions where they are strings: an echo gives each input back under its own name.
#include "../nn.h"

static bool expect_names_kept(const string *names, size_t count) {
  nn_context context;
  named_tensor *inputs = NEW(named_tensor, count), *outputs = NEW(named_tensor, count);
  for (size_t i = 0; i < count; i++) inputs[i] = (named_tensor){names[i], {DIMENSIONS(7), U8, noise(7, i), 7}};
  if (!open_echo(&context) || !expect_code("compute", nn_infer(context, inputs, count, outputs), SUCCESS)) return false;
  for (size_t i = 0; i < count; i++) {
    if (!same(names[i], outputs[i].name)) return fail("output %u is named %t and should be %t", i, outputs[i].name, names[i]);
    if (!expect_tensor("the output", outputs[i].tensor, inputs[i].tensor)) return false;
  }
  return true;
}

#define KEEPS(...)                                                \
  static const char *const NAMES[] = {__VA_ARGS__};               \
  string names[LENGTH(NAMES)];                                    \
  for (size_t i = 0; i < LENGTH(NAMES); i++) names[i] = text(NAMES[i]); \
  EXPECT(expect_names_kept(names, LENGTH(names)))

CHECK(names_of_words, "names/words") { KEEPS("input", "input_ids", "attention.mask:0", "a b", "user", "prompt"); }
CHECK(names_in_unicode, "names/unicode") { KEEPS("имя", "名前", "اسم", "\U0001f99c", "\ufeff", "\u202e"); }
CHECK(names_that_look_alike, "names/look-alikes") { KEEPS("a", "A", "a ", " a", "\u00e9", "e\u0301", "\u0430"); }
CHECK(names_that_are_numbers, "names/numbers") { KEEPS("7", "1", "007", "-1", "4294967296", "0x1"); }

CHECK(name_that_is_empty, "names/empty") {
  EXPECT(expect_names_kept(&STRING(""), 1));
}

CHECK(name_with_nul, "names/nul") {
  string names[] = {STRING("a\0b"), STRING("a\0c"), STRING("a"), STRING("\0")};
  EXPECT(expect_names_kept(names, LENGTH(names)));
}

CHECK(name_that_is_long, "names/64kb") {
  enum { SIZE = 65536 };
  char *name = allocate(SIZE, 1);
  __builtin_memset(name, 'n', SIZE);
  string names[] = {{name, SIZE}, {name, SIZE - 1}};
  EXPECT(expect_names_kept(names, LENGTH(names)));
}
