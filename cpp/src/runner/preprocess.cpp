#include "runner/preprocess.hpp"

#include <array>
#include <string>

#include "preprocess/image.hpp"
#include "runner/check.hpp"

namespace edgebuild::runner {

using preprocess::ImageView;
using preprocess::Layout;
using preprocess::Size;

namespace {

Status refuse(const std::string& message) { return {Code::kInvalidArgument, "preprocessing: " + message}; }

}  // namespace

Result<Value> preprocess_images(const preprocess::ImageSpec& spec, const eb_value& images) {
  EDGEBUILD_RETURN_IF_ERROR(preprocess::check(spec));
  if (images.kind != EB_KIND_TENSOR || images.dtype != EB_UINT8) {
    const char* got = images.kind == EB_KIND_TENSOR ? dtype_name(static_cast<DType>(images.dtype)) : "no tensor";
    return refuse(std::string("expected decoded images as uint8, got ") + got);
  }
  const std::size_t rank = images.rank;
  if (rank < 2 || rank > 4) {
    return refuse("expected images as (H,W), (H,W,C) or (N,H,W,C), got rank " + std::to_string(rank));
  }
  const std::optional<std::uint64_t> bytes = tensor_byte_size(images);
  if (!bytes || *bytes != images.byte_size) return refuse("the images' size in bytes is not that of their shape");
  const std::size_t at = rank == 4 ? 1 : 0;
  const std::int64_t count = rank == 4 ? images.shape[0] : 1;
  const Size size{images.shape[at], images.shape[at + 1]};
  const std::int64_t channels = rank == 2 ? 1 : images.shape[at + 2];
  const Result<Size> made = preprocess::output_size(spec, size);
  if (!made.ok()) return made.status();

  const auto planes = static_cast<std::int64_t>(channel_count(spec));
  std::array<std::int64_t, 4> shape = {count, planes, made.value().height, made.value().width};
  if (spec.layout == Layout::kNhwc) shape = {count, made.value().height, made.value().width, planes};
  Result<Value> out = Value::allocate(spec.dtype, shape);
  if (!out.ok() || count == 0) return out;
  const std::size_t from = static_cast<std::size_t>(*bytes) / static_cast<std::size_t>(count);
  const std::size_t to = out.value().byte_size() / static_cast<std::size_t>(count);
  for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
    const ImageView view{{static_cast<const std::uint8_t*>(images.data) + i * from, from}, size, channels};
    auto* const target = static_cast<std::byte*>(out.value().mutable_data()) + i * to;
    EDGEBUILD_RETURN_IF_ERROR(preprocess::make_tensor(spec, view, {target, to}));
  }
  return out;
}

}  // namespace edgebuild::runner
