// Outputs of repeated inferences, bound once.

#ifndef EDGEBUILD_APPS_EDGERUN_BOUND_OUTPUTS_HPP_
#define EDGEBUILD_APPS_EDGERUN_BOUND_OUTPUTS_HPP_

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "edgebuild/runner.hpp"

namespace edgerun {

/// Outputs bound to memory of the sizes that a first run gave; what is no plain tensor is allocated by the backend
/// anew.
class BoundOutputs {
 public:
  using Value = edgebuild::Value;

  explicit BoundOutputs(std::span<const Value> first) {
    for (const Value& value : first) {
      const bool plain = value.kind() == EB_KIND_TENSOR && value.dtype() != EB_STRING && value.byte_size() > 0;
      bound_.push_back(plain);
      const std::size_t words = plain ? (value.byte_size() + sizeof(Block) - 1) / sizeof(Block) : 0;
      memory_.push_back(plain ? std::make_unique<Block[]>(words) : nullptr);
      values_.push_back(plain ? Value::bound(memory_.back().get(), words * sizeof(Block)) : Value());
    }
  }

  /// For the next run.
  std::span<Value> prepare() {
    for (std::size_t i = 0; i < values_.size(); ++i) {
      if (!bound_[i]) values_[i] = Value();
    }
    return values_;
  }

 private:
  struct alignas(64) Block {
    std::byte bytes[64];
  };
  std::vector<bool> bound_;
  std::vector<std::unique_ptr<Block[]>> memory_;
  std::vector<Value> values_;
};

}  // namespace edgerun

#endif  // EDGEBUILD_APPS_EDGERUN_BOUND_OUTPUTS_HPP_
