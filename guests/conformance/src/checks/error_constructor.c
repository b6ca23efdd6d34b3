// Errors that the guest makes, in 06-25 and U3.
#include "../nn_resources.h"

static bool expect_kept(uint32_t code, string data) {
  error_handle error = error_new(code, data.data, data.length);
  string got;
  error_data(error, &got);
  bool kept = expect_equal("the error's code", error_code(error), code) &&
              expect_bytes("the error's data", got.data, got.length, data.data, data.length);
  error_drop(error);
  return kept;
}

CHECK(error_of_every_code, "error-constructor/every-code") {
  for (uint32_t code = 0; code < UNKNOWN; code++) EXPECT(expect_kept(code, STRING("why")));
}

CHECK(error_without_text, "error-constructor/empty") { EXPECT(expect_kept(0, STRING(""))); }
CHECK(error_with_nul, "error-constructor/nul") { EXPECT(expect_kept(3, STRING("a\0b"))); }
CHECK(error_in_unicode, "error-constructor/unicode") { EXPECT(expect_kept(8, text("ошибка 错误 خطأ \U0001f525 e\u0301 \ufeff"))); }

CHECK(error_of_64kb, "error-constructor/64kb") {
  enum { SIZE = 65536 };
  char *data = allocate(SIZE, 1);
  __builtin_memset(data, 'e', SIZE);
  EXPECT(expect_kept(5, (string){data, SIZE}));
}

TRAPS(error_of_no_code, "error-constructor/code-out-of-range") { error_new(9, "", 0); }
