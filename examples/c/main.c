// Loads a bundle and runs it once on zeros: embed_c BUNDLE
#include <edgebuild/edgebuild.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, eb_last_error());
  return 1;
}

/// A zeroed tensor for an input; dynamic axes get the size that the model likes best. The caller frees `data`.
static eb_value make_input(const eb_runner* runner, size_t index) {
  eb_io_info info = {.struct_size = sizeof(info)};
  if (eb_runner_input(runner, index, &info) != EB_OK || info.kind != EB_KIND_TENSOR || info.rank < 0)
    return eb_value_none();
  for (int32_t axis = 0; axis < info.rank; ++axis) {
    const char* symbol = eb_runner_input_symbol(runner, index, (size_t)axis);
    int64_t min = 0, best = 1, max = 0;
    if (symbol != NULL) (void)eb_runner_symbol_range(runner, symbol, &min, &best, &max);
    if (info.shape[axis] < 0) info.shape[axis] = best;
  }
  const uint64_t bytes = eb_tensor_bytes(info.dtype, info.shape, (size_t)info.rank);
  if (bytes == UINT64_MAX || bytes > SIZE_MAX) return eb_value_none();
  return eb_value_view(info.dtype, info.shape, (size_t)info.rank, calloc(1, (size_t)bytes + 1), (size_t)bytes);
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s BUNDLE\n", argv[0]);
    return 2;
  }
  eb_runner* runner = NULL;
  const eb_code loaded = eb_runner_load(argv[1], NULL, &runner);
  if (loaded != EB_OK) {
    fail("load");
    return eb_exit_code(loaded);
  }
  printf("edgebuild %s, variant %s, %s %s\n", eb_version(), eb_runner_variant(runner), eb_runner_backend(runner),
         eb_runner_engine_version(runner));

  const size_t input_count = eb_runner_input_count(runner);
  const size_t output_count = eb_runner_output_count(runner);
  eb_value* inputs = calloc(input_count + 1, sizeof(*inputs));
  eb_value* outputs = calloc(output_count + 1, sizeof(*outputs));
  if (inputs == NULL || outputs == NULL) return 8;
  for (size_t i = 0; i < input_count; ++i) inputs[i] = make_input(runner, i);
  for (size_t i = 0; i < output_count; ++i) outputs[i] = eb_value_none();  // The backend allocates.

  const eb_code ran = eb_runner_run(runner, inputs, input_count, outputs, output_count, NULL);
  if (ran != EB_OK) fail("run");
  for (size_t i = 0; ran == EB_OK && i < output_count; ++i) {
    eb_io_info info = {.struct_size = sizeof(info)};
    if (eb_runner_output(runner, i, &info) != EB_OK) break;
    printf("%s %s[", info.name, eb_dtype_name(outputs[i].dtype));
    for (uint32_t axis = 0; axis < outputs[i].rank; ++axis) {
      printf("%s%lld", axis == 0 ? "" : ",", (long long)outputs[i].shape[axis]);
    }
    printf("]\n");
  }

  for (size_t i = 0; i < output_count; ++i) eb_value_release(&outputs[i]);  // Before the runner goes.
  for (size_t i = 0; i < input_count; ++i) free(inputs[i].data);
  free(inputs);
  free(outputs);
  eb_runner_free(runner);
  return eb_exit_code(ran);
}
