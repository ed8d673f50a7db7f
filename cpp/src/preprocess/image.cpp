#include "preprocess/image.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "preprocess/half.hpp"
#include "preprocess/resample.hpp"

namespace edgebuild::preprocess {
namespace {

using Table = std::array<std::array<float, 256>, 3>;

Status refuse(std::string message) { return {Code::kInvalidArgument, "preprocessing: " + std::move(message)}; }

std::string text(Size size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

/// Both sides are within kMaxImageSide, so 64 bits hold it; std::size_t does once a buffer has been seen to have it.
std::uint64_t area(Size size) {
  return static_cast<std::uint64_t>(size.height) * static_cast<std::uint64_t>(size.width);
}

// Only the sizes of images have been checked before this.
Size resized(const ImageSpec& spec, Size image) {
  if (spec.resize) return *spec.resize;
  if (spec.resize_shorter == 0) return image;
  if (image.height <= image.width) return {spec.resize_shorter, spec.resize_shorter * image.width / image.height};
  return {spec.resize_shorter * image.height / image.width, spec.resize_shorter};
}

/// Where one axis of the resized image lies in the output.
struct Window {
  std::int64_t source;       ///< First resized pixel that is used.
  std::int64_t count;        ///< How many are used.
  std::int64_t destination;  ///< Where the first one goes.
};

Window window(std::int64_t size, std::int64_t wanted) {
  if (wanted > size) return {0, size, (wanted - size) / 2};
  const std::int64_t spare = size - wanted;
  std::int64_t begin = spare / 2;
  if (spare % 2 != 0 && begin % 2 != 0) ++begin;  // half to even
  return {begin, wanted, 0};
}

/// Value of every grey level in every channel. Doubles, so that the last rounding is the only one that counts.
Table values(const ImageSpec& spec) {
  Table table{};
  for (std::size_t c = 0; c < channel_count(spec); ++c) {
    for (std::size_t level = 0; level < 256; ++level) {
      const double scaled = static_cast<double>(level) * spec.scale;
      table[c][level] = static_cast<float>((scaled - spec.mean[c]) / spec.std[c]);
    }
  }
  return table;
}

/// One row of the image in the channels that are resampled: 1 gray, or 3 in the image's order.
void convert_row(const std::uint8_t* row, std::int64_t channels, bool gray, std::span<std::uint8_t> out) {
  const std::size_t made = gray ? 1 : 3;
  const std::size_t count = out.size() / made;
  const auto step = static_cast<std::size_t>(channels);
  for (std::size_t x = 0; x < count; ++x, row += step) {
    std::uint8_t* const pixel = out.data() + x * made;
    if (step == 1) {
      std::fill_n(pixel, made, row[0]);
    } else if (gray) {
      const unsigned sum = 19595u * row[0] + 38470u * row[1] + 7471u * row[2] + 32768u;
      pixel[0] = static_cast<std::uint8_t>(sum >> 16);
    } else {
      std::copy_n(row, 3, pixel);
    }
  }
}

template <typename Element>
class Writer {
 public:
  Writer(const ImageSpec& spec, Size size, const std::array<std::array<Element, 256>, 3>& table, Element* out)
      : spec_(spec), size_(size), pixels_(static_cast<std::size_t>(area(size))), table_(table), out_(out) {}

  void fill_black() {
    const std::size_t channels = channel_count(spec_);
    for (std::size_t c = 0; c < channels; ++c) {
      for (std::size_t i = 0; i < pixels_; ++i) out_[at(c, i)] = table_[c][0];
    }
  }

  void write(std::int64_t y, std::int64_t x, std::span<const std::uint8_t> row) {
    const std::size_t channels = channel_count(spec_);
    const std::size_t first =
        static_cast<std::size_t>(y) * static_cast<std::size_t>(size_.width) + static_cast<std::size_t>(x);
    for (std::size_t c = 0; c < channels; ++c) {
      const std::size_t from = spec_.channels == Channels::kBgr ? 2 - c : c;
      const auto& levels = table_[c];
      for (std::size_t i = 0; i < row.size() / channels; ++i) {
        out_[at(c, first + i)] = levels[row[i * channels + from]];
      }
    }
  }

 private:
  [[nodiscard]] std::size_t at(std::size_t channel, std::size_t pixel) const {
    return spec_.layout == Layout::kNchw ? channel * pixels_ + pixel : pixel * channel_count(spec_) + channel;
  }

  const ImageSpec& spec_;
  Size size_;
  std::size_t pixels_;
  const std::array<std::array<Element, 256>, 3>& table_;
  Element* out_;
};

template <typename Element>
void make(const ImageSpec& spec, const ImageView& image, Size size,
          const std::array<std::array<Element, 256>, 3>& table, Element* out) {
  const std::size_t channels = channel_count(spec);
  const bool gray = channels == 1;
  const Size full = resized(spec, image.size);
  const Window down = window(full.height, size.height);
  const Window across = window(full.width, size.width);
  const Weights columns(image.size.width, full.width, across.source, across.count, spec.interpolation);
  const Weights rows(image.size.height, full.height, down.source, down.count, spec.interpolation);

  std::vector<std::uint8_t> input(static_cast<std::size_t>(image.size.width) * channels);
  const std::size_t stride = columns.size() * channels;
  const auto used = static_cast<std::size_t>(rows.end_input() - rows.first_input());
  if (stride > std::numeric_limits<std::size_t>::max() / used) throw std::bad_alloc();  // on a 32-bit board
  std::vector<std::uint8_t> narrowed(used * stride);
  const std::size_t row_bytes = static_cast<std::size_t>(image.size.width) * static_cast<std::size_t>(image.channels);
  for (std::size_t y = 0; y < used; ++y) {
    const std::size_t source = static_cast<std::size_t>(rows.first_input()) + y;
    convert_row(image.pixels.data() + source * row_bytes, image.channels, gray, input);
    resample_row(input, channels, columns, std::span(narrowed).subspan(y * stride, stride));
  }
  Writer<Element> writer(spec, size, table, out);
  if (down.count < size.height || across.count < size.width) writer.fill_black();
  std::vector<std::uint8_t> line(stride);
  for (std::size_t y = 0; y < rows.size(); ++y) {
    resample_column(narrowed, rows, y, line);
    writer.write(down.destination + static_cast<std::int64_t>(y), across.destination, line);
  }
}

Status make_checked(const ImageSpec& spec, const ImageView& image, Size size, std::span<std::byte> out) {
  const Table table = values(spec);
  if (spec.dtype == EB_FLOAT32) {
    make(spec, image, size, table, reinterpret_cast<float*>(out.data()));
  } else if (spec.dtype == EB_FLOAT16) {
    std::array<std::array<std::uint16_t, 256>, 3> halves{};
    for (std::size_t c = 0; c < 3; ++c) std::transform(table[c].begin(), table[c].end(), halves[c].begin(), to_half);
    make(spec, image, size, halves, reinterpret_cast<std::uint16_t*>(out.data()));
  } else {
    std::array<std::array<std::uint8_t, 256>, 3> levels{};
    for (auto& channel : levels) {
      for (std::size_t level = 0; level < 256; ++level) channel[level] = static_cast<std::uint8_t>(level);
    }
    make(spec, image, size, levels, reinterpret_cast<std::uint8_t*>(out.data()));
  }
  return {};
}

}  // namespace

Result<Size> output_size(const ImageSpec& spec, Size image) {
  if (!within(image, kMaxImageSide)) {
    return refuse("expected an image with sides from 1 to " + std::to_string(kMaxImageSide) + ", got " + text(image));
  }
  const Size size = spec.crop.value_or(resized(spec, image));
  if (!within(size, kMaxImageSide)) {
    return refuse("an image of " + text(image) + " would become " + text(size) + ", expected sides up to " +
                  std::to_string(kMaxImageSide));
  }
  return size;
}

Status make_tensor(const ImageSpec& spec, const ImageView& image, std::span<std::byte> out) {
  EDGEBUILD_RETURN_IF_ERROR(check(spec));
  Result<Size> size = output_size(spec, image.size);
  if (!size.ok()) return size.status();
  if (image.channels != 1 && image.channels != 3 && image.channels != 4) {
    return refuse("expected 1, 3 or 4 channels, got " + std::to_string(image.channels));
  }
  const std::uint64_t given = area(image.size) * static_cast<std::uint64_t>(image.channels);
  if (image.pixels.size() != given) {
    return refuse("expected " + std::to_string(given) + " bytes of pixels, got " + std::to_string(image.pixels.size()));
  }
  const std::uint64_t needed = area(size.value()) * channel_count(spec) * (dtype_bits(spec.dtype) / 8);
  if (out.size() != needed) {
    return refuse("expected room for " + std::to_string(needed) + " bytes, got " + std::to_string(out.size()));
  }
  try {
    return make_checked(spec, image, size.value(), out);
  } catch (const std::bad_alloc&) {
    return Status(Code::kResourceExhausted, "preprocessing: out of memory");
  } catch (const std::length_error&) {
    return Status(Code::kResourceExhausted, "preprocessing: out of memory");
  }
}

}  // namespace edgebuild::preprocess
