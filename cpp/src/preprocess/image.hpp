// The one implementation of image preprocessing: calibration uses it through the binding, the runner on request.

#ifndef EDGEBUILD_SRC_PREPROCESS_IMAGE_HPP_
#define EDGEBUILD_SRC_PREPROCESS_IMAGE_HPP_

#include <cstddef>
#include <cstdint>
#include <span>

#include "edgebuild/status.hpp"
#include "preprocess/spec.hpp"

namespace edgebuild::preprocess {

/// A decoded image: `height` x `width` pixels of `channels` bytes (1 gray, 3 RGB, 4 RGBA), row-major, without gaps.
struct ImageView {
  std::span<const std::uint8_t> pixels;
  Size size;
  std::int64_t channels = 3;
};

/// Height and width of what is made of an image.
///
/// The shorter side becomes `resize_shorter`, the longer one `resize_shorter * longer / shorter`, rounded down, as in
/// torchvision. kInvalidArgument if the image, or what is made of it, has no pixel or a side above kMaxImageSide.
[[nodiscard]] Result<Size> output_size(const ImageSpec& spec, Size image);

/// Makes one image into one tensor.
///
/// Resizing is antialiased and rounds to whole grey levels, across first and then down, as Pillow does it. The crop
/// begins at half the difference, rounded half to even, as in torchvision; where the image is smaller, black is added,
/// on the right and below one pixel more if the difference is odd. Gray is (19595 R + 38470 G + 7471 B + 32768) >> 16.
/// An alpha channel is dropped.
///
/// @param out  `channel_count x output_size` elements of the spec's dtype, in its layout, aligned for that dtype.
/// @return kInvalidArgument: the spec, the image's sizes, `pixels` or `out` do not fit each other; kResourceExhausted.
/// Threads: any number at once.
[[nodiscard]] Status make_tensor(const ImageSpec& spec, const ImageView& image, std::span<std::byte> out);

}  // namespace edgebuild::preprocess

#endif  // EDGEBUILD_SRC_PREPROCESS_IMAGE_HPP_
