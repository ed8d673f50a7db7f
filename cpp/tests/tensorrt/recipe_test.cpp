#include "tensorrt/recipe.hpp"

#include <doctest/doctest.h>

#include <set>

namespace {

using namespace edgebuild;            // NOLINT
using namespace edgebuild::tensorrt;  // NOLINT

using Options = std::map<std::string, std::string>;

TEST_CASE("a recipe takes its options and has defaults for the rest") {
  const Result<Recipe> none = parse_recipe({});
  REQUIRE(none.ok());
  CHECK(none.value().workspace_mib == 1024);
  CHECK(!none.value().dla_core);
  CHECK(!none.value().tf32);
  const Result<Recipe> all = parse_recipe({{"workspace_mib", "256"},
                                           {"dla_core", "1"},
                                           {"sparsity", "1"},
                                           {"tf32", "1"},
                                           {"timing_cache", "0"},
                                           {"optimization_level", "5"},
                                           {"device", "2"},
                                           {"profile.input.1", "1,3,8,8:2,3,8,8:4,3,16,16"}});
  REQUIRE(all.ok());
  CHECK(all.value().workspace_mib == 256);
  CHECK(*all.value().dla_core == 1);
  CHECK(all.value().sparsity);
  CHECK(!all.value().timing_cache);
  CHECK(all.value().device == 2);
  const ProfileShapes& shapes = all.value().profiles.at("input.1");
  CHECK(shapes.best == std::vector<std::int64_t>{2, 3, 8, 8});
  CHECK(shapes.max == std::vector<std::int64_t>{4, 3, 16, 16});
}

TEST_CASE("what is wrong with an option is said with its name and what was expected") {
  struct Row {
    Options options;
    const char* said;
  };
  const Row rows[] = {
      {{{"workspace", "1"}}, "no option 'workspace'; it knows workspace_mib"},
      {{{"workspace_mib", "-1"}}, "option workspace_mib: expected a number from 0 to 1048576, got '-1'"},
      {{{"workspace_mib", "99999999999999999999"}}, "option workspace_mib: expected a number"},
      {{{"optimization_level", "6"}}, "expected a number from 0 to 5"},
      {{{"tf32", "yes"}}, "option tf32: expected one of 0, 1, got 'yes'"},
      {{{"dla_core", ""}}, "option dla_core: expected a number from 0 to 15, got ''"},
      {{{"profile.", "1:1:1"}}, "no option 'profile.'"},
      {{{"profile.x", "1,3:2,3"}}, "expected MIN:BEST:MAX"},
      {{{"profile.x", "1,3:2,:4,3"}}, "expected MIN:BEST:MAX"},
      {{{"profile.x", "1,3:2,3:4"}}, "three shapes of one rank"},
      {{{"profile.x", "1,3:5,3:4,3"}}, "MIN <= BEST <= MAX"},
      {{{"profile.x", "-1:1:1"}}, "expected MIN:BEST:MAX"},
  };
  for (const Row& row : rows) {
    const Status status = parse_recipe(row.options).status();
    CAPTURE(row.said);
    CAPTURE(status.message());
    CHECK(status.code() == Code::kUsage);
    CHECK(status.message().find(row.said) != std::string::npos);
  }
}

TEST_CASE("recipes that build other plans have other texts, and those that build the same one have the same") {
  const Options variations[] = {{},
                                {{"workspace_mib", "512"}},
                                {{"dla_core", "0"}},
                                {{"sparsity", "1"}},
                                {{"tf32", "1"}},
                                {{"optimization_level", "2"}},
                                {{"profile.x", "1:2:3"}},
                                {{"profile.x", "1:2:4"}},
                                {{"profile.y", "1:2:3"}}};
  std::set<std::string> texts;
  for (const Options& options : variations) texts.insert(parse_recipe(options).value().text());
  CHECK(texts.size() == std::size(variations));
  CHECK(parse_recipe({{"timing_cache", "0"}}).value().text() == parse_recipe({{"dla_core", "none"}}).value().text());
}

}  // namespace
