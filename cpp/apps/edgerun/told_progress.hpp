// How far a command is, for a program that started it.

#ifndef EDGEBUILD_APPS_EDGERUN_TOLD_PROGRESS_HPP_
#define EDGEBUILD_APPS_EDGERUN_TOLD_PROGRESS_HPP_

#include <cstddef>
#include <cstdio>
#include <cstdlib>

namespace edgerun {

/// Writes to stderr how many of how many inferences are done, if EDGEBUILD_PROGRESS is set: a build that emulates this
/// program shows it, since there one inference may take a minute.
inline void tell_progress(std::size_t done, std::size_t total) {
  if (std::getenv("EDGEBUILD_PROGRESS") != nullptr) std::fprintf(stderr, "edgebuild-progress %zu %zu\n", done, total);
}

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_TOLD_PROGRESS_HPP_
