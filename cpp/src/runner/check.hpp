// Whether values fit a signature. Everything that a caller can get wrong is caught here, before an engine sees it.

#ifndef EDGEBUILD_SRC_RUNNER_CHECK_HPP_
#define EDGEBUILD_SRC_RUNNER_CHECK_HPP_

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "edgebuild/signature.hpp"
#include "edgebuild/status.hpp"

namespace edgebuild::runner {

/// Bytes that a tensor needs; nothing if rank, a size or the product is impossible.
[[nodiscard]] std::optional<std::uint64_t> tensor_byte_size(const eb_value& value) noexcept;

/// "[1,3,224,224]".
[[nodiscard]] std::string shape_text(std::span<const std::int64_t> shape);

/// A signature made ready for checking without allocation. Immutable; any number of threads.
class SignatureChecker {
 public:
  explicit SignatureChecker(const Signature& signature);

  /// Numbers of the symbols in one run; -1: not seen yet. One a caller, reused.
  using SymbolSizes = std::vector<std::int64_t>;
  [[nodiscard]] SymbolSizes make_symbol_sizes() const { return SymbolSizes(symbols_.size(), -1); }

  /// Checks count, kind, dtype, rank, sizes (numbers, and symbols across all inputs and within their ranges), bytes,
  /// alignment and null pointers. The bytes of bool tensors are not looked at: they must be 0 or 1.
  ///
  /// @return kInvalidArgument, naming the tensor, what was expected and what came.
  Status check_inputs(std::span<const eb_value> inputs, SymbolSizes& sizes) const;
  /// Checks count, kind, alignment and null pointers.
  Status check_outputs(std::span<const eb_value> outputs) const;

 private:
  struct Axis {
    std::int64_t fixed = -1;  ///< -1: not a number.
    int symbol = -1;          ///< Index into symbols_; -1: none.
  };
  struct Type {
    eb_kind kind = EB_KIND_TENSOR;
    DType dtype = EB_DTYPE_UNDEFINED;
    bool any_rank = true;
    std::vector<Axis> shape;
    int element = -1;  ///< Index into types_.
  };
  struct Symbol {
    std::string name;
    SymbolRange range;
  };
  struct Port {
    std::string name;
    std::string text;  ///< The type, as in messages.
    int type = -1;
  };

  int add_type(const TypeSpec& spec, const Signature& signature);
  int symbol_index(const std::string& name, const Signature& signature);
  bool accepts(int type, const eb_value& value, SymbolSizes& sizes, std::string* reason) const;
  bool accepts_tensor(const Type& type, const eb_value& value, SymbolSizes& sizes, std::string* reason) const;
  bool accepts_axis(const Axis& axis, std::size_t index, std::int64_t size, SymbolSizes& sizes,
                    std::string* reason) const;

  std::vector<Type> types_;
  std::vector<Symbol> symbols_;
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
};

}  // namespace edgebuild::runner

#endif  // EDGEBUILD_SRC_RUNNER_CHECK_HPP_
