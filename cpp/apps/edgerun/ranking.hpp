// Which of several things that were measured in turn is faster, as far as the noise allows a statement.

#ifndef EDGEBUILD_APPS_EDGERUN_RANKING_HPP_
#define EDGEBUILD_APPS_EDGERUN_RANKING_HPP_

#include <cstddef>
#include <utility>
#include <vector>

namespace edgerun {

/// How many times as fast the second of two is: the median over the rounds, and its 95 % interval by order statistics,
/// which assume no distribution.
struct Ratio {
  double median = 1.0;
  double low = 1.0;
  double high = 1.0;

  /// Beyond noise: the whole interval is on one side.
  [[nodiscard]] bool faster() const { return low > 1.0; }
  [[nodiscard]] bool slower() const { return high < 1.0; }
};

/// @param base, other  Time of each round, in the same order; as many of both, at least one, above 0.
[[nodiscard]] Ratio speed_ratio(const std::vector<double>& base, const std::vector<double>& other);

/// Ranks from 0 between which the median of `count` values lies with 95 % probability; below 6 values, where there are
/// no such ranks, the first and the last.
[[nodiscard]] std::pair<std::size_t, std::size_t> median_interval(std::size_t count);

/// The order in which to prefer: again and again the earliest, in the order given, of those left than which none left
/// is faster beyond noise. So what can't be told apart stays in the order given as far as that holds: "not told apart"
/// is not transitive, and whatever comes first must not be known to be slower than one behind it.
///
/// Where each of a few is beaten by another of them (a circle, which noise can make), they count as not told apart.
///
/// @param rounds  The times of each; see speed_ratio.
[[nodiscard]] std::vector<std::size_t> rank(const std::vector<std::vector<double>>& rounds);

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_RANKING_HPP_
