#include <limits>

#include "bundle/manifest_reader.hpp"

namespace edgebuild::bundle {

using json::Kind;
using json::Value;
using preprocess::Channels;
using preprocess::ImageSpec;
using preprocess::Interpolation;
using preprocess::kMaxSpecSide;
using preprocess::Layout;
using preprocess::Size;

namespace {

Size read_size(ManifestReader& reader, const Value& value) {
  Size size;
  if (const auto height = reader.required(value, "height")) size.height = reader.integer(*height, 1, kMaxSpecSide);
  if (const auto width = reader.required(value, "width")) size.width = reader.integer(*width, 1, kMaxSpecSide);
  return size;
}

void read_resize(ManifestReader& reader, const Value& value, ImageSpec& spec) {
  if (value.is(Kind::kNull) || !reader.expect(value, Kind::kObject)) return;
  const auto shorter = ManifestReader::member(value, "shorter");
  if (!shorter) {
    spec.resize = read_size(reader, value);
    return;
  }
  if (ManifestReader::member(value, "height") || ManifestReader::member(value, "width")) {
    reader.fail(value, "expected 'shorter', or 'height' and 'width', got both");
    return;
  }
  spec.resize_shorter = reader.integer(*shorter, 1, kMaxSpecSide);
}

std::array<double, 3> read_channels(ManifestReader& reader, const Value& value, std::size_t count) {
  std::array<double, 3> numbers{};
  if (!reader.expect(value, Kind::kArray)) return numbers;
  if (value.size() != count) {
    reader.fail(value,
                "expected " + std::to_string(count) + " numbers, one a channel, got " + std::to_string(value.size()));
    return numbers;
  }
  std::size_t index = 0;
  for (const Value item : value) {
    if (!reader.ok()) break;
    numbers[index++] = reader.number(item, std::numeric_limits<double>::lowest());
  }
  return numbers;
}

bool allows(const Dim& dim, std::int64_t size) { return dim.kind != Dim::Kind::kFixed || dim.size == size; }

// What the spec makes is what the signature takes, as far as both can be known.
void check_fits(ManifestReader& reader, const Value& at, const ImageSpec& spec, const TypeSpec& type) {
  if (type.kind != EB_KIND_TENSOR || type.dtype != spec.dtype) {
    reader.fail(at, std::string("makes a tensor of ") + dtype_name(spec.dtype) + ", the input is " + to_string(type));
    return;
  }
  if (!type.shape) return;
  const std::vector<Dim>& shape = *type.shape;
  const std::size_t first = spec.layout == Layout::kNchw ? 2 : 1;
  bool fits = shape.size() == 4;
  fits = fits && allows(shape[spec.layout == Layout::kNchw ? 1 : 3], static_cast<std::int64_t>(channel_count(spec)));
  if (const std::optional<Size> size = spec.crop ? spec.crop : spec.resize; fits && size) {
    fits = allows(shape[first], size->height) && allows(shape[first + 1], size->width);
  }
  if (!fits) reader.fail(at, "makes tensors of other sizes than those of the input, " + to_string(type));
}

ImageSpec read_image(ManifestReader& reader, const Value& value) {
  ImageSpec spec;
  if (!reader.expect(value, Kind::kObject)) return spec;
  if (const auto kind = reader.required(value, "kind")) reader.one_of(*kind, {"image"});
  if (const auto resize = reader.required(value, "resize")) read_resize(reader, *resize, spec);
  if (const auto crop = reader.required(value, "crop"); crop && !crop->is(Kind::kNull)) {
    if (reader.expect(*crop, Kind::kObject)) spec.crop = read_size(reader, *crop);
  }
  if (const auto interpolation = reader.required(value, "interpolation")) {
    spec.interpolation = static_cast<Interpolation>(reader.one_of(*interpolation, {"bilinear", "bicubic"}));
  }
  if (const auto channels = reader.required(value, "channels")) {
    spec.channels = static_cast<Channels>(reader.one_of(*channels, {"rgb", "bgr", "gray"}));
  }
  if (const auto layout = reader.required(value, "layout")) {
    spec.layout = static_cast<Layout>(reader.one_of(*layout, {"nchw", "nhwc"}));
  }
  if (const auto dtype = reader.required(value, "dtype")) spec.dtype = reader.dtype(*dtype);
  if (const auto scale = reader.required(value, "scale")) spec.scale = reader.number(*scale, 0.0);
  if (!reader.ok()) return spec;
  const std::size_t count = channel_count(spec);
  if (const auto mean = reader.required(value, "mean")) spec.mean = read_channels(reader, *mean, count);
  if (const auto std = reader.required(value, "std")) spec.std = read_channels(reader, *std, count);
  if (!reader.ok()) return spec;
  if (const Status status = preprocess::check(spec); !status.ok()) reader.fail(value, status.message());
  return spec;
}

}  // namespace

void read_preprocessing(ManifestReader& reader, const Value& preprocessing, Manifest& manifest) {
  if (preprocessing.is(Kind::kNull) || !reader.expect(preprocessing, Kind::kObject)) return;
  const auto inputs = reader.required(preprocessing, "inputs");
  if (!inputs || !reader.expect(*inputs, Kind::kObject)) return;
  if (inputs->size() == 0) reader.fail(*inputs, "expected at least one input");
  for (const Value entry : *inputs) {
    if (!reader.ok()) return;
    const ValueSpec* input = nullptr;
    for (const ValueSpec& spec : manifest.signature.inputs) {
      if (spec.name == entry.key()) input = &spec;
    }
    if (input == nullptr) {
      reader.fail(entry, "the signature has no such input");
      return;
    }
    const ImageSpec spec = read_image(reader, entry);
    if (!reader.ok()) return;
    check_fits(reader, entry, spec, input->type);
    manifest.preprocessing.emplace(entry.key(), spec);
  }
}

}  // namespace edgebuild::bundle
