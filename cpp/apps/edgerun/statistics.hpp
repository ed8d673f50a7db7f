// Descriptive statistics of a sample, computed from every value.

#ifndef EDGEBUILD_APPS_EDGERUN_STATISTICS_HPP_
#define EDGEBUILD_APPS_EDGERUN_STATISTICS_HPP_

#include <vector>

namespace edgerun {

/// In the unit of the sample. All zero for an empty sample.
struct Statistics {
  double mean = 0.0;
  double std = 0.0;  ///< Of the population (divided by n), as numpy.std.
  double min = 0.0;
  double p50 = 0.0;
  double p90 = 0.0;
  double p95 = 0.0;
  double p99 = 0.0;
  double max = 0.0;
};

/// The `percent`-th percentile (0 to 100) of an ascending, non-empty sample, interpolated linearly between its two
/// neighbours, as numpy.percentile does by default.
[[nodiscard]] double percentile(const std::vector<double>& ascending, double percent);

/// @param sample  In any order.
[[nodiscard]] Statistics describe(std::vector<double> sample);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_STATISTICS_HPP_
