// A whole inference in the versions that have its steps.
#include "nn.h"

enum code nn_infer(nn_context context, const named_tensor *inputs, size_t count, named_tensor *outputs) {
  enum code code = SUCCESS;
  for (size_t i = 0; i < count && !code; i++) code = nn_set_input(context, inputs[i].name, inputs[i].tensor);
  if (!code) code = nn_compute(context);
  for (size_t i = 0; i < count && !code; i++) {
    outputs[i].name = inputs[i].name;
    code = nn_get_output(context, inputs[i].name, &outputs[i].tensor);
  }
  return code;
}
