#include "npy.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>

#include "edgebuild/backend_plugin.h"

static_assert(std::endian::native == std::endian::little, "edgerun's array files need a little-endian machine");

namespace edgerun {
namespace {

using edgebuild::Code;
using edgebuild::Result;
using edgebuild::Status;

constexpr std::string_view kMagic("\x93NUMPY", 6);
// Far above what a header of EB_MAX_RANK dimensions needs, far below what would hurt.
constexpr std::size_t kMaxHeader = 65536;

struct Header {
  char order = '|';
  NpyType type;
  bool fortran = false;
  std::vector<std::int64_t> shape;
};

// Reads the Python dictionary literal of a header: exactly the keys descr, fortran_order and shape, in any order.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : rest_(text) {}

  // Nothing if it parsed, else what was expected.
  std::optional<std::string> parse(Header& header) {
    if (!take('{')) return expected("'{'");
    bool have[3] = {false, false, false};
    while (!take('}')) {
      std::string key;
      if (!take_string(key)) return expected("a quoted key");
      if (!take(':')) return expected("':'");
      const int index = key == "descr" ? 0 : key == "fortran_order" ? 1 : key == "shape" ? 2 : -1;
      if (index < 0) return "has the unknown key '" + key + "'";
      if (have[index]) return "has the key '" + key + "' twice";
      have[index] = true;
      std::optional<std::string> error;
      if (index == 0) error = parse_descr(header);
      if (index == 1 && !take_bool(header.fortran)) error = expected("True or False after 'fortran_order'");
      if (index == 2) error = parse_shape(header.shape);
      if (error) return error;
      if (!take(',')) {
        if (!take('}')) return expected("',' or '}'");
        break;
      }
    }
    for (int i = 0; i < 3; ++i) {
      static constexpr const char* kKeys[] = {"descr", "fortran_order", "shape"};
      if (!have[i]) return std::string("lacks the key '") + kKeys[i] + "'";
    }
    skip_space();
    if (!rest_.empty()) return expected("nothing after the dictionary");
    return std::nullopt;
  }

 private:
  static std::string expected(const char* what) { return std::string("is malformed: expected ") + what; }

  void skip_space() {
    while (!rest_.empty() && (rest_.front() == ' ' || rest_.front() == '\n' || rest_.front() == '\t')) {
      rest_.remove_prefix(1);
    }
  }

  bool take(char c) {
    skip_space();
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }

  bool take_word(std::string_view word) {
    skip_space();
    if (!rest_.starts_with(word)) return false;
    rest_.remove_prefix(word.size());
    return true;
  }

  bool take_bool(bool& flag) {
    if (take_word("True")) {
      flag = true;
      return true;
    }
    flag = false;
    return take_word("False");
  }

  // Without escapes: no key and no description of ours needs one.
  bool take_string(std::string& text) {
    skip_space();
    if (rest_.empty() || (rest_.front() != '\'' && rest_.front() != '"')) return false;
    const std::size_t end = rest_.find(rest_.front(), 1);
    if (end == std::string_view::npos) return false;
    text = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return text.find('\\') == std::string::npos;
  }

  bool take_number(std::int64_t& number) {
    skip_space();
    std::size_t digits = 0;
    number = 0;
    while (digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9') {
      if (++digits > 18) return false;
      number = number * 10 + (rest_[digits - 1] - '0');
    }
    if (digits == 0) return false;
    rest_.remove_prefix(digits);
    take_word("L");  // Python 2 wrote 3L
    return true;
  }

  std::optional<std::string> parse_descr(Header& header) {
    std::string descr;
    if (!take_string(descr)) {
      return "describes a dtype with fields; expected one of numbers, bools or text (save each field as its own array)";
    }
    if (descr.find('O') != std::string::npos) {
      return "holds Python objects ('" + descr + "'), which only Python can read; for text use a dtype such as 'U16'";
    }
    const auto unknown = [&] {
      return "has the dtype '" + descr +
             "'; expected one of bool, int, uint, float16 to float64, complex, S, U, V1 or V2";
    };
    if (descr.size() < 3 || std::string_view("<>|=").find(descr[0]) == std::string_view::npos) return unknown();
    header.order = descr[0] == '=' ? '<' : descr[0];
    header.type.kind = descr[1];
    std::uint64_t size = 0;
    for (std::size_t i = 2; i < descr.size(); ++i) {
      if (descr[i] < '0' || descr[i] > '9' || size > (1U << 26)) return unknown();
      size = size * 10 + static_cast<std::uint64_t>(descr[i] - '0');
    }
    switch (header.type.kind) {
      case 'b':
        if (size != 1) return unknown();
        break;
      case 'i':
      case 'u':
        if (size != 1 && size != 2 && size != 4 && size != 8) return unknown();
        break;
      case 'f':  // f1: an 8-bit float of ml_dtypes
        if (size != 1 && size != 2 && size != 4 && size != 8) return unknown();
        break;
      case 'c':
        if (size != 8 && size != 16) return unknown();
        break;
      case 'V':
        if (size != 1 && size != 2) return unknown();
        break;
      case 'S':
        break;
      case 'U':
        size *= 4;
        break;
      default:
        return unknown();
    }
    header.type.item_size = static_cast<std::uint32_t>(size);
    return std::nullopt;
  }

  std::optional<std::string> parse_shape(std::vector<std::int64_t>& shape) {
    if (!take('(')) return expected("a tuple after 'shape'");
    bool comma = true;
    while (!take(')')) {
      if (!comma) return expected("',' or ')' in 'shape'");
      if (shape.size() == EB_MAX_RANK) return "has more than " + std::to_string(EB_MAX_RANK) + " dimensions";
      std::int64_t size = 0;
      if (!take_number(size)) return expected("sizes from 0 to 999999999999999999 in 'shape'");
      shape.push_back(size);
      comma = take(',');
    }
    if (shape.size() == 1 && !comma) return expected("',' after the only size of 'shape'");
    return std::nullopt;
  }

  std::string_view rest_;
};

// Bytes of the array; nothing if they do not fit the address space.
std::optional<std::size_t> byte_size(const Header& header) {
  std::size_t total = header.type.item_size;
  bool zero = total == 0;
  for (const std::int64_t size : header.shape) zero = zero || size == 0;
  if (zero) return 0;
  for (const std::int64_t size : header.shape) {
    if (static_cast<std::uint64_t>(size) > static_cast<std::uint64_t>(PTRDIFF_MAX) / total) return std::nullopt;
    total *= static_cast<std::size_t>(size);
  }
  return total;
}

// Bytes that are swapped together: a half of a complex, a character of a text.
std::size_t unit_size(const NpyType& type) {
  if (type.kind == 'c') return type.item_size / 2;
  if (type.kind == 'U') return 4;
  if (type.kind == 'S') return 1;
  return type.item_size;
}

void swap_bytes(std::span<std::byte> data, std::size_t unit) {
  for (std::size_t i = 0; i + unit <= data.size(); i += unit) {
    std::reverse(data.begin() + static_cast<std::ptrdiff_t>(i), data.begin() + static_cast<std::ptrdiff_t>(i + unit));
  }
}

// Copies from column-major to row-major order: walks the target, keeping the source's offset by an odometer.
void reorder(const std::byte* source, std::byte* target, const Header& header, std::size_t bytes) {
  const std::size_t item = header.type.item_size;
  const std::size_t rank = header.shape.size();
  std::array<std::size_t, EB_MAX_RANK> stride{};
  std::size_t step = item;
  for (std::size_t axis = 0; axis < rank; ++axis) {
    stride[axis] = step;
    step *= static_cast<std::size_t>(header.shape[axis]);
  }
  std::array<std::int64_t, EB_MAX_RANK> index{};
  std::size_t offset = 0;
  for (std::size_t done = 0; done < bytes; done += item) {
    std::memcpy(target + done, source + offset, item);
    for (std::size_t axis = rank; axis-- > 0;) {
      offset += stride[axis];
      if (++index[axis] < header.shape[axis]) break;
      offset -= stride[axis] * static_cast<std::size_t>(header.shape[axis]);
      index[axis] = 0;
    }
  }
}

}  // namespace

std::string to_string(const NpyType& type) {
  return type.kind + std::to_string(type.kind == 'U' ? type.item_size / 4 : type.item_size);
}

Result<NpyArray> parse_npy(std::span<const std::byte> file, std::string_view where) {
  const auto error = [&](const std::string& what) {
    return Status(Code::kInvalidArgument, std::string(where) + ": " + what);
  };
  const auto* bytes = reinterpret_cast<const char*>(file.data());
  if (file.size() < 10 || std::string_view(bytes, 6) != kMagic) {
    return error("not a .npy file: it does not begin with NumPy's magic bytes");
  }
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(file[i]); };
  const std::size_t major = byte(6);
  if (major < 1 || major > 3 || byte(7) != 0) {
    return error(".npy version " + std::to_string(major) + "." + std::to_string(byte(7)) +
                 " is unknown; expected 1.0 to 3.0");
  }
  const std::size_t prefix = major == 1 ? 10 : 12;
  if (file.size() < prefix) return error("the .npy file is truncated within its header");
  std::size_t length = byte(8) | byte(9) << 8U;
  if (major > 1) length |= byte(10) << 16U | byte(11) << 24U;
  if (length > kMaxHeader)
    return error("the .npy header has " + std::to_string(length) + " bytes; expected at most 65536");
  if (length > file.size() - prefix) return error("the .npy file is truncated within its header");

  Header header;
  if (const auto wrong = HeaderParser(std::string_view(bytes + prefix, length)).parse(header)) {
    return error("the .npy header " + *wrong);
  }
  const auto expected = byte_size(header);
  if (!expected) return error("the .npy header's shape and dtype need more bytes than a machine can address");
  const std::span<const std::byte> data = file.subspan(prefix + length);
  if (data.size() != *expected) {
    return error("the .npy file holds " + std::to_string(data.size()) + " bytes of data; its header needs " +
                 std::to_string(*expected));
  }

  NpyArray array;
  array.type = header.type;
  const std::size_t unit = unit_size(header.type);
  const bool reordered = header.fortran && header.shape.size() > 1;
  const bool swapped = header.order == '>' && unit > 1;
  const std::size_t alignment = header.type.kind == 'U' || header.type.kind == 'S' ? unit : header.type.item_size;
  const bool aligned = reinterpret_cast<std::uintptr_t>(data.data()) % alignment == 0;
  if (reordered || swapped || !aligned) {
    array.storage.resize(*expected);
    if (reordered) {
      reorder(data.data(), array.storage.data(), header, *expected);
    } else {
      std::copy(data.begin(), data.end(), array.storage.begin());
    }
    if (swapped) swap_bytes(array.storage, unit);
    array.data = array.storage;
  } else {
    array.data = data;
  }
  array.shape = std::move(header.shape);
  if (array.type.kind == 'b' &&
      std::any_of(array.data.begin(), array.data.end(), [](std::byte b) { return b > std::byte{1}; })) {
    return error("a bool of the .npy file is neither 0 nor 1");
  }
  return array;
}

std::string npy_header(const NpyType& type, std::span<const std::int64_t> shape) {
  const bool bytewise = type.item_size == 1 || type.kind == 'S';
  std::string dictionary = "{'descr': '";
  dictionary += bytewise ? '|' : '<';
  dictionary += to_string(type) + "', 'fortran_order': False, 'shape': (";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) dictionary += ", ";
    dictionary += std::to_string(shape[i]);
  }
  if (shape.size() == 1) dictionary += ',';
  dictionary += "), }";
  // NumPy leaves room so that the first size can grow to 21 digits in place, then pads to 64 bytes.
  if (!shape.empty()) dictionary.append(21 - std::to_string(shape[0]).size(), ' ');
  constexpr std::size_t kPrefix = 10;
  const std::size_t padding = (64 - (kPrefix + dictionary.size() + 1) % 64) % 64;
  dictionary.append(padding, ' ');
  dictionary += '\n';
  std::string header(kMagic);
  header += '\x01';
  header += '\x00';
  header += static_cast<char>(dictionary.size() & 0xFFU);
  header += static_cast<char>(dictionary.size() >> 8U);
  return header + dictionary;
}

}  // namespace edgerun
