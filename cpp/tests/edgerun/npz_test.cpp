#include "npz.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <random>
#include <string>

#include "crc32.hpp"

using edgerun::NpzWriter;
using edgerun::parse_npz;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::string archive(std::uint64_t zip64_threshold = 0xFFFFFFFF, std::size_t members = 3) {
  std::string bytes;
  NpzWriter writer(
      [&](std::span<const std::byte> part) {
        bytes.append(reinterpret_cast<const char*>(part.data()), part.size());
        return edgebuild::Status();
      },
      zip64_threshold);
  for (std::size_t i = 0; i < members; ++i) {
    const std::int64_t shape[] = {static_cast<std::int64_t>(i), 5};
    REQUIRE(
        writer.add("array/" + std::to_string(i), {'u', 1}, shape, bytes_of(std::string(i * 5, static_cast<char>(i))))
            .ok());
  }
  REQUIRE(writer.finish().ok());
  return bytes;
}

}  // namespace

TEST_CASE("the CRC is that of zip") {
  CHECK(edgerun::crc32(bytes_of("123456789")) == 0xCBF43926U);
  const std::string text = "The quick brown fox jumps over the lazy dog";
  CHECK(edgerun::crc32(bytes_of(text)) == 0x414FA339U);
  CHECK(edgerun::crc32(bytes_of(text.substr(7)), edgerun::crc32(bytes_of(text.substr(0, 7)))) == 0x414FA339U);
}

TEST_CASE("what is written reads back, in order, with and without zip64") {
  for (const std::uint64_t threshold : {std::uint64_t{0xFFFFFFFF}, std::uint64_t{1}, std::uint64_t{200}}) {
    const std::string bytes = archive(threshold);
    auto arrays = parse_npz(bytes_of(bytes), "x.npz");
    REQUIRE_MESSAGE(arrays.ok(), arrays.status().message());
    REQUIRE(arrays.value().size() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
      const auto& [key, array] = arrays.value()[i];
      CHECK(key == "array/" + std::to_string(i));
      CHECK(array.shape == std::vector<std::int64_t>{static_cast<std::int64_t>(i), 5});
      CHECK(array.data.size() == i * 5);
    }
  }
}

TEST_CASE("an archive without members is empty") {
  const std::string bytes = archive(0xFFFFFFFF, 0);
  auto arrays = parse_npz(bytes_of(bytes), "x.npz");
  REQUIRE(arrays.ok());
  CHECK(arrays.value().empty());
}

TEST_CASE("no prefix of an archive reads") {
  const std::string bytes = archive();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    CHECK_FALSE(parse_npz(bytes_of(bytes.substr(0, size)), "x.npz").ok());
  }
}

TEST_CASE("a flipped bit never changes an array silently") {
  const std::string original = archive();
  auto reference = parse_npz(bytes_of(original), "x.npz");
  REQUIRE(reference.ok());
  for (std::size_t bit = 0; bit < original.size() * 8; ++bit) {
    std::string bytes = original;
    bytes[bit / 8] = static_cast<char>(static_cast<unsigned char>(bytes[bit / 8]) ^ (1U << (bit % 8)));
    auto arrays = parse_npz(bytes_of(bytes), "x.npz");
    if (!arrays.ok()) continue;  // times, versions and attributes may change
    REQUIRE(arrays.value().size() == 3);
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(arrays.value()[i].first == reference.value()[i].first);
      CHECK(std::memcmp(arrays.value()[i].second.data.data(), reference.value()[i].second.data.data(), i * 5) == 0);
    }
  }
}

TEST_CASE("random bytes in random places never crash the reader") {
  std::mt19937 random(20261122);
  const std::string original = archive(200);
  for (int round = 0; round < 20000; ++round) {
    std::string bytes = original;
    for (int i = 0; i < 3; ++i) bytes[random() % bytes.size()] = static_cast<char>(random());
    static_cast<void>(parse_npz(bytes_of(bytes), "x.npz").ok());
  }
}
