#include "preprocess/image.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "preprocess/half.hpp"
#include "preprocess/resample.hpp"

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;
namespace preprocess = edgebuild::preprocess;
using preprocess::ImageSpec;
using preprocess::ImageView;
using preprocess::Size;

namespace {

std::vector<std::uint8_t> noise(Size size, std::int64_t channels, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::uint8_t> pixels(static_cast<std::size_t>(size.height * size.width * channels));
  for (std::uint8_t& pixel : pixels) pixel = static_cast<std::uint8_t>(random() & 0xff);
  return pixels;
}

template <typename Element>
std::vector<Element> run(const ImageSpec& spec, const std::vector<std::uint8_t>& pixels, Size size,
                         std::int64_t channels) {
  const Result<Size> made = preprocess::output_size(spec, size);
  REQUIRE(made.ok());
  std::vector<Element> out(static_cast<std::size_t>(made.value().height * made.value().width) * channel_count(spec));
  const Status status = preprocess::make_tensor(spec, {pixels, size, channels}, std::as_writable_bytes(std::span(out)));
  REQUIRE_MESSAGE(status.ok(), status.message());
  return out;
}

ImageSpec raw_spec() {
  ImageSpec spec;
  spec.dtype = EB_UINT8;
  spec.layout = preprocess::Layout::kNhwc;
  return spec;
}

// What a resized image is by definition, in doubles and without fixed point: the weighted mean along each axis.
std::vector<double> resized_by_definition(const std::vector<std::uint8_t>& pixels, Size from, Size to, bool cubic) {
  const auto filter = [&](double x) {
    x = std::fabs(x);
    if (!cubic) return x < 1.0 ? 1.0 - x : 0.0;
    if (x < 1.0) return 1.5 * x * x * x - 2.5 * x * x + 1.0;
    return x < 2.0 ? -0.5 * x * x * x + 2.5 * x * x - 4.0 * x + 2.0 : 0.0;
  };
  const auto weights = [&](std::int64_t in, std::int64_t out, std::int64_t position) {
    const double step = static_cast<double>(in) / static_cast<double>(out);
    const double stretch = std::max(1.0, step);
    std::vector<double> found(static_cast<std::size_t>(in));
    double sum = 0.0;
    for (std::int64_t k = 0; k < in; ++k) {
      const double distance = static_cast<double>(k) + 0.5 - (static_cast<double>(position) + 0.5) * step;
      sum += found[static_cast<std::size_t>(k)] = filter(distance / stretch);
    }
    for (double& weight : found) weight /= sum;
    return found;
  };
  // Across first, held to what a pixel can be, then down.
  std::vector<double> narrowed;
  for (std::int64_t y = 0; y < from.height; ++y) {
    for (std::int64_t x = 0; x < to.width; ++x) {
      const std::vector<double> across = weights(from.width, to.width, x);
      for (std::size_t c = 0; c < 3; ++c) {
        double sum = 0.0;
        for (std::size_t j = 0; j < across.size(); ++j) {
          sum += across[j] * pixels[(static_cast<std::size_t>(y) * across.size() + j) * 3 + c];
        }
        narrowed.push_back(std::clamp(sum, 0.0, 255.0));
      }
    }
  }
  std::vector<double> out;
  const std::size_t stride = static_cast<std::size_t>(to.width) * 3;
  for (std::int64_t y = 0; y < to.height; ++y) {
    const std::vector<double> down = weights(from.height, to.height, y);
    for (std::size_t x = 0; x < stride; ++x) {
      double sum = 0.0;
      for (std::size_t i = 0; i < down.size(); ++i) sum += down[i] * narrowed[i * stride + x];
      out.push_back(std::clamp(sum, 0.0, 255.0));
    }
  }
  return out;
}

}  // namespace

TEST_CASE("an image of the right size keeps its pixels") {
  const Size size{5, 7};
  const auto pixels = noise(size, 3, 1);
  ImageSpec spec = raw_spec();
  CHECK(run<std::uint8_t>(spec, pixels, size, 3) == pixels);
  for (const auto interpolation : {preprocess::Interpolation::kBilinear, preprocess::Interpolation::kBicubic}) {
    spec.interpolation = interpolation;
    spec.resize = size;
    CHECK(run<std::uint8_t>(spec, pixels, size, 3) == pixels);
  }
}

TEST_CASE("resizing is the weighted mean of its definition within a grey level") {
  for (const bool cubic : {false, true}) {
    for (const auto& [from, to] : std::vector<std::pair<Size, Size>>{{{16, 16}, {8, 8}},
                                                                     {{17, 5}, {4, 9}},
                                                                     {{3, 4}, {10, 11}},
                                                                     {{1, 1}, {3, 2}},
                                                                     {{40, 30}, {1, 1}},
                                                                     {{2, 64}, {2, 3}}}) {
      ImageSpec spec = raw_spec();
      spec.resize = to;
      spec.interpolation = cubic ? preprocess::Interpolation::kBicubic : preprocess::Interpolation::kBilinear;
      const auto pixels = noise(from, 3, 7);
      const auto got = run<std::uint8_t>(spec, pixels, from, 3);
      const auto want = resized_by_definition(pixels, from, to, cubic);
      REQUIRE(got.size() == want.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        // Both passes round to whole grey levels; the cubic's weights amplify the first one a little.
        CHECK(std::fabs(static_cast<double>(got[i]) - want[i]) <= (cubic ? 1.3 : 1.01));
      }
    }
  }
}

TEST_CASE("weights add up to one and stay within the image") {
  for (const auto interpolation : {preprocess::Interpolation::kBilinear, preprocess::Interpolation::kBicubic}) {
    for (const auto& sizes : std::vector<std::pair<std::int64_t, std::int64_t>>{
             {1, 1}, {1, 100}, {100, 1}, {7, 3}, {3, 7}, {65536, 2}, {224, 225}, {65536, 65536}}) {
      const auto [in, out] = sizes;
      const preprocess::Weights weights(in, out, 0, out, interpolation);
      REQUIRE(weights.size() == static_cast<std::size_t>(out));
      CHECK(weights.first_input() == 0);
      CHECK(weights.end_input() == in);
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const auto taps = weights[i];
        std::int64_t sum = 0;
        std::int64_t magnitude = 0;
        for (const std::int32_t value : taps.values) {
          sum += value;
          magnitude += std::abs(value);
        }
        const bool sound = taps.first >= 0 && !taps.values.empty() &&
                           taps.first + static_cast<std::int64_t>(taps.values.size()) <= in &&
                           std::abs(sum - (std::int64_t{1} << preprocess::Weights::kBits)) <=
                               static_cast<std::int64_t>(taps.values.size()) &&
                           magnitude * 255 + (1 << 21) < (std::int64_t{1} << 31);
        if (!sound) FAIL_CHECK(sizes.first << " -> " << sizes.second << " at " << i);
      }
    }
  }
}

TEST_CASE("the shorter side is resized and the longer one rounded down") {
  ImageSpec spec = raw_spec();
  spec.resize_shorter = 256;
  CHECK(preprocess::output_size(spec, {375, 500}).value() == Size{256, 341});
  CHECK(preprocess::output_size(spec, {500, 375}).value() == Size{341, 256});
  CHECK(preprocess::output_size(spec, {256, 300}).value() == Size{256, 300});
  CHECK(preprocess::output_size(spec, {1, 1}).value() == Size{256, 256});
  spec.crop = Size{224, 192};
  CHECK(preprocess::output_size(spec, {375, 500}).value() == Size{224, 192});
}

TEST_CASE("the crop lies in the centre, halves rounded to even, and black fills what is missing") {
  ImageSpec spec = raw_spec();
  spec.channels = preprocess::Channels::kGray;
  const auto line = [&](std::int64_t width, std::int64_t wanted) {
    std::vector<std::uint8_t> pixels;
    for (std::int64_t i = 1; i <= width; ++i) pixels.push_back(static_cast<std::uint8_t>(i));
    spec.crop = Size{1, wanted};
    const auto out = run<std::uint8_t>(spec, pixels, {1, width}, 1);
    return std::vector<int>(out.begin(), out.end());
  };
  CHECK(line(5, 4) == std::vector<int>{1, 2, 3, 4});        // 0.5 -> 0
  CHECK(line(7, 4) == std::vector<int>{3, 4, 5, 6});        // 1.5 -> 2
  CHECK(line(9, 4) == std::vector<int>{3, 4, 5, 6});        // 2.5 -> 2
  CHECK(line(6, 4) == std::vector<int>{2, 3, 4, 5});        // 1
  CHECK(line(3, 6) == std::vector<int>{0, 1, 2, 3, 0, 0});  // one more on the right
  CHECK(line(2, 6) == std::vector<int>{0, 0, 1, 2, 0, 0});
}

TEST_CASE("a crop of a resized image is a part of it") {
  const Size size{37, 53};
  const auto pixels = noise(size, 3, 3);
  ImageSpec spec = raw_spec();
  spec.resize = Size{20, 31};
  const auto whole = run<std::uint8_t>(spec, pixels, size, 3);
  spec.crop = Size{12, 15};
  const auto part = run<std::uint8_t>(spec, pixels, size, 3);
  for (std::size_t y = 0; y < 12; ++y) {
    CHECK(std::memcmp(&part[y * 15 * 3], &whole[((y + 4) * 31 + 8) * 3], 15 * 3) == 0);
  }
}

TEST_CASE("colours: order, gray, alpha, layout") {
  const std::vector<std::uint8_t> rgb = {10, 20, 30, 250, 0, 5};
  ImageSpec spec = raw_spec();
  const Size size{1, 2};
  spec.channels = preprocess::Channels::kBgr;
  CHECK(run<std::uint8_t>(spec, rgb, size, 3) == std::vector<std::uint8_t>{30, 20, 10, 5, 0, 250});
  spec.layout = preprocess::Layout::kNchw;
  CHECK(run<std::uint8_t>(spec, rgb, size, 3) == std::vector<std::uint8_t>{30, 5, 20, 0, 10, 250});
  spec.channels = preprocess::Channels::kRgb;
  const std::vector<std::uint8_t> rgba = {10, 20, 30, 99, 250, 0, 5, 0};
  CHECK(run<std::uint8_t>(spec, rgba, size, 4) == std::vector<std::uint8_t>{10, 250, 20, 0, 30, 5});
  CHECK(run<std::uint8_t>(spec, {7, 9}, size, 1) == std::vector<std::uint8_t>{7, 9, 7, 9, 7, 9});
  spec.channels = preprocess::Channels::kGray;
  // 0.299 R + 0.587 G + 0.114 B
  CHECK(run<std::uint8_t>(spec, rgb, size, 3) == std::vector<std::uint8_t>{18, 75});
  CHECK(run<std::uint8_t>(spec, rgba, size, 4) == std::vector<std::uint8_t>{18, 75});
}

TEST_CASE("values are scaled, shifted and divided in the model's channel order") {
  ImageSpec spec;
  spec.scale = 1.0 / 255.0;
  spec.mean = {0.485, 0.456, 0.406};
  spec.std = {0.229, 0.224, 0.225};
  const std::vector<std::uint8_t> pixel = {255, 128, 0};
  const auto out = run<float>(spec, pixel, {1, 1}, 3);
  for (std::size_t c = 0; c < 3; ++c) {
    const double want = (pixel[c] / 255.0 - spec.mean[c]) / spec.std[c];
    CHECK(static_cast<double>(out[c]) == doctest::Approx(want).epsilon(1e-7));
  }
  spec.channels = preprocess::Channels::kBgr;
  CHECK(static_cast<double>(run<float>(spec, pixel, {1, 1}, 3)[0]) == doctest::Approx((0.0 - 0.485) / 0.229));
  spec.crop = Size{2, 1};  // black is black before it is normalised
  CHECK(static_cast<double>(run<float>(spec, pixel, {1, 1}, 3)[1]) == doctest::Approx((0.0 - 0.485) / 0.229));
}

TEST_CASE("float16 is the nearest one, ties to even") {
  using preprocess::to_half;
  CHECK(to_half(0.0f) == 0x0000);
  CHECK(to_half(-0.0f) == 0x8000);
  CHECK(to_half(1.0f) == 0x3c00);
  CHECK(to_half(-2.0f) == 0xc000);
  CHECK(to_half(65504.0f) == 0x7bff);
  CHECK(to_half(65519.0f) == 0x7bff);
  CHECK(to_half(65520.0f) == 0x7c00);
  CHECK(to_half(1e30f) == 0x7c00);
  CHECK(to_half(1.0f + 1.0f / 2048) == 0x3c00);  // tie
  CHECK(to_half(1.0f + 3.0f / 2048) == 0x3c02);  // tie
  CHECK(to_half(std::ldexp(1.0f, -14)) == 0x0400);
  CHECK(to_half(std::ldexp(1.0f, -24)) == 0x0001);
  CHECK(to_half(std::ldexp(1.0f, -25)) == 0x0000);  // tie
  CHECK(to_half(std::ldexp(1.5f, -25)) == 0x0001);
  CHECK(to_half(std::ldexp(1.0f, -14) - std::ldexp(1.0f, -26)) == 0x0400);  // carries into the exponent
  ImageSpec spec;
  spec.dtype = EB_FLOAT16;
  spec.scale = 0.5;
  CHECK(run<std::uint16_t>(spec, {2, 4, 6}, {1, 1}, 3) == std::vector<std::uint16_t>{0x3c00, 0x4000, 0x4200});
}

TEST_CASE("what does not fit is refused by name") {
  const auto refused = [](const ImageSpec& spec, const std::string& word) {
    const Status status = preprocess::check(spec);
    CHECK(status.code() == Code::kInvalidArgument);
    CHECK_MESSAGE(status.message().find(word) != std::string::npos, status.message());
  };
  const double nan = std::nan("");
  ImageSpec spec;
  spec.resize_shorter = -1, refused(spec, "resize"), spec = {};
  spec.resize_shorter = 16385, refused(spec, "resize"), spec = {};
  spec.resize_shorter = 1, spec.resize = Size{1, 1}, refused(spec, "both"), spec = {};
  spec.resize = Size{0, 1}, refused(spec, "resize"), spec = {};
  spec.crop = Size{1, 16385}, refused(spec, "crop"), spec = {};
  spec.dtype = EB_INT8, refused(spec, "int8"), spec = {};
  spec.scale = 0.0, refused(spec, "scale"), spec = {};
  spec.scale = nan, refused(spec, "scale"), spec = {};
  spec.mean[1] = nan, refused(spec, "mean"), spec = {};
  spec.std[2] = 0.0, refused(spec, "std"), spec = {};
  spec.std[0] = 1e-300, refused(spec, "beyond float32"), spec = {};
  spec.dtype = EB_UINT8, spec.scale = 0.5, refused(spec, "uint8"), spec = {};
  spec.channels = preprocess::Channels::kGray, spec.std[2] = 0.0;  // not used
  CHECK(preprocess::check(spec).ok());

  spec = raw_spec();
  std::vector<std::uint8_t> pixels(12);
  std::vector<std::byte> out(12);
  const auto made = [&](Size size, std::int64_t channels) {
    return preprocess::make_tensor(spec, {pixels, size, channels}, out).code();
  };
  CHECK(made({2, 2}, 3) == Code::kOk);
  CHECK(made({2, 2}, 2) == Code::kInvalidArgument);
  CHECK(made({2, 3}, 3) == Code::kInvalidArgument);
  CHECK(made({0, 2}, 3) == Code::kInvalidArgument);
  CHECK(made({-2, -2}, 3) == Code::kInvalidArgument);
  CHECK(made({65537, 1}, 3) == Code::kInvalidArgument);
  CHECK(made({INT64_MAX, INT64_MAX}, 3) == Code::kInvalidArgument);
  out.resize(11);
  CHECK(made({2, 2}, 3) == Code::kInvalidArgument);
  spec.resize_shorter = 16384;  // of an image of 1 x 65536: a billion columns
  CHECK(preprocess::output_size(spec, {1, 65536}).status().code() == Code::kInvalidArgument);
  spec.crop = Size{2, 2};
  CHECK(preprocess::output_size(spec, {1, 65536}).ok());
}
