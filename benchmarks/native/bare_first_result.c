// Cold start with nothing around ONNX Runtime: opens the library and the model, runs once, ends.
//   bare_first_result LIBRARY MODEL

#include "bare.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s LIBRARY MODEL\n", argv[0]);
    return 2;
  }
  bare_model model;
  bare_load(&model, argv[1], argv[2], 1);
  bare_run(&model);
  printf("%g\n", (double)((const float*)model.output_buffers[0])[0]);
  fflush(stdout);
  _Exit(0);
}
