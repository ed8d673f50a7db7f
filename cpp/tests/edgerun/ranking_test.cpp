#include "ranking.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

using namespace edgerun;

namespace {

/// Times around `centre`, with `noise` as the relative spread and steps that all have in common.
std::vector<std::vector<double>> measured(const std::vector<double>& centres, double noise, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<std::vector<double>> rounds(centres.size());
  for (int round = 0; round < 21; ++round) {
    const double drift = 1.0 + 0.5 * std::fabs(normal(random));  // the machine is slower for a while
    for (std::size_t i = 0; i < centres.size(); ++i) {
      rounds[i].push_back(centres[i] * drift * std::exp(noise * normal(random)));
    }
  }
  return rounds;
}

}  // namespace

TEST_CASE("the ranks of the median's interval are those of the binomial distribution") {
  // Against a table: largest k with 2 P(B(n, 1/2) <= k) <= 0.05.
  CHECK(median_interval(1) == std::pair<std::size_t, std::size_t>(0, 0));
  CHECK(median_interval(5) == std::pair<std::size_t, std::size_t>(0, 4));
  CHECK(median_interval(7) == std::pair<std::size_t, std::size_t>(0, 6));
  CHECK(median_interval(9) == std::pair<std::size_t, std::size_t>(1, 7));
  CHECK(median_interval(15) == std::pair<std::size_t, std::size_t>(3, 11));
  CHECK(median_interval(31) == std::pair<std::size_t, std::size_t>(9, 21));
}

TEST_CASE("a ratio is that of each round, so a drift that all share does not blur it") {
  const Ratio ratio = speed_ratio({2, 20, 200, 4, 40, 6, 8}, {1, 10, 100, 2, 20, 3, 4});
  CHECK(ratio.median == 2.0);
  CHECK(ratio.low == 2.0);
  CHECK(ratio.high == 2.0);
  CHECK(ratio.faster());
  CHECK_FALSE(ratio.slower());
  CHECK(speed_ratio({1, 1, 1, 1, 1, 1, 1}, {2, 2, 2, 2, 2, 2, 2}).slower());
  const Ratio same = speed_ratio({1, 2, 1, 2, 1, 2, 1}, {2, 1, 2, 1, 2, 1, 2});
  CHECK_FALSE(same.faster());
  CHECK_FALSE(same.slower());
}

TEST_CASE("what is faster beyond noise comes first, and what can't be told apart keeps its place") {
  for (unsigned seed = 0; seed < 20; ++seed) {
    CHECK(rank(measured({1.0, 1.0 / 2, 1.0 / 4}, 0.05, seed)) == std::vector<std::size_t>{2, 1, 0});
    CHECK(rank(measured({1.0, 2.0, 4.0}, 0.05, seed)) == std::vector<std::size_t>{0, 1, 2});
    CHECK(rank(measured({1.0, 3.0, 2.0, 0.5}, 0.05, seed)) == std::vector<std::size_t>{3, 0, 2, 1});
  }
  unsigned kept = 0;
  for (unsigned seed = 0; seed < 200; ++seed) {
    kept += rank(measured({1.0, 1.0}, 0.1, seed)) == std::vector<std::size_t>{0, 1} ? 1U : 0U;
  }
  CHECK(kept >= 190);  // an interval of 95 %, of which one side matters
  CHECK(rank({}).empty());
  CHECK(rank({{1.0}}) == std::vector<std::size_t>{0});
}

TEST_CASE("one that can't be told from either does not keep a slower variant before a faster one") {
  const std::vector<double> slow(7, 10.0);
  const std::vector<double> between{9, 11, 9, 11, 9, 11, 9.5};
  const std::vector<double> fast(7, 9.5);
  REQUIRE(speed_ratio(slow, fast).faster());
  REQUIRE_FALSE(speed_ratio(slow, between).faster());
  REQUIRE_FALSE(speed_ratio(between, fast).faster());
  CHECK(rank({slow, between, fast}) == std::vector<std::size_t>{1, 2, 0});
  CHECK(rank({slow, fast, between}) == std::vector<std::size_t>{1, 0, 2});
  CHECK(rank({between, slow, fast}) == std::vector<std::size_t>{0, 2, 1});
}

TEST_CASE("none comes before one that is known to be faster") {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> centre(1.0, 1.3);
  unsigned moved = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::vector<double> centres(2 + seed % 6);
    for (double& one : centres) one = centre(random);
    const auto rounds = measured(centres, 0.15, seed);
    const std::vector<std::size_t> order = rank(rounds);
    REQUIRE(order.size() == rounds.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      for (std::size_t k = i + 1; k < order.size(); ++k) {
        CHECK_FALSE(speed_ratio(rounds[order[i]], rounds[order[k]]).faster());
      }
    }
    moved += std::is_sorted(order.begin(), order.end()) ? 0U : 1U;
  }
  CHECK(moved > 50);  // else this would show nothing
}

TEST_CASE("of variants that beat each other in a circle the earliest is taken, and who loses to all stays last") {
  // Each is faster than the next one in two rounds of three, which many rounds tell from chance.
  const std::vector<double> a{1, 3, 2};
  const std::vector<double> b{2, 1, 3};
  const std::vector<double> c{3, 2, 1};
  const auto often = [](const std::vector<double>& three) {
    std::vector<double> rounds;
    for (int i = 0; i < 60; ++i) rounds.insert(rounds.end(), three.begin(), three.end());
    return rounds;
  };
  REQUIRE(speed_ratio(often(b), often(a)).faster());
  REQUIRE(speed_ratio(often(c), often(b)).faster());
  REQUIRE(speed_ratio(often(a), often(c)).faster());
  const std::vector<double> slow(180, 9.0);
  const std::vector<double> fast(180, 0.5);
  CHECK(rank({often(a), often(b), often(c)}) == std::vector<std::size_t>{0, 1, 2});
  CHECK(rank({often(c), often(b), often(a)}) == std::vector<std::size_t>{0, 2, 1});
  CHECK(rank({slow, often(c), often(a), often(b), fast}) == std::vector<std::size_t>{4, 1, 2, 3, 0});
}
