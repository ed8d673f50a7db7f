#include "statistics.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace edgerun {

double percentile(const std::vector<double>& ascending, double percent) {
  const double position = percent / 100.0 * static_cast<double>(ascending.size() - 1);
  const auto below = static_cast<std::size_t>(position);
  const std::size_t above = std::min(below + 1, ascending.size() - 1);
  const double fraction = position - static_cast<double>(below);
  return ascending[below] + (ascending[above] - ascending[below]) * fraction;
}

Statistics describe(std::vector<double> sample) {
  Statistics result;
  if (sample.empty()) return result;
  std::sort(sample.begin(), sample.end());
  const auto count = static_cast<double>(sample.size());
  double sum = 0.0;
  for (const double value : sample) sum += value;
  result.mean = sum / count;
  double squares = 0.0;  // around the mean, in a second pass: the textbook one-pass form cancels
  for (const double value : sample) squares += (value - result.mean) * (value - result.mean);
  result.std = std::sqrt(squares / count);
  result.min = sample.front();
  result.p50 = percentile(sample, 50);
  result.p90 = percentile(sample, 90);
  result.p95 = percentile(sample, 95);
  result.p99 = percentile(sample, 99);
  result.max = sample.back();
  return result;
}

}  // namespace edgerun
