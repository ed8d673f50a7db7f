// Compares a run's output with its golden, as docs/bundle-format.md defines agreement.

#ifndef EDGEBUILD_APPS_EDGERUN_COMPARE_HPP_
#define EDGEBUILD_APPS_EDGERUN_COMPARE_HPP_

#include <cstdint>
#include <string>
#include <vector>

#include "edgebuild/runner.hpp"

namespace edgerun {

/// The element that is furthest outside, or nearest to, what its tolerance allows.
struct WorstElement {
  std::vector<std::int64_t> index;  ///< In the tensor.
  double error = 0.0;               ///< |got - golden|; infinite where one is NaN or infinite and the other is not.
  double allowed = 0.0;             ///< atol + rtol * |golden|.
  std::string got;
  std::string golden;
};

struct Comparison {
  std::uint64_t elements = 0;
  std::uint64_t outside = 0;    ///< Elements outside of their tolerance.
  double max_error = 0.0;       ///< Largest |got - golden|.
  WorstElement worst;           ///< Only if elements > 0.
  std::string structure_error;  ///< Kinds, dtypes, shapes or lengths that differ; empty: they agree.

  [[nodiscard]] bool agrees() const { return outside == 0 && structure_error.empty(); }
};

/// Sequences are compared item by item; their numbers are summed up, and the worst is that of all items.
[[nodiscard]] Comparison compare(const eb_value& got, const eb_value& golden, double atol, double rtol);

/// An element of a float type as a number. `bits` holds it in its lowest bits. NaN for what is no number.
[[nodiscard]] double decode_float(edgebuild::DType dtype, std::uint64_t bits);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_COMPARE_HPP_
