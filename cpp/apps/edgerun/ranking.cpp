#include "ranking.hpp"

#include <algorithm>
#include <cmath>

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
  std::vector<std::size_t> order;
  for (std::size_t next = 0; next < rounds.size(); ++next) {
    std::size_t place = order.size();
    while (place > 0 && speed_ratio(rounds[order[place - 1]], rounds[next]).faster()) --place;
    order.insert(order.begin() + static_cast<std::ptrdiff_t>(place), next);
  }
  return order;
}

}  // namespace edgerun
