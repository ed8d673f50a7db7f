#include "statistics/channel_statistics.hpp"

#include <algorithm>
#include <limits>
#include <string>

#include "statistics/elements.hpp"
#include "statistics/vectors.hpp"

namespace edgebuild::statistics {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Moments {
  float low = kInfinity;
  float high = -kInfinity;
  double sum = 0;
  double squares = 0;

  void take(float value) noexcept {
    low = value < low ? value : low;
    high = value > high ? value : high;
    const double wide = value;
    sum += wide;
    squares += wide * wide;
  }
};

// Of one channel's values that lie side by side.
Moments run_of(const float* data, std::size_t count) noexcept {
  Floats low = floats_of(kInfinity), high = floats_of(-kInfinity);
  Doubles sum_front{}, sum_back{}, squares_front{}, squares_back{};
  std::size_t i = 0;
  for (; i + kFloats <= count; i += kFloats) {
    const Floats values = load(data + i);
    low = values < low ? values : low;
    high = values > high ? values : high;
    const Doubles front{values[0], values[1]}, back{values[2], values[3]};
    sum_front += front;
    sum_back += back;
    squares_front += front * front;
    squares_back += back * back;
  }
  Moments all;
  for (; i < count; ++i) all.take(data[i]);
  all.low = std::min(all.low, least(low));
  all.high = std::max(all.high, most(high));
  all.sum += (sum_front[0] + sum_front[1]) + (sum_back[0] + sum_back[1]);
  all.squares += (squares_front[0] + squares_front[1]) + (squares_back[0] + squares_back[1]);
  return all;
}

// One value of each channel.
void take_row(const float* __restrict data, std::size_t channels, float* __restrict low, float* __restrict high,
              double* __restrict sum, double* __restrict squares) noexcept {
  for (std::size_t c = 0; c < channels; ++c) {
    low[c] = data[c] < low[c] ? data[c] : low[c];
    high[c] = data[c] > high[c] ? data[c] : high[c];
  }
  for (std::size_t c = 0; c < channels; ++c) {
    const double wide = data[c];
    sum[c] += wide;
    squares[c] += wide * wide;
  }
}

std::string text_of(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (const std::int64_t size : shape) text.append(text.size() > 1 ? "," : "").append(std::to_string(size));
  return text + ")";
}

}  // namespace

Status ChannelStatistics::add(DType dtype, const void* data, std::span<const std::int64_t> shape) {
  if (!is_supported(dtype)) {
    return Status(Code::kInvalidArgument, std::string("channel statistics: expected bool, integers or floats of 16 to "
                                                      "64 bits, got ") +
                                              dtype_name(dtype));
  }
  const auto rank = static_cast<std::int64_t>(shape.size());
  const std::int64_t axis = axis_ < 0 ? axis_ + rank : axis_;
  if (axis < 0 || axis >= rank) {
    return Status(Code::kInvalidArgument, "channel statistics: expected a shape with an axis " + std::to_string(axis_) +
                                              ", got " + text_of(shape));
  }
  std::size_t outer = 1, inner = 1;
  for (std::int64_t i = 0; i < axis; ++i) outer *= static_cast<std::size_t>(shape[static_cast<std::size_t>(i)]);
  for (std::int64_t i = axis + 1; i < rank; ++i) inner *= static_cast<std::size_t>(shape[static_cast<std::size_t>(i)]);
  const auto channels = static_cast<std::size_t>(shape[static_cast<std::size_t>(axis)]);
  if (started_ && channels != low_.size()) {
    return Status(Code::kInvalidArgument, "channel statistics: expected " + std::to_string(low_.size()) +
                                              " channels on axis " + std::to_string(axis_) + " as before, got shape " +
                                              text_of(shape));
  }
  if (!started_) {
    low_.assign(channels, kInfinity);
    high_.assign(channels, -kInfinity);
    sum_.assign(channels, 0.0);
    squares_.assign(channels, 0.0);
    started_ = true;
  }
  const std::size_t slab = channels * inner;
  if (slab == 0) return Status();
  std::vector<float> converted(dtype == EB_FLOAT32 ? 0 : slab);
  for (std::size_t i = 0; i < outer; ++i) {
    if (dtype == EB_FLOAT32) {
      add_slab(static_cast<const float*>(data) + i * slab, inner);
    } else {
      to_float32(dtype, data, i * slab, slab, converted.data());
      add_slab(converted.data(), inner);
    }
  }
  count_ += outer * inner;
  return Status();
}

void ChannelStatistics::add_slab(const float* data, std::size_t inner) {
  if (inner == 1) return take_row(data, low_.size(), low_.data(), high_.data(), sum_.data(), squares_.data());
  for (std::size_t c = 0; c < low_.size(); ++c) {
    const Moments moments = run_of(data + c * inner, inner);
    low_[c] = std::min(low_[c], moments.low);
    high_[c] = std::max(high_[c], moments.high);
    sum_[c] += moments.sum;
    squares_[c] += moments.squares;
  }
}

Status ChannelStatistics::merge(const ChannelStatistics& other) {
  if (!other.started_) return Status();
  if (axis_ != other.axis_ || (started_ && low_.size() != other.low_.size())) {
    return Status(Code::kInvalidArgument, "channel statistics: expected " + std::to_string(low_.size()) +
                                              " channels on axis " + std::to_string(axis_) + ", got " +
                                              std::to_string(other.low_.size()) + " on axis " +
                                              std::to_string(other.axis_));
  }
  if (!started_) {
    *this = other;
    return Status();
  }
  count_ += other.count_;
  for (std::size_t c = 0; c < low_.size(); ++c) {
    low_[c] = std::min(low_[c], other.low_[c]);
    high_[c] = std::max(high_[c], other.high_[c]);
    sum_[c] += other.sum_[c];
    squares_[c] += other.squares_[c];
  }
  return Status();
}

}  // namespace edgebuild::statistics
