#include "arrays.hpp"

#include <doctest/doctest.h>

#include <cstring>

#include "packing.hpp"

using edgerun::NpyArray;
using edgerun::NpyType;
using edgerun::Storage;

namespace {

NpyArray array_of(NpyType type, std::vector<std::int64_t> shape, const std::string& data) {
  NpyArray array;
  array.type = type;
  array.shape = std::move(shape);
  array.storage.resize(data.size());
  if (!data.empty()) std::memcpy(array.storage.data(), data.data(), data.size());
  array.data = array.storage;
  return array;
}

}  // namespace

TEST_CASE("elements of 4 and 2 bits pack lowest first and ignore their sign's copies") {
  const std::byte nibbles[] = {std::byte{0x01}, std::byte{0xF2}, std::byte{0x0F}};
  const auto packed = edgebuild::pack(nibbles, 4);
  REQUIRE(packed.size() == 2);
  CHECK(packed[0] == std::byte{0x21});
  CHECK(packed[1] == std::byte{0x0F});
  const std::byte pairs[] = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{0}, std::byte{1}};
  const auto dense = edgebuild::pack(pairs, 2);
  REQUIRE(dense.size() == 2);
  CHECK(dense[0] == std::byte{0x39});
  CHECK(dense[1] == std::byte{0x01});
  std::vector<std::byte> back(5);
  edgebuild::unpack(dense.data(), 2, back);
  CHECK(std::memcmp(back.data(), pairs, 5) == 0);
}

TEST_CASE("a wrong dtype is named with what was expected") {
  Storage storage;
  const auto value = edgerun::value_from_array(array_of({'i', 8}, {1}, std::string(8, '\0')), EB_FLOAT32, "x", storage);
  REQUIRE_FALSE(value.ok());
  CHECK(value.status().code() == edgebuild::Code::kInvalidArgument);
  CHECK(value.status().message() ==
        "input 'x': expected dtype float32, got int64; convert it, in NumPy with astype('float32')");
}

TEST_CASE("bfloat16 travels as uint16 and a real uint16 tensor refuses nothing of it") {
  Storage storage;
  CHECK(edgerun::value_from_array(array_of({'u', 2}, {2}, "abcd"), EB_BFLOAT16, "x", storage).ok());
  CHECK(edgerun::value_from_array(array_of({'V', 2}, {2}, "abcd"), EB_BFLOAT16, "x", storage).ok());
  CHECK_FALSE(edgerun::value_from_array(array_of({'f', 2}, {2}, "abcd"), EB_BFLOAT16, "x", storage).ok());
  CHECK_FALSE(edgerun::value_from_array(array_of({'V', 2}, {2}, "abcd"), EB_UINT16, "x", storage).ok());
}

TEST_CASE("text survives the way in and out") {
  Storage storage;
  const std::u32string text = U"aé\U0001F600";
  std::string data(24, '\0');
  std::memcpy(data.data(), text.data(), 12);
  auto value = edgerun::value_from_array(array_of({'U', 12}, {2}, data), EB_STRING, "x", storage);
  REQUIRE(value.ok());
  const NpyArray back = edgerun::array_from_tensor(value.value().raw());
  CHECK(back.type == NpyType{'U', 12});
  CHECK(back.shape == std::vector<std::int64_t>{2});
  CHECK(std::memcmp(back.data.data(), data.data(), 24) == 0);
}

TEST_CASE("raw strings with lengths that lie are refused") {
  const std::int64_t shape[] = {2};
  const std::string good("\1\0\0\0a\0\0\0\0", 9);
  const auto bytes = [](const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); };
  CHECK(edgerun::value_from_raw(bytes(good), EB_STRING, shape, "x").ok());
  CHECK_FALSE(edgerun::value_from_raw(bytes(good + "x"), EB_STRING, shape, "x").ok());
  CHECK_FALSE(edgerun::value_from_raw(bytes(good.substr(0, 8)), EB_STRING, shape, "x").ok());
  CHECK_FALSE(edgerun::value_from_raw(bytes(std::string("\xFF\xFF\xFF\xFF", 4) + "abcd"), EB_STRING, shape, "x").ok());
}

TEST_CASE("a raw bool that is neither 0 nor 1 is refused, as one of a .npy file is") {
  const std::int64_t shape[] = {3};
  const auto bytes = [](const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); };
  CHECK(edgerun::value_from_raw(bytes(std::string("\1\0\1", 3)), EB_BOOL, shape, "x").ok());
  const auto value = edgerun::value_from_raw(bytes(std::string("\1\0\2", 3)), EB_BOOL, shape, "x");
  REQUIRE_FALSE(value.ok());
  CHECK(value.status().code() == edgebuild::Code::kInvalidArgument);
  CHECK(value.status().message() == "input 'x': byte 2 is 2; a bool is 0 or 1");
}
