#include "tensorrt/recipe.hpp"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "common/plugin.hpp"

namespace edgebuild::tensorrt {
namespace {

constexpr std::string_view kProfile = "profile.";
constexpr std::uint64_t kMostWorkspaceMib = std::uint64_t{1} << 20;

Status wrong(const std::string& name, const std::string& value, const std::string& expected) {
  return Status(Code::kUsage, "option " + name + ": expected " + expected + ", got '" + value + "'");
}

Status read_number(const std::string& name, const std::string& value, std::uint64_t most, std::uint64_t* out) {
  const char* const end = value.data() + value.size();
  const auto [next, error] = std::from_chars(value.data(), end, *out);
  if (error == std::errc() && next == end && *out <= most) return {};
  return wrong(name, value, "a number from 0 to " + std::to_string(most));
}

Status read_number(const std::string& name, const std::string& value, std::uint32_t most, std::uint32_t* out) {
  std::uint64_t number = 0;
  EDGEBUILD_RETURN_IF_ERROR(read_number(name, value, std::uint64_t{most}, &number));
  *out = static_cast<std::uint32_t>(number);
  return {};
}

Status read_flag(const std::string& name, const std::string& value, bool* out) {
  if (value != "0" && value != "1") return wrong(name, value, "one of 0, 1");
  *out = value == "1";
  return {};
}

/// "1,3,224,224"; nothing if it is something else.
std::optional<std::vector<std::int64_t>> read_shape(std::string_view text) {
  std::vector<std::int64_t> shape;
  while (true) {
    const std::size_t comma = std::min(text.find(','), text.size());
    std::int64_t size = -1;
    const auto [next, error] = std::from_chars(text.data(), text.data() + comma, size);
    if (error != std::errc() || next != text.data() + comma || size < 0 || shape.size() == EB_MAX_RANK) {
      return std::nullopt;
    }
    shape.push_back(size);
    if (comma == text.size()) return shape;
    text.remove_prefix(comma + 1);
  }
}

Status read_profile(const std::string& name, const std::string& value, ProfileShapes* out) {
  const std::string expected = "MIN:BEST:MAX, e.g. 1,3,224,224:4,3,224,224:8,3,224,224";
  const std::size_t first = value.find(':');
  const std::size_t second = first == std::string::npos ? first : value.find(':', first + 1);
  if (second == std::string::npos) return wrong(name, value, expected);
  const std::string_view text = value;
  auto min = read_shape(text.substr(0, first));
  auto best = read_shape(text.substr(first + 1, second - first - 1));
  auto max = read_shape(text.substr(second + 1));
  if (!min || !best || !max) return wrong(name, value, expected);
  if (min->size() != best->size() || best->size() != max->size()) return wrong(name, value, "three shapes of one rank");
  for (std::size_t axis = 0; axis < min->size(); ++axis) {
    if ((*min)[axis] > (*best)[axis] || (*best)[axis] > (*max)[axis]) {
      return wrong(name, value, "sizes with MIN <= BEST <= MAX on every axis");
    }
  }
  *out = {std::move(*min), std::move(*best), std::move(*max)};
  return {};
}

Status read_option(const std::string& name, const std::string& value, Recipe& recipe) {
  if (name == "workspace_mib") return read_number(name, value, kMostWorkspaceMib, &recipe.workspace_mib);
  if (name == "optimization_level") return read_number(name, value, 5u, &recipe.optimization_level);
  if (name == "device") return read_number(name, value, 255u, &recipe.device);
  if (name == "sparsity") return read_flag(name, value, &recipe.sparsity);
  if (name == "tf32") return read_flag(name, value, &recipe.tf32);
  if (name == "cuda_graph") return read_flag(name, value, &recipe.cuda_graph);
  if (name == "timing_cache") return read_flag(name, value, &recipe.timing_cache);
  if (name == "dla_core") {
    if (value == "none") return {};
    std::uint32_t core = 0;
    EDGEBUILD_RETURN_IF_ERROR(read_number(name, value, 15u, &core));
    recipe.dla_core = core;
    return {};
  }
  if (name.starts_with(kProfile) && name.size() > kProfile.size()) {
    return read_profile(name, value, &recipe.profiles[name.substr(kProfile.size())]);
  }
  return Status(Code::kUsage, "the tensorrt backend has no option '" + name +
                                  "'; it knows workspace_mib, optimization_level, device, sparsity, tf32, "
                                  "timing_cache, cuda_graph, dla_core and profile.INPUT");
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const std::int64_t size : shape) text += (text.empty() ? "" : ",") + std::to_string(size);
  return text;
}

}  // namespace

std::string Recipe::text() const {
  std::string text = "workspace_mib " + std::to_string(workspace_mib);
  text += "\ndla_core " + (dla_core ? std::to_string(*dla_core) : "none");
  text += std::string("\nsparsity ") + (sparsity ? "1" : "0");
  text += std::string("\ntf32 ") + (tf32 ? "1" : "0");
  text += "\noptimization_level " + std::to_string(optimization_level) + "\n";
  for (const auto& [name, shapes] : profiles) {
    text += "profile." + name + " " + shape_text(shapes.min) + ":" + shape_text(shapes.best) + ":" +
            shape_text(shapes.max) + "\n";
  }
  return text;
}

Result<Recipe> parse_recipe(const std::map<std::string, std::string>& options) {
  Recipe recipe;
  for (const auto& [name, value] : options) EDGEBUILD_RETURN_IF_ERROR(read_option(name, value, recipe));
  return recipe;
}

}  // namespace edgebuild::tensorrt
