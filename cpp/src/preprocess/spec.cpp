#include "preprocess/spec.hpp"

#include <cmath>
#include <limits>
#include <string>

namespace edgebuild::preprocess {
namespace {

Status refuse(const std::string& message) { return {Code::kInvalidArgument, "preprocessing: " + message}; }

std::string text(Size size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

}  // namespace

Status check(const ImageSpec& spec) {
  const std::string limits = "sides from 1 to " + std::to_string(kMaxSpecSide);
  if (spec.resize_shorter < 0 || spec.resize_shorter > kMaxSpecSide) {
    return refuse("resize: expected " + limits + ", got " + std::to_string(spec.resize_shorter));
  }
  if (spec.resize && spec.resize_shorter != 0) return refuse("resize: expected a shorter side or a size, got both");
  if (spec.resize && !within(*spec.resize, kMaxSpecSide)) {
    return refuse("resize: expected " + limits + ", got " + text(*spec.resize));
  }
  if (spec.crop && !within(*spec.crop, kMaxSpecSide)) {
    return refuse("crop: expected " + limits + ", got " + text(*spec.crop));
  }
  if (spec.dtype != EB_FLOAT32 && spec.dtype != EB_FLOAT16 && spec.dtype != EB_UINT8) {
    return refuse(std::string("dtype: expected float32, float16 or uint8, got ") + dtype_name(spec.dtype));
  }
  if (!std::isfinite(spec.scale) || spec.scale <= 0.0) {
    return refuse("scale: expected a number above 0, got " + std::to_string(spec.scale));
  }
  bool neutral = spec.scale == 1.0;
  for (std::size_t c = 0; c < channel_count(spec); ++c) {
    if (!std::isfinite(spec.mean[c])) return refuse("mean: expected finite numbers");
    if (!std::isfinite(spec.std[c]) || spec.std[c] <= 0.0) return refuse("std: expected numbers above 0");
    neutral = neutral && spec.mean[c] == 0.0 && spec.std[c] == 1.0;
    const double largest = std::numeric_limits<float>::max();
    for (const double level : {0.0, 255.0}) {
      if (std::fabs((level * spec.scale - spec.mean[c]) / spec.std[c]) > largest) {
        return refuse("scale, mean and std lead beyond float32");
      }
    }
  }
  if (spec.dtype == EB_UINT8 && !neutral) return refuse("uint8: expected scale 1, mean 0 and std 1");
  return {};
}

}  // namespace edgebuild::preprocess
