#include "npy.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <string>

using edgerun::NpyArray;
using edgerun::NpyType;
using edgerun::parse_npy;

namespace {

std::span<const std::byte> as_bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string file(const std::string& dictionary, const std::string& data, int major = 1) {
  std::string text = std::string("\x93NUMPY", 6) + static_cast<char>(major) + '\0';
  text += static_cast<char>(dictionary.size() & 0xFFU);
  text += static_cast<char>(dictionary.size() >> 8U);
  if (major > 1) text += std::string(2, '\0');
  return text + dictionary + data;
}

std::string message(const std::string& bytes) {
  const auto array = parse_npy(as_bytes(bytes), "x.npy");
  REQUIRE_FALSE(array.ok());
  CHECK(array.status().code() == edgebuild::Code::kInvalidArgument);
  CHECK(array.status().message().starts_with("x.npy: "));
  return array.status().message();
}

}  // namespace

TEST_CASE("a header is what NumPy writes") {
  // numpy.save of zeros((2, 3), float32)
  const std::int64_t shape[] = {2, 3};
  const std::string header = edgerun::npy_header({'f', 4}, shape);
  CHECK(header.size() == 128);
  CHECK(header.substr(0, 10) == std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  CHECK(header.substr(10, 60) == "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), } ");
  CHECK(header.back() == '\n');
}

TEST_CASE("every version reads") {
  for (const int major : {1, 2, 3}) {
    const std::string bytes = file("{'descr': '<u2', 'fortran_order': False, 'shape': (2,), }\n", "abcd", major);
    auto array = parse_npy(as_bytes(bytes), "x");
    REQUIRE(array.ok());
    CHECK(array.value().shape == std::vector<std::int64_t>{2});
    CHECK(std::memcmp(array.value().data.data(), "abcd", 4) == 0);
  }
}

TEST_CASE("big endian and column-major data are converted") {
  const std::string bytes =
      file("{'descr': '>u2', 'fortran_order': True, 'shape': (2, 3)}", std::string("\0\1\0\4\0\2\0\5\0\3\0\6", 12));
  auto array = parse_npy(as_bytes(bytes), "x");
  REQUIRE(array.ok());
  const std::uint16_t expected[] = {1, 2, 3, 4, 5, 6};
  CHECK(std::memcmp(array.value().data.data(), expected, sizeof expected) == 0);
}

TEST_CASE("both halves of a complex are swapped alone") {
  std::string data("\x3F\x80\0\0\x40\0\0\0", 8);  // 1 + 2j
  const std::string bytes = file("{'descr': '>c8', 'fortran_order': False, 'shape': ()}", data);
  auto array = parse_npy(as_bytes(bytes), "x");
  REQUIRE(array.ok());
  const float expected[] = {1.0F, 2.0F};
  CHECK(std::memcmp(array.value().data.data(), expected, sizeof expected) == 0);
}

TEST_CASE("aligned data is not copied") {
  alignas(64) static char buffer[256];
  const std::int64_t shape[] = {4};
  const std::string header = edgerun::npy_header({'f', 4}, shape);
  std::memcpy(buffer, header.data(), header.size());
  const std::span<const std::byte> whole = std::as_bytes(std::span(buffer, header.size() + 16));
  auto array = parse_npy(whole, "x");
  REQUIRE(array.ok());
  CHECK(array.value().data.data() == whole.data() + header.size());
}

TEST_CASE("malformed headers are refused, saying what is wrong") {
  const std::string ok = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
  CHECK(message("").find("magic") != std::string::npos);
  CHECK(message("\x93NUMPX\x01\x01\x01\x01").find("magic") != std::string::npos);
  CHECK(message(file(ok, "abcd", 4)).find("version 4.0") != std::string::npos);
  CHECK(message(file(ok, "abcd").substr(0, 30)).find("truncated") != std::string::npos);
  CHECK(message(file(ok, "abc")).find("3 bytes of data; its header needs 4") != std::string::npos);
  CHECK(message(file(ok, "abcde")).find("5 bytes") != std::string::npos);
  CHECK(message(file("{'descr': '<f4', 'shape': (1,)}", "abcd")).find("lacks the key 'fortran_order'") !=
        std::string::npos);
  CHECK(message(file("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "abcd")).find("objects") !=
        std::string::npos);
  CHECK(message(file("{'descr': '<f16', 'fortran_order': False, 'shape': (1,)}", "abcd")).find("'<f16'") !=
        std::string::npos);
  CHECK(message(file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", "abcd")).find("fields") !=
        std::string::npos);
  CHECK(
      message(file("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", "abcd")).find("twice") !=
      std::string::npos);
  CHECK(message(file("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", "abcd")).find("sizes") !=
        std::string::npos);
  CHECK(message(file("{'descr': '<f4', 'fortran_order': False, 'shape': (1)}", "abcd")).find("','") !=
        std::string::npos);
  CHECK(message(file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} 1", "abcd")).find("nothing after") !=
        std::string::npos);
  CHECK(message(file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "abcd"))
            .find("unknown key 'x'") != std::string::npos);
  CHECK(message(file("{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999, 999999999999)}", "abcd"))
            .find("address") != std::string::npos);
  CHECK(message(file("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}", std::string("\1\2"))).find("bool") !=
        std::string::npos);
}

TEST_CASE("an overflowing shape with a zero in it is empty") {
  const std::string bytes =
      file("{'descr': '<f8', 'fortran_order': True, 'shape': (999999999999, 0, 999999999999)}", "");
  auto array = parse_npy(as_bytes(bytes), "x");
  REQUIRE(array.ok());
  CHECK(array.value().data.empty());
}

TEST_CASE("no prefix of a file reads") {
  const std::int64_t shape[] = {3};
  const std::string bytes = edgerun::npy_header({'i', 8}, shape) + std::string(24, 'x');
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    CHECK_FALSE(parse_npy(as_bytes(bytes.substr(0, size)), "x").ok());
  }
}
