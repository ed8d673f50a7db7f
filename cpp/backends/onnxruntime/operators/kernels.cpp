#include "onnxruntime/operators/kernels.hpp"

#include <algorithm>
#include <cstdint>
#include <new>
#include <string>
#include <vector>

#include "onnxruntime/operators/rows.hpp"
#include "onnxruntime/ort.hpp"

namespace edgebuild::onnxruntime {
namespace {

/// Values that one thread goes over at least: sharing out takes a few microseconds.
constexpr std::size_t kLeastShare = std::size_t{1} << 14;
constexpr std::size_t kMostShares = 64;

OrtStatus* refuse(const OrtApi& api, const char* name, const std::string& what) {
  return api.CreateStatus(ORT_INVALID_ARGUMENT, (std::string(name) + ": " + what).c_str());
}

std::string counts(const char* what, std::size_t expected, std::size_t got) {
  return std::string("expected ") + std::to_string(expected) + " " + what + ", got " + std::to_string(got);
}

/// An input as the kernel gets it; `data` is null where it is left out.
template <typename T>
struct Input {
  const T* data = nullptr;
  std::vector<std::int64_t> shape;
  std::size_t count = 0;
};

template <typename T>
OrtStatus* read(const OrtApi& api, const OrtKernelContext& context, std::size_t index, Input<T>* out) {
  std::size_t given = 0;
  EDGEBUILD_ORT_TRY(api.KernelContext_GetInputCount(&context, &given));
  if (index >= given) return nullptr;
  const OrtValue* value = nullptr;
  EDGEBUILD_ORT_TRY(api.KernelContext_GetInput(&context, index, &value));
  if (value == nullptr) return nullptr;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  EDGEBUILD_ORT_TRY(api.GetTensorTypeAndShape(value, &info));
  const Handle<OrtTensorTypeAndShapeInfo> owned(info, api.ReleaseTensorTypeAndShapeInfo);
  std::size_t rank = 0;
  EDGEBUILD_ORT_TRY(api.GetDimensionsCount(info, &rank));
  out->shape.resize(rank);
  EDGEBUILD_ORT_TRY(api.GetDimensions(info, out->shape.data(), rank));
  EDGEBUILD_ORT_TRY(api.GetTensorShapeElementCount(info, &out->count));
  static const T kNothing = {};
  void* data = nullptr;
  EDGEBUILD_ORT_TRY(api.GetTensorMutableData(const_cast<OrtValue*>(value), &data));  // This API's only way to them.
  out->data = data != nullptr ? static_cast<const T*>(data) : &kNothing;  // A tensor without elements is one.
  return nullptr;
}

/// Makes an output. A graph may leave out any that the schema calls optional, with an empty name.
template <typename T>
OrtStatus* write(const OrtApi& api, OrtKernelContext& context, const char* name, std::size_t index,
                 const std::vector<std::int64_t>& shape, T** out) {
  OrtValue* value = nullptr;
  EDGEBUILD_ORT_TRY(api.KernelContext_GetOutput(&context, index, shape.data(), shape.size(), &value));
  if (value == nullptr) return refuse(api, name, "output " + std::to_string(index) + " is left out");
  void* data = nullptr;
  EDGEBUILD_ORT_TRY(api.GetTensorMutableData(value, &data));
  *out = static_cast<T*>(data);
  return nullptr;
}

std::size_t elements(const std::vector<std::int64_t>& shape) noexcept {
  std::size_t count = 1;
  for (const std::int64_t size : shape) count *= static_cast<std::size_t>(size);
  return count;
}

/// Rows of a tensor shared out among the engine's threads.
struct Shares {
  std::size_t rows = 0;
  std::size_t each = 1;
  std::size_t count = 0;

  Shares(std::size_t all_rows, std::size_t width) noexcept : rows(all_rows) {
    const std::size_t least = std::max<std::size_t>(1, kLeastShare / std::max<std::size_t>(1, width));
    each = std::max(least, (rows + kMostShares - 1) / kMostShares);
    count = (rows + each - 1) / each;
  }
  [[nodiscard]] std::size_t begin(std::size_t share) const noexcept { return share * each; }
  [[nodiscard]] std::size_t size(std::size_t share) const noexcept { return std::min(each, rows - share * each); }
};

/// Calls `work(share)` for every share, on the engine's threads.
template <typename Work>
OrtStatus* share_out(const OrtApi& api, const OrtKernelContext& context, std::size_t shares, const Work& work) {
  if (shares == 1) work(0);
  if (shares <= 1) return nullptr;
  const auto call = [](void* data, std::size_t share) { (*static_cast<const Work*>(data))(share); };
  return api.KernelContext_ParallelFor(&context, call, shares, 0, const_cast<Work*>(&work));
}

/// An attribute that is one of two numbers: whether it is `least + 1`.
OrtStatus* read_either(const OrtApi& api, const OrtKernelInfo& info, const char* name, const char* attribute,
                       std::int64_t least, bool* more) {
  std::int64_t value = 0;
  EDGEBUILD_ORT_TRY(api.KernelInfoGetAttribute_int64(&info, attribute, &value));
  if (value != least && value != least + 1) {
    return refuse(api, name,
                  "expected " + std::to_string(least) + " or " + std::to_string(least + 1) + " for '" + attribute +
                      "', got " + std::to_string(value));
  }
  *more = value != least;
  return nullptr;
}

/// Nothing is thrown into the engine, which may be made with another C++ library.
template <typename Body>
OrtStatus* guarded(const OrtApi& api, const Body& body) noexcept {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ORT_FAIL, "out of memory");  // The engine says in which node. No string could be made here.
  }
}

}  // namespace

OrtStatus* QuantizeRows::create(const OrtApi& api, const OrtKernelInfo& info, QuantizeRows** out) {
  return guarded(api, [&]() -> OrtStatus* {
    bool scale_rows = false;
    bool two_terms = false;
    EDGEBUILD_ORT_TRY(read_either(api, info, kName, "scale_rows", 0, &scale_rows));
    EDGEBUILD_ORT_TRY(read_either(api, info, kName, "terms", 1, &two_terms));
    if (two_terms && !scale_rows) return refuse(api, kName, "two terms need scaled rows");
    // One too many would be read unwritten.
    const std::size_t expected = !scale_rows ? 3 : two_terms ? 4 : kOutputs.size();
    std::size_t outputs = 0;
    EDGEBUILD_ORT_TRY(api.KernelInfo_GetOutputCount(&info, &outputs));
    if (outputs != expected) return refuse(api, kName, counts("outputs", expected, outputs));
    *out = new QuantizeRows(api, scale_rows, two_terms);
    return nullptr;
  });
}

OrtStatus* QuantizeRows::compute(OrtKernelContext& context) const {
  return guarded(api_, [&]() -> OrtStatus* {
    Input<float> rows, factors, shifts;
    Input<std::int64_t> columns;
    EDGEBUILD_ORT_TRY(read(api_, context, 0, &rows));
    EDGEBUILD_ORT_TRY(read(api_, context, 1, &factors));
    EDGEBUILD_ORT_TRY(read(api_, context, 2, &columns));
    EDGEBUILD_ORT_TRY(read(api_, context, 3, &shifts));
    if (rows.data == nullptr || rows.shape.empty()) return refuse(api_, kName, "expected rows, got a scalar");

    RowPreparation preparation;
    preparation.depth = static_cast<std::size_t>(rows.shape.back());
    preparation.copies = columns.count;
    preparation.factors = factors.data;
    preparation.columns = columns.data;
    preparation.shifts = shifts.data;
    const std::size_t width = preparation.width();
    if (factors.data != nullptr && factors.count != width) {
      return refuse(api_, kName, counts("factors", width, factors.count));
    }
    if (shifts.data != nullptr && shifts.count != columns.count) {
      return refuse(api_, kName, counts("shifts", columns.count, shifts.count));
    }
    for (std::size_t i = 0; i < columns.count; ++i) {
      if (columns.data[i] < 0 || columns.data[i] >= rows.shape.back()) {
        return refuse(api_, kName,
                      "column " + std::to_string(columns.data[i]) + " of rows of " + std::to_string(preparation.depth) +
                          " values");
      }
    }

    std::vector<std::int64_t> shape = rows.shape;
    if (two_terms_) shape.insert(shape.begin(), 2);
    shape.back() = static_cast<std::int64_t>(width);
    std::uint8_t* integers = nullptr;
    float* scale = nullptr;
    std::uint8_t* zero_point = nullptr;
    float* sizes = nullptr;
    float* offsets = nullptr;
    EDGEBUILD_ORT_TRY(write(api_, context, kName, 0, shape, &integers));
    EDGEBUILD_ORT_TRY(write(api_, context, kName, 1, {}, &scale));
    EDGEBUILD_ORT_TRY(write(api_, context, kName, 2, {}, &zero_point));
    if (scale_rows_) {
      shape.back() = 1;
      EDGEBUILD_ORT_TRY(write(api_, context, kName, 3, shape, &sizes));
      if (!two_terms_) EDGEBUILD_ORT_TRY(write(api_, context, kName, 4, shape, &offsets));
      if (width == 0) {  // Rows without values have sizes too.
        std::fill_n(sizes, elements(shape), 1.0f);
        if (!two_terms_) std::fill_n(offsets, elements(shape), 0.0f);
      }
      *scale = 1.0f;
      *zero_point = kMiddle;
    }

    const std::size_t count = preparation.depth == 0 ? 0 : rows.count / preparation.depth;
    const Shares shares(count, width);
    const bool prepared = factors.data != nullptr || columns.count > 0;
    std::vector<Extent> extents(shares.count);
    std::vector<float> scratch(prepared ? shares.count * width : 0);
    const auto own_scratch = [&](std::size_t share) { return prepared ? scratch.data() + share * width : nullptr; };
    if (two_terms_) {
      return share_out(api_, context, shares.count, [&](std::size_t share) {
        const std::size_t begin = shares.begin(share);
        const Terms terms = {{sizes + begin, sizes + count + begin},
                             {integers + begin * width, integers + (count + begin) * width}};
        quantize_in_terms(preparation, rows.data + begin * preparation.depth, shares.size(share), own_scratch(share),
                          terms);
      });
    }
    if (scale_rows_) {
      return share_out(api_, context, shares.count, [&](std::size_t share) {
        const std::size_t begin = shares.begin(share);
        quantize_each_row(preparation, rows.data + begin * preparation.depth, shares.size(share), own_scratch(share),
                          sizes + begin, offsets + begin, integers + begin * width);
      });
    }
    EDGEBUILD_ORT_TRY(share_out(api_, context, shares.count, [&](std::size_t share) {
      const std::size_t begin = shares.begin(share);
      extents[share] =
          measure_rows(preparation, rows.data + begin * preparation.depth, shares.size(share), own_scratch(share));
    }));
    Extent extent;
    for (const Extent& part : extents) extent.include(part);
    const Quantization quantization = quantization_of(extent);
    *scale = quantization.scale;
    *zero_point = quantization.zero_point;
    return share_out(api_, context, shares.count, [&](std::size_t share) {
      const std::size_t begin = shares.begin(share);
      quantize_rows(preparation, rows.data + begin * preparation.depth, shares.size(share), quantization,
                    own_scratch(share), integers + begin * width);
    });
  });
}

OrtStatus* RescaleRows::create(const OrtApi& api, const OrtKernelInfo& info, RescaleRows** out) {
  return guarded(api, [&]() -> OrtStatus* {
    bool two_terms = false;
    bool gelu = false;
    EDGEBUILD_ORT_TRY(read_either(api, info, kName, "terms", 1, &two_terms));
    EDGEBUILD_ORT_TRY(read_either(api, info, kName, "gelu", 0, &gelu));
    *out = new RescaleRows(api, two_terms, gelu);
    return nullptr;
  });
}

OrtStatus* RescaleRows::compute(OrtKernelContext& context) const {
  return guarded(api_, [&]() -> OrtStatus* {
    Input<float> rows, sizes, bias, offsets, sums;
    EDGEBUILD_ORT_TRY(read(api_, context, 0, &rows));
    EDGEBUILD_ORT_TRY(read(api_, context, 1, &sizes));
    EDGEBUILD_ORT_TRY(read(api_, context, 2, &bias));
    EDGEBUILD_ORT_TRY(read(api_, context, 3, &offsets));
    EDGEBUILD_ORT_TRY(read(api_, context, 4, &sums));
    if (rows.data == nullptr || rows.shape.empty()) return refuse(api_, kName, "expected rows, got a scalar");
    const auto width = static_cast<std::size_t>(rows.shape.back());
    const std::size_t all = width == 0 ? 0 : rows.count / width;
    if (two_terms_ && (rows.shape.size() < 2 || rows.shape.front() != 2)) {
      return refuse(api_, kName, "expected the rows of two terms along the first axis");
    }
    if (sizes.count != all && width != 0) return refuse(api_, kName, counts("sizes", all, sizes.count));
    if (bias.data != nullptr && bias.count != width) return refuse(api_, kName, counts("biases", width, bias.count));
    if (offsets.data != nullptr && (two_terms_ || sums.data == nullptr)) {
      return refuse(api_, kName, "offsets need sums, and one term");
    }
    if (offsets.data != nullptr && offsets.count != all && width != 0) {
      return refuse(api_, kName, counts("offsets", all, offsets.count));
    }
    if (sums.data != nullptr && sums.count != width) return refuse(api_, kName, counts("sums", width, sums.count));
    float* out = nullptr;
    std::vector<std::int64_t> shape = rows.shape;
    if (two_terms_) shape.erase(shape.begin());
    EDGEBUILD_ORT_TRY(write(api_, context, kName, 0, shape, &out));
    const std::size_t count = two_terms_ ? all / 2 : all;
    const Shares shares(count, width);
    return share_out(api_, context, shares.count, [&](std::size_t share) {
      const std::size_t begin = shares.begin(share);
      Rescaling rescaling;
      rescaling.width = width;
      rescaling.sizes = sizes.data + begin;
      rescaling.bias = bias.data;
      rescaling.offsets = offsets.data == nullptr ? nullptr : offsets.data + begin;
      rescaling.sums = sums.data;
      rescaling.gelu = gelu_;
      if (two_terms_) {
        rescaling.second = rows.data + (count + begin) * width;
        rescaling.second_sizes = sizes.data + count + begin;
      }
      rescale_rows(rescaling, rows.data + begin * width, shares.size(share), out + begin * width);
    });
  });
}

}  // namespace edgebuild::onnxruntime
