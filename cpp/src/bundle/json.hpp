// The strict JSON of docs/bundle-format.md, as a compact tree that is read once and dropped.

#ifndef EDGEBUILD_SRC_BUNDLE_JSON_HPP_
#define EDGEBUILD_SRC_BUNDLE_JSON_HPP_

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "edgebuild/status.hpp"

namespace edgebuild::bundle::json {

inline constexpr std::size_t kMaxBytes = std::size_t{16} << 20;
inline constexpr std::size_t kMaxDepth = 32;        ///< Arrays and objects around a value, the top one included.
inline constexpr std::size_t kMaxValues = 1000000;  ///< Scalars, arrays and objects; keys do not count.
inline constexpr std::int64_t kMaxInteger = (std::int64_t{1} << 53) - 1;

enum class Kind : std::uint8_t { kNull, kBool, kInteger, kReal, kString, kArray, kObject };

/// "null", "a bool", "an integer" … for messages.
[[nodiscard]] const char* kind_name(Kind kind) noexcept;

/// `text` in single quotes, shortened, control characters and bytes beyond ASCII as \xNN: fit for one line of a
/// terminal.
[[nodiscard]] std::string in_quotes(std::string_view text);

/// A parsed text. Nodes are addressed by index; node 0 is the whole.
class Document {
 public:
  struct Slice {
    std::uint32_t offset;
    std::uint32_t size;
  };
  struct Children {
    std::uint32_t first;  ///< 0: none.
    std::uint32_t count;
  };
  struct Node {
    Kind kind = Kind::kNull;
    std::uint32_t parent = 0;
    std::uint32_t next = 0;  ///< The next sibling; 0: none (node 0 is nobody's sibling).
    std::uint32_t key_offset = 0;
    std::uint32_t key_size = 0;
    union {
      std::int64_t integer;  ///< Also a bool's 0 or 1.
      double real;
      Slice string;
      Children children;
    };
    Node() noexcept : integer(0) {}
  };

  [[nodiscard]] const Node& node(std::uint32_t index) const noexcept { return nodes_[index]; }
  [[nodiscard]] std::string_view text(std::uint32_t offset, std::uint32_t size) const noexcept {
    return std::string_view(strings_).substr(offset, size);
  }

 private:
  friend class Builder;
  std::vector<Node> nodes_;
  std::string strings_;
};

/// One value of a Document; cheap to copy, valid as long as the Document.
class Value {
 public:
  Value(const Document& document, std::uint32_t index) noexcept : document_(&document), index_(index) {}

  [[nodiscard]] Kind kind() const noexcept { return node().kind; }
  [[nodiscard]] bool is(Kind kind) const noexcept { return node().kind == kind; }
  [[nodiscard]] bool boolean() const noexcept { return node().integer != 0; }
  [[nodiscard]] std::int64_t integer() const noexcept { return node().integer; }
  [[nodiscard]] double real() const noexcept { return node().real; }
  [[nodiscard]] std::string_view string() const noexcept {
    return document_->text(node().string.offset, node().string.size);
  }
  /// The key under which this value stands in its object.
  [[nodiscard]] std::string_view key() const noexcept { return document_->text(node().key_offset, node().key_size); }
  /// Number of items or members.
  [[nodiscard]] std::uint32_t size() const noexcept { return node().children.count; }
  /// Where this value stands, e.g. "variants[0].tolerances.y"; "the top level" for the whole.
  [[nodiscard]] std::string path() const;

  /// Iterates over items or members in the order of the text.
  class Iterator {
   public:
    Iterator(const Document& document, std::uint32_t index) noexcept : document_(&document), index_(index) {}
    Value operator*() const noexcept { return {*document_, index_}; }
    Iterator& operator++() noexcept {
      index_ = document_->node(index_).next;
      return *this;
    }
    bool operator!=(const Iterator& other) const noexcept { return index_ != other.index_; }

   private:
    const Document* document_;
    std::uint32_t index_;
  };
  [[nodiscard]] Iterator begin() const noexcept { return {*document_, node().children.first}; }
  [[nodiscard]] Iterator end() const noexcept { return {*document_, 0}; }

 private:
  [[nodiscard]] const Document::Node& node() const noexcept { return document_->node(index_); }
  const Document* document_;
  std::uint32_t index_;
};

/// Parses a text.
///
/// @return kCorrupt, with line and column (syntax) or the path of the value (duplicate key, ranges, limits).
[[nodiscard]] Result<Document> parse(std::string_view text);

/// The value as JSON without any space, members in the order of the text.
[[nodiscard]] std::string compact(const Value& value);

}  // namespace edgebuild::bundle::json

#endif  // EDGEBUILD_SRC_BUNDLE_JSON_HPP_
