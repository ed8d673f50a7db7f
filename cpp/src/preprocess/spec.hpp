// ImageSpec: how a decoded image becomes a model's input; from a manifest's `preprocessing` (docs/bundle-format.md).

#ifndef EDGEBUILD_SRC_PREPROCESS_SPEC_HPP_
#define EDGEBUILD_SRC_PREPROCESS_SPEC_HPP_

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "edgebuild/signature.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::preprocess {

/// Largest size that a spec may name, in pixels.
inline constexpr std::int64_t kMaxSpecSide = 16384;
/// Largest side of an image, and of what is made of it, in pixels.
inline constexpr std::int64_t kMaxImageSide = 65536;

struct Size {
  std::int64_t height = 0;
  std::int64_t width = 0;

  friend bool operator==(const Size&, const Size&) = default;
};

enum class Interpolation { kBilinear, kBicubic };
enum class Channels { kRgb, kBgr, kGray };  ///< What the model takes; images are RGB.
enum class Layout { kNchw, kNhwc };

/// Steps in their order: colour, resize, centre crop, `(pixel * scale - mean) / std`, dtype, layout.
struct ImageSpec {
  std::int64_t resize_shorter = 0;  ///< The shorter side's new size, keeping the aspect ratio; 0: not this way.
  std::optional<Size> resize;       ///< The exact new size; not together with `resize_shorter`.
  std::optional<Size> crop;         ///< Around the centre; black is added where the image is smaller.
  Interpolation interpolation = Interpolation::kBilinear;
  Channels channels = Channels::kRgb;
  Layout layout = Layout::kNchw;
  DType dtype = EB_FLOAT32;  ///< float32, float16 or uint8 (then scale 1, mean 0, std 1).
  double scale = 1.0;
  std::array<double, 3> mean = {0.0, 0.0, 0.0};  ///< In the model's channel order; the first one if it is gray.
  std::array<double, 3> std = {1.0, 1.0, 1.0};
};

[[nodiscard]] constexpr std::size_t channel_count(const ImageSpec& spec) noexcept {
  return spec.channels == Channels::kGray ? 1 : 3;
}

[[nodiscard]] constexpr bool within(Size size, std::int64_t most) noexcept {
  return size.height >= 1 && size.width >= 1 && size.height <= most && size.width <= most;
}

/// Whether a spec makes sense by itself. kInvalidArgument, naming the field, expected and got.
[[nodiscard]] Status check(const ImageSpec& spec);

}  // namespace edgebuild::preprocess

#endif  // EDGEBUILD_SRC_PREPROCESS_SPEC_HPP_
