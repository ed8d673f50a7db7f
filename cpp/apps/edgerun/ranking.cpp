#include "ranking.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "statistics.hpp"

namespace edgerun {

std::pair<std::size_t, std::size_t> median_interval(std::size_t count) {
  // The median is below the k-th smallest value if at most k - 1 values are below it: a binomial tail with p = 1/2.
  double term = std::pow(0.5, static_cast<double>(count));  // of no value below
  double below = 0.0;
  std::size_t rank = 0;
  for (std::size_t successes = 0; 2 * successes < count; ++successes) {
    below += term;
    if (2.0 * below > 0.05) break;
    rank = successes;
    term *= static_cast<double>(count - successes) / static_cast<double>(successes + 1);
  }
  return {rank, count - 1 - rank};
}

Ratio speed_ratio(const std::vector<double>& base, const std::vector<double>& other) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < base.size(); ++i) ratios.push_back(base[i] / other[i]);
  std::sort(ratios.begin(), ratios.end());
  const auto [low, high] = median_interval(ratios.size());
  return {percentile(ratios, 50), ratios[low], ratios[high]};
}

std::vector<std::size_t> rank(const std::vector<std::vector<double>>& rounds) {
  const std::size_t count = rounds.size();
  std::vector<std::vector<bool>> faster(count, std::vector<bool>(count));
  for (std::size_t a = 0; a < count; ++a) {
    for (std::size_t b = 0; b < count; ++b) faster[a][b] = a != b && speed_ratio(rounds[b], rounds[a]).faster();
  }
  std::vector<std::size_t> order;
  std::vector<std::size_t> left(count);
  std::iota(left.begin(), left.end(), 0U);
  while (!left.empty()) {
    std::vector<std::vector<bool>> above = faster;  // directly or through others of those that are left
    for (const std::size_t middle : left) {
      for (const std::size_t a : left) {
        if (!above[a][middle]) continue;
        for (const std::size_t b : left) above[a][b] = above[a][b] || above[middle][b];
      }
    }
    const auto first = std::find_if(left.begin(), left.end(), [&](std::size_t one) {
      return std::all_of(left.begin(), left.end(),
                         [&](std::size_t other) { return !above[other][one] || above[one][other]; });
    });
    order.push_back(*first);
    left.erase(first);
  }
  return order;
}

}  // namespace edgerun
